#include "krait/loading/checkpoint.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>

#include "krait/loading/bundled_model.hpp"
#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::checkpoint_test {
namespace {

namespace fs = std::filesystem;

class OpenCheckpoint : public ::testing::Test {
 protected:
  void put(const std::string& name, std::string_view bytes) {
    test::write_file(folder_.path() / name, bytes);
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  void expect_error(const std::string& path, ErrorCode code, std::string_view part) {
    const auto result = open_checkpoint(path);
    ASSERT_FALSE(result) << part;
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
    EXPECT_NE(result.error().message.find(path), std::string::npos) << result.error().message;
    EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
  }

  std::string root() const { return folder_.path().string(); }

  test::TemporaryDirectory folder_;
};

TEST_F(OpenCheckpoint, AFolderWithSafetensors) {
  put("config.json", "{\"a\":1}");
  put("model.safetensors", test::small_safetensors());
  put("pytorch_model.bin", "never looked at");
  put("tokenizer.json", "tokens");
  put("tokenizer_config.json", "more");
  const auto checkpoint = open_checkpoint(root()).value();
  EXPECT_EQ(checkpoint.config, "{\"a\":1}");
  EXPECT_EQ(checkpoint.tokenizer, "tokens");
  EXPECT_EQ(checkpoint.tokenizer_config, "more");
  EXPECT_TRUE(checkpoint.sentencepiece.empty());
  EXPECT_EQ(checkpoint.files, std::vector{path("model.safetensors")});
  EXPECT_EQ(checkpoint.weights.size(), 2U);
}

TEST_F(OpenCheckpoint, AFolderWithAPytorchFileAndSentencePiece) {
  put("config.json", "{}");
  put("pytorch_model.bin", test::small_bin());
  put("tokenizer.model", "sentencepiece");
  const auto checkpoint = open_checkpoint(root()).value();
  EXPECT_EQ(checkpoint.weights.size(), 3U);
  EXPECT_EQ(checkpoint.sentencepiece, "sentencepiece");
  EXPECT_TRUE(checkpoint.tokenizer.empty());
}

TEST_F(OpenCheckpoint, AFileWithItsConfigurationBeside) {
  put("config.json", "{}");
  put("x.safetensors", test::small_safetensors());
  put("x.bin", test::small_bin());
  EXPECT_EQ(open_checkpoint(path("x.safetensors")).value().weights.size(), 2U);
  EXPECT_EQ(open_checkpoint(path("x.bin")).value().weights.size(), 3U);
}

TEST_F(OpenCheckpoint, AFolderWithShards) {
  put("config.json", "{}");
  put("model-1.safetensors", test::small_safetensors());
  put("model.safetensors.index.json", R"({"weight_map":{"a":"model-1.safetensors"}})");
  EXPECT_EQ(open_checkpoint(root()).value().weights.size(), 2U);
  put("model.safetensors.index.json", R"({"weight_map":{"a":"model-2.safetensors"}})");
  expect_error(root(), ErrorCode::not_found, "model-2.safetensors");
}

TEST_F(OpenCheckpoint, CopyingReportsProgress) {
  put("config.json", "{}");
  put("model.safetensors", test::small_safetensors());
  const auto stop = [](Index, Index) { return Flow::stop; };
  CheckpointOptions options{WeightsMode::copy, stop};
  EXPECT_EQ(open_checkpoint(root(), options).error().code, ErrorCode::cancelled);
}

TEST_F(OpenCheckpoint, OptionsOwnWhatTheyCall) {
  put("config.json", "{}");
  put("model.safetensors", test::small_safetensors());
  Index calls = 0;
  CheckpointOptions options;
  options.weights = WeightsMode::copy;
  {
    const std::string gone(100, 'x');  // by value, so that only an owner keeps it
    options.progress = [&calls, gone](Index, Index) {
      calls += static_cast<Index>(gone.size());
      return Flow::go_on;
    };
  }
  ASSERT_TRUE(open_checkpoint(root(), options));
  EXPECT_EQ(calls, 100);
  options.progress = nullptr;
  EXPECT_TRUE(open_checkpoint(root(), options));
}

TEST_F(OpenCheckpoint, NamesOfFilesAreCleaned) {
  const auto result = open_checkpoint(path("\x1b[31m\nabsent\xE2\x80\xAE"));
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("?[31m?absent?"), std::string::npos);
}

TEST_F(OpenCheckpoint, WhatIsMissingIsNamed) {
  expect_error(path("absent"), ErrorCode::not_found, "found none");
  expect_error(root(), ErrorCode::not_found, "model.safetensors.index.json");
  put("config.json", "{}");
  expect_error(root(), ErrorCode::not_found, "pytorch_model.bin");
  fs::remove(path("config.json"));
  put("model.safetensors", test::small_safetensors());
  expect_error(root(), ErrorCode::not_found, "expected config.json or params.json, found none");
  fs::remove(path("model.safetensors"));
  put("params.json", "{}");
  expect_error(root(), ErrorCode::not_found, "consolidated.safetensors, found none");
}

TEST_F(OpenCheckpoint, PipesAreNotWaitedFor) {
  put("model.safetensors", test::small_safetensors());
  for (const char* name : {"config.json", "tokenizer.json", "generation_config.json"}) {
    ASSERT_EQ(::mkfifo(path(name).c_str(), 0600), 0);
    expect_error(root(), ErrorCode::io_failed, "expected a regular file, found a device or pipe");
    fs::remove(path(name));
    put(name, "{}");
  }
}

TEST_F(OpenCheckpoint, OtherFormatsAreNamed) {
  put("model.gguf", "GGUF");
  expect_error(path("model.gguf"), ErrorCode::bad_format, "version: expected 4 more bytes");
  expect_error(root(), ErrorCode::unsupported, "GGUF");
  put("x.txt", "text");
  expect_error(path("x.txt"), ErrorCode::unsupported, ".safetensors, .bin or .gguf");
  fs::remove(path("model.gguf"));
}

TEST_F(OpenCheckpoint, PytorchFilesInShards) {
  put("config.json", "{}");
  put("pytorch_model.bin.index.json", "{}");
  expect_error(root(), ErrorCode::bad_format, "weight_map: expected an object, found none");
  put("pytorch_model.bin.index.json",
      R"({"metadata":{"total_size":9},"weight_map":{"a":"one.bin","t":"one.bin","x":"two.bin"}})");
  put("one.bin", test::small_bin());
  expect_error(root(), ErrorCode::not_found, "two.bin");
  test::PickleBuilder pickle;
  pickle.raw("\x80\x02}").text("x").tensor("ByteStorage", "0", 3, 0, {3}, {1}).raw("s.");
  put("two.bin", test::torch_archive(pickle.bytes(), {"abc"}));
  const auto checkpoint = open_checkpoint(root()).value();
  EXPECT_EQ(checkpoint.weights.size(), 4U);
  EXPECT_EQ(checkpoint.weights.find("x")->file, path("two.bin"));
  EXPECT_EQ(checkpoint.weights.find("a")->tensor.as<float>()[5], 6.0F);
  put("two.bin", "no archive");
  expect_error(root(), ErrorCode::bad_format, "two.bin");
  // One file with everything comes first, as it does for transformers.
  put("pytorch_model.bin", test::small_bin());
  EXPECT_EQ(open_checkpoint(root()).value().weights.size(), 3U);
}

TEST_F(OpenCheckpoint, MistralsNamesAreReadWhereTheOthersAreMissing) {
  put("consolidated.safetensors", test::small_safetensors());
  expect_error(root(), ErrorCode::not_found, "config.json or params.json");
  put("params.json", "{\"dim\":1}");
  Checkpoint checkpoint = open_checkpoint(root()).value();
  EXPECT_EQ(checkpoint.config, "{\"dim\":1}");
  EXPECT_EQ(checkpoint.config_file, "params.json");
  put("config.json", "{}");
  checkpoint = open_checkpoint(root()).value();
  EXPECT_EQ(checkpoint.config_file, "config.json");
  fs::remove(path("consolidated.safetensors"));
  expect_error(root(), ErrorCode::not_found, "consolidated.safetensors");
}

TEST_F(OpenCheckpoint, BytesInMemoryAreUsedInPlace) {
  const std::string weights = test::small_safetensors();
  const std::string archive = test::small_bin();
  const auto checkpoint = open_checkpoint({.config = "{}",
                                           .weights = {std::as_bytes(std::span(weights)),
                                                       std::as_bytes(std::span(archive))},
                                           .tokenizer = "t"})
                              .value();
  EXPECT_EQ(checkpoint.config, "{}");
  EXPECT_EQ(checkpoint.tokenizer, "t");
  EXPECT_EQ(checkpoint.weights.size(), 4U);  // "a" is in both
  const auto* b = static_cast<const char*>(checkpoint.weights.find("b")->tensor.data);
  EXPECT_EQ(b, weights.data() + weights.size() - 5);
  const std::string bad = "bad";
  EXPECT_FALSE(open_checkpoint(
      {.config = "{}", .weights = {std::as_bytes(std::span(bad))}, .tokenizer = {}}));
}

// Checkpoints written by torch and by the safetensors package.
TEST(GoldenCheckpoints, AllOpen) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(test::data_dir() / "golden")) {
    if (!fs::exists(entry.path() / "golden.json")) continue;
    const auto checkpoint = open_checkpoint(entry.path().string());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_GT(checkpoint->weights.size(), 0U) << entry.path();
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(BundledModels, AreFoundByName) {
  const auto folder = bundled_model_path("krait-bytes-2m");
  ASSERT_TRUE(folder) << folder.error().message;
  EXPECT_TRUE(fs::exists(fs::path(*folder) / "config.json"));
  EXPECT_GE(bundled_model_places().size(), 2U);
}

// A vector that crosses cache lines costs two reads: from the L3 cache a step takes a fifth longer.
TEST(BundledModels, TheirTensorsBeginCacheLines) {
  int count = 0;
  for (const char* name : {"krait-bytes-draft", "krait-bytes-moe", "krait-bytes-2m"}) {
    const auto checkpoint = open_checkpoint(bundled_model_path(name).value()).value();
    for (const auto& [tensor, entry] : checkpoint.weights.entries()) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(entry.tensor.data) % 64, 0U) << tensor;
      ++count;
    }
  }
  EXPECT_GT(count, 100);
}

TEST(BundledModels, OnlyPlainNamesAreLookedFor) {
  const test::TemporaryDirectory folder;
  test::write_file(folder.path() / "config.json", "{}");
  for (const std::string& name :
       {std::string("absent"), std::string(), std::string("."), std::string(".."),
        folder.path().string(), std::string("../models/krait-bytes-2m"), std::string("a\nb")}) {
    const auto result = bundled_model_path(name);
    ASSERT_FALSE(result) << name;
    EXPECT_EQ(result.error().code, ErrorCode::not_found);
    EXPECT_NE(result.error().message.find("krait-bytes-2m"), std::string::npos);
    EXPECT_NE(result.error().message.find(bundled_model_places()[0]), std::string::npos);
    EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace krait::checkpoint_test
