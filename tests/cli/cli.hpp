#pragma once

/// \file
/// Runs the program as a user runs it.

#include <gtest/gtest.h>

#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/support.hpp"

namespace krait {

using nlohmann::json;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class Cli : public testing::Test {
 protected:
  // Runs a shell command; `arguments` are written as in a shell.
  Outcome shell(const std::string& command) {
    const std::string err = (directory_.path() / "stderr").string();
    std::FILE* pipe = popen(("(" + command + ") 2>'" + err + "'").c_str(), "r");
    Outcome outcome;
    char buffer[4096];
    for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
      outcome.out.append(buffer, n);
    }
    const int status = pclose(pipe);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.err = test::read_file(err);
    return outcome;
  }
  Outcome krait(const std::string& arguments) {
    return shell(std::string(KRAIT_PROGRAM) + " " + arguments);
  }
  json krait_json(const std::string& arguments) {
    const Outcome outcome = krait(arguments + " --json");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return json::parse(outcome.out, nullptr, false);
  }
  void expect_error(const std::string& arguments, int code, const std::string& part) {
    const Outcome outcome = krait(arguments);
    EXPECT_EQ(outcome.code, code) << arguments << ": " << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << arguments << ": " << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.err.substr(0, 7), "krait: ") << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    if (code == 2) {
      EXPECT_TRUE(outcome.err.ends_with(" --help)\n")) << outcome.err;
      EXPECT_NE(outcome.err.find(": expected "), std::string::npos) << outcome.err;
      EXPECT_NE(outcome.err.find(", found "), std::string::npos) << outcome.err;
    }
  }
  /// Makes a folder with a checkpoint of random weights for a config.json.
  static void write_checkpoint(const std::filesystem::path& folder, const std::string& config) {
    std::filesystem::create_directory(folder);
    Checkpoint checkpoint;
    checkpoint.config = config;
    const ModelSpec spec = read_config(checkpoint).value().spec;
    const WeightStore weights = random_weights(spec, 1, "backbone").value();
    std::vector<NamedTensor> tensors;
    for (const auto& [name, entry] : weights.entries()) tensors.push_back({name, entry.tensor});
    write_safetensors((folder / "model.safetensors").string(), tensors).value();
    test::write_file(folder / "config.json", config);
  }
  /// The tokens in a state file.
  static std::vector<Token> state_tokens(const std::string& path) {
    WeightStore store;
    const auto file = open_file(path, WeightsMode::copy);
    if (!file || !read_safetensors(*file, store) || !store.contains("tokens")) {
      ADD_FAILURE() << path;
      return {};
    }
    const TensorView tokens = store.find("tokens")->tensor;
    std::vector<Token> result(static_cast<std::size_t>(tokens.size()));
    if (!result.empty()) {
      std::memcpy(result.data(), tokens.data, result.size() * sizeof(Token));
    }
    return result;
  }
  std::string path(const char* name) const { return (directory_.path() / name).string(); }
  static std::string golden(const char* name) {
    return (test::data_dir() / "golden" / name).string();
  }

  test::TemporaryDirectory directory_;
};

}  // namespace krait
