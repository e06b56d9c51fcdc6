#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "krait/core/thread_pool.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/tools/aqlm.hpp"
#include "tests/support/support.hpp"

namespace krait::aqlm_moments_test {
namespace {

namespace fs = std::filesystem;

const std::string in_proj = "backbone.layers.0.mixer.in_proj";

WeightStore read_file(const std::string& path) {
  WeightStore store;
  EXPECT_TRUE(read_safetensors(open_file(path, WeightsMode::copy).value(), store));
  return store;
}

struct AqlmMoments : testing::Test {
  std::string in(const std::string& name) const { return (folder.path() / name).string(); }

  static std::string source(const std::string& name = "krait-bytes-draft") {
    return (test::bundled_models_dir() / name).string();
  }

  static std::string text(std::size_t first = 0) {
    return test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(first, 2000);
  }

  Result<AqlmReport> run(const std::string& to, const AqlmOptions& options, Progress progress = {},
                         const std::string& model = source()) const {
    return quantize_aqlm(model, in(to), options, pool, progress);
  }

  std::string bytes(const std::string& to) const {
    return test::read_file(in(to) + "/model.safetensors");
  }

  // A copy of the file with one of its tensors, and the metadata, altered.
  std::string altered(const std::string& name, const std::string& from,
                      const std::function<void(WeightStore& store)>& edit) const {
    WeightStore store = read_file(in(from));
    edit(store);
    std::vector<NamedTensor> tensors;
    for (const auto& [tensor, entry] : store.entries()) tensors.push_back({tensor, entry.tensor});
    EXPECT_TRUE(write_safetensors(in(name), tensors, store.metadata));
    return in(name);
  }

  test::TemporaryDirectory folder;
  mutable ThreadPool pool{2};
};

AqlmOptions small(const std::string& preset) {
  return {.scheme = {2, 4, 8}, .preset = preset, .tune_tokens = 0};
}

TEST_F(AqlmMoments, GiveTheBytesOfTheRunThatSavedThem) {
  for (const std::string preset : {"default", "fast"}) {
    SCOPED_TRACE(preset);
    AqlmOptions options = small(preset);
    options.calibration = text();
    const AqlmReport plain = run("plain " + preset, options).value();
    options.save_moments = in(preset);
    ASSERT_TRUE(run("saving " + preset, options));
    EXPECT_EQ(bytes("saving " + preset), bytes("plain " + preset));

    AqlmOptions again = small(preset);
    again.moments = in(preset);
    const AqlmReport report = run("again " + preset, again).value();
    EXPECT_EQ(bytes("again " + preset), bytes("plain " + preset));
    EXPECT_EQ(report.calibration_tokens, plain.calibration_tokens);

    const WeightStore file = read_file(in(preset));
    const TensorView& moments = file.find(in_proj + ".moments")->tensor;
    EXPECT_EQ(moments.shape, preset == "fast" ? Shape({64}) : Shape({64, 64}));
    EXPECT_EQ(file.contains(in_proj + ".difference"), preset != "fast");
    EXPECT_EQ(file.metadata.at("format"), "krait.aqlm.moments");
    EXPECT_EQ(file.metadata.at("version"), "1");
    EXPECT_EQ(file.metadata.at("tokens"), "2000");
    EXPECT_FALSE(file.metadata.at("model").empty());
    EXPECT_FALSE(file.metadata.at("text").empty());
    EXPECT_NE(file.metadata.at("behind").find("2x4g8"), std::string::npos);
  }
}

// Tuning has the text, whose activations are not looked at.
TEST_F(AqlmMoments, LeaveTheTextToTuning) {
  AqlmOptions options = small("fast");
  options.calibration = text();
  options.save_moments = in("moments");
  options.tune_tokens = 2048;
  ASSERT_TRUE(run("whole", options).value().tuning);
  options.save_moments.reset();
  options.moments = in("moments");
  ASSERT_TRUE(run("again", options));
  EXPECT_EQ(bytes("again"), bytes("whole"));
  options.calibration = text(30000);
  ASSERT_TRUE(run("other text", options));
  EXPECT_NE(bytes("other text"), bytes("whole"));
  options.calibration.reset();
  options.tune_tokens.reset();
  options.preset = "fast";
  EXPECT_FALSE(run("no text", options).value().tuning);
}

TEST_F(AqlmMoments, ServeOtherSchemesSeedsAndPresets) {
  AqlmOptions options = small("default");
  options.calibration = text();
  options.save_moments = in("moments");
  ASSERT_TRUE(run("first", options));
  const auto from_moments = [&](const std::string& to, AqlmOptions other) {
    other.moments = in("moments");
    EXPECT_TRUE(run(to, other)) << to;
    other.moments.reset();
    EXPECT_TRUE(run("identity " + to, other)) << to;
    EXPECT_NE(bytes(to), bytes("identity " + to)) << to;
  };
  AqlmOptions scheme = small("default");
  scheme.scheme = {4, 4, 8};
  from_moments("scheme", scheme);
  AqlmOptions seed = small("default");
  seed.seed = 7;
  from_moments("seed", seed);
  from_moments("preset", small("fast"));
  AqlmOptions fewer = small("default");
  fewer.keep = {"*.layers.1.*"};
  from_moments("fewer", fewer);
}

TEST_F(AqlmMoments, OfExpertsAreEachItsOwn) {
  AqlmOptions options = small("fast");
  options.keep = {"*.mixer.*",    "*.layers.0.*", "*.layers.1.*",
                  "*.layers.2.*", "*.layers.3.*", "*.layers.4.*"};
  options.calibration = text();
  options.save_moments = in("moments");
  const AqlmReport report = run("whole", options, {}, source("krait-bytes-moe")).value();
  AqlmOptions again = options;
  again.calibration.reset();
  again.save_moments.reset();
  again.moments = in("moments");
  ASSERT_TRUE(run("again", again, {}, source("krait-bytes-moe")));
  EXPECT_EQ(bytes("again"), bytes("whole"));
  const WeightStore file = read_file(in("moments"));
  const auto count = std::ranges::count_if(
      file.entries(), [](const auto& entry) { return entry.first.ends_with(".moments"); });
  EXPECT_GE(count, std::ssize(report.matrices));
}

// Whether the interrupted call saves or not: what is missing is gathered again.
TEST_F(AqlmMoments, AnInterruptionChangesNeitherBytesNorMoments) {
  AqlmOptions options = small("fast");
  options.calibration = text();
  options.save_moments = in("expected");
  ASSERT_TRUE(run("whole", options));
  AqlmOptions interrupted = options;
  for (const int stop_after : {1, 3, 7, 12}) {
    interrupted.save_moments.reset();
    if (stop_after != 7) interrupted.save_moments = in("moments");
    int calls = 0;
    const auto stop = [&](Index, Index) { return ++calls > stop_after ? Flow::stop : Flow::go_on; };
    ASSERT_FALSE(run("parts", interrupted, stop));
    EXPECT_FALSE(fs::exists(in("moments")));
  }
  interrupted.save_moments = in("moments");
  ASSERT_TRUE(run("parts", interrupted));
  EXPECT_EQ(bytes("parts"), bytes("whole"));
  EXPECT_EQ(test::read_file(in("moments")), test::read_file(in("expected")));
  // A file of moments is replaced.
  fs::remove_all(in("parts"));
  interrupted.seed = 3;
  ASSERT_TRUE(run("parts", interrupted));
  EXPECT_NE(test::read_file(in("moments")), test::read_file(in("expected")));
}

TEST_F(AqlmMoments, WhatDoesNotFitIsRefusedInOneLine) {
  AqlmOptions options = small("default");
  options.calibration = text();
  options.save_moments = in("moments");
  ASSERT_TRUE(run("first", options));
  const auto message = [&](const std::string& file, const std::string& preset = "default",
                           const std::vector<std::string>& quantize = {},
                           const std::string& model = source()) {
    AqlmOptions other = small(preset);
    other.scheme.in_group = 4;
    other.moments = file;
    other.quantize = quantize;
    const auto result = run("bad", other, {}, model);
    EXPECT_FALSE(fs::exists(in("bad")));
    EXPECT_FALSE(fs::exists(in("bad.partial")));
    const std::string found = result ? "none" : result.error().message;
    EXPECT_EQ(found.find('\n'), std::string::npos);
    return found;
  };
  const auto expect = [](const std::string& found, const std::string& part) {
    EXPECT_NE(found.find(part), std::string::npos) << found;
  };
  expect(message(in("moments"), "default", {}, source("krait-bytes-2m")),
         "[aqlm] moments: expected those of the model ");
  expect(message(in("moments"), "default", {"*.x_proj"}),
         "[aqlm] moments: expected those of backbone.layers.0.mixer.x_proj, "
         "backbone.layers.1.mixer.x_proj, found none (");
  expect(message(in("no such file")), "no such file");
  expect(message(source() + "/model.safetensors"),
         "[aqlm] moments: expected a file that krait aqlm --save-moments wrote, found another (");
  const std::string whole = test::read_file(in("moments"));
  test::write_file(in("short"), whole.substr(0, whole.size() / 2));
  EXPECT_NE(message(in("short")), "none");

  const std::string tensor = in_proj + ".moments";
  std::vector<float> values(64 * 64);
  const auto with = [&](const std::string& name, const Shape& shape,
                        const std::function<void()>& edit) {
    return message(altered(name, "moments", [&](WeightStore& store) {
      const TensorView& view = store.find(tensor)->tensor;
      std::memcpy(values.data(), view.data, values.size() * sizeof(float));
      edit();
      store.add(tensor, {values.data(), DType::f32, shape}, nullptr);
    }));
  };
  expect(with("shape", {32, 128}, [] {}),
         "[aqlm] " + tensor + ": expected f32 [64,64], found f32 [32,128] (");
  expect(with("nan", {64, 64}, [&] { values[70] = std::numeric_limits<float>::quiet_NaN(); }),
         "[aqlm] " + tensor + ": expected finite values, found nan (");
  expect(with("negative", {64, 64}, [&] { values[65] = -1.0F; }),
         "[aqlm] " + tensor + ": expected a diagonal of at least 0, found -1 (");
  expect(with("askew", {64, 64}, [&] { values[1] += 1.0F; }),
         "[aqlm] " + tensor + ": expected a symmetric matrix, found ");
  expect(message(altered("later", "moments",
                         [](WeightStore& store) { store.metadata["version"] = "2"; })),
         "[aqlm] moments: expected version 1, found '2' (");
  expect(message(altered("rows", "moments",
                         [](WeightStore& store) { store.remove(in_proj + ".rows"); })),
         "[aqlm] " + in_proj + ".rows: expected i64 [1], found none (");

  options.preset = "fast";
  options.save_moments = in("diagonals");
  ASSERT_TRUE(run("fast", options));
  expect(
      message(in("diagonals")),
      "[aqlm] " + tensor +
          ": expected second moments, not the diagonal that the preset fast saves, found [64] (");
}

TEST_F(AqlmMoments, ArePutWhereNothingElseIs) {
  const auto message = [&](AqlmOptions options) {
    options.preset = "fast";
    const auto result = run("bad", options);
    EXPECT_FALSE(fs::exists(in("bad")));
    EXPECT_FALSE(fs::exists(in("bad.partial")));
    return result ? std::string("none") : result.error().message;
  };
  const auto saving = [&](const std::string& to) {
    return message({.calibration = text(), .save_moments = to});
  };
  test::write_file(in("notes"), "mine");
  EXPECT_EQ(saving(in("notes")),
            "[aqlm] save_moments: expected a new file, or one of second moments, found another "
            "that is there (" +
                in("notes") + ")");
  EXPECT_EQ(test::read_file(in("notes")), "mine");
  EXPECT_EQ(saving(in("none/moments")),
            "[aqlm] save_moments: expected a folder that is there, found none (" +
                in("none/moments") + ")");
  EXPECT_EQ(saving(folder.path().string()),
            "[aqlm] save_moments: expected a regular file, found "
            "something else (" +
                folder.path().string() + ")");
  EXPECT_EQ(saving(in("bad/moments")),
            "[aqlm] save_moments: expected a file outside the destination, found one in it (" +
                in("bad/moments") + ")");
  EXPECT_EQ(message({.save_moments = in("moments")}),
            "[aqlm] save_moments: expected a calibration text beside it, found none");
  EXPECT_EQ(message({.calibration = text(), .moments = in("a"), .save_moments = in("b")}),
            "[aqlm] save_moments: expected a run that gathers moments, found moments beside it");
  EXPECT_EQ(message({.moments = in("a"), .tune_tokens = 4096}),
            "[aqlm] tune_tokens: expected a calibration text beside it, found none");
}

}  // namespace
}  // namespace krait::aqlm_moments_test
