// Quantised weights in memory, beside those of a folder.

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <optional>

#include "krait/core/thread_pool.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/builder.hpp"
#include "krait/tools/aqlm.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"

namespace krait::aqlm_overlay_test {
namespace {

namespace fs = std::filesystem;

std::vector<float> logits_of(const Model& model) {
  return test::last_logits(model, std::vector<Token>{'T', 'h', 'e', ' ', 'c', 'a', 't', ' '});
}

std::string text() {
  return test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(0, 2000);
}

std::string bundled(const char* name) { return (test::bundled_models_dir() / name).string(); }

struct AqlmOverlay : testing::Test {
  std::string in(const std::string& name) const { return (folder.path() / name).string(); }

  // That a call in memory gives what a call with a folder does, and writes nothing.
  void expect_same(const char* name, const AqlmOptions& options) const {
    SCOPED_TRACE(name);
    ThreadPool pool(2);
    const std::string written = in(name);
    const AqlmReport expected = quantize_aqlm(bundled(name), written, options, pool).value();
    const Checkpoint file = open_checkpoint(written).value();
    const fs::file_time_type before = fs::last_write_time(folder.path());

    std::optional<CheckpointPlan> plan = plan_checkpoint(bundled(name)).value();
    std::optional<AqlmWeights> made = quantize_aqlm(*plan, options, pool).value();
    EXPECT_EQ(fs::last_write_time(folder.path()), before);
    ASSERT_EQ(made->report.matrices.size(), expected.matrices.size());
    for (std::size_t i = 0; i < expected.matrices.size(); ++i) {
      EXPECT_EQ(made->report.matrices[i].name, expected.matrices[i].name);
      EXPECT_EQ(made->report.matrices[i].out, expected.matrices[i].out);
      EXPECT_EQ(made->report.matrices[i].in, expected.matrices[i].in);
      EXPECT_EQ(made->report.matrices[i].error, expected.matrices[i].error);
    }
    EXPECT_EQ(made->report.bits_per_weight, expected.bits_per_weight);
    EXPECT_EQ(made->report.bytes_before, expected.bytes_before);
    EXPECT_EQ(made->report.bytes_after, expected.bytes_after);
    EXPECT_EQ(made->report.calibration_tokens, expected.calibration_tokens);
    ASSERT_EQ(made->report.tuning.has_value(), expected.tuning.has_value());
    if (expected.tuning) {
      EXPECT_EQ(made->report.tuning->first, expected.tuning->first);
      EXPECT_EQ(made->report.tuning->last, expected.tuning->last);
    }

    EXPECT_EQ(made->weights.size(), file.weights.size());
    int shared = 0;
    for (const auto& [tensor, entry] : file.weights.entries()) {
      SCOPED_TRACE(tensor);
      const WeightStore::Entry* mine = made->weights.find(tensor);
      ASSERT_NE(mine, nullptr);
      EXPECT_EQ(mine->tensor.dtype, entry.tensor.dtype);
      ASSERT_EQ(mine->tensor.shape, entry.tensor.shape);
      EXPECT_EQ(std::memcmp(mine->tensor.data, entry.tensor.data,
                            static_cast<std::size_t>(entry.tensor.bytes())),
                0);
      const WeightStore::Entry* old = plan->checkpoint.weights.find(tensor);
      shared += old != nullptr && old->tensor.data == mine->tensor.data ? 1 : 0;
    }
    const int new_parts = 3 * static_cast<int>(expected.matrices.size());
    if (!expected.tuning) {
      EXPECT_EQ(shared, static_cast<int>(file.weights.size()) - new_parts);
    }
    EXPECT_GT(shared, 0);

    // The model needs neither the plan nor the weights any longer.
    const Model model = build_model(plan->config.spec, made->weights, plan->config.prefix).value();
    made.reset();
    plan.reset();
    const std::vector<float> logits = logits_of(model);
    EXPECT_TRUE(test::same_bits(std::span<const float>(logits),
                                std::span<const float>(logits_of(load_model(written).value()))));
  }

  test::TemporaryDirectory folder;
};

TEST_F(AqlmOverlay, HasTheValuesOfTheFolder) {
  expect_same("krait-bytes-draft", {.scheme = {4, 4, 8}, .preset = "fast", .calibration = text()});
  expect_same("krait-bytes-moe", {.scheme = {2, 4, 8},
                                  .preset = "fast",
                                  .calibration = text(),
                                  .keep = {"*.layers.1.*", "*.layers.2.*", "*.layers.3.*",
                                           "*.layers.4.*", "*.layers.5.*", "*.mixer.*"}});
}

// Norms among them, which are moved and not quantised.
TEST_F(AqlmOverlay, IsTunedAsTheFolderIs) {
  expect_same("krait-bytes-draft", {.scheme = {4, 4, 8},
                                    .preset = "best",
                                    .calibration = text(),
                                    .weigh = "fisher",
                                    .tune_tokens = 2048});
}

TEST_F(AqlmOverlay, WritesMomentsForOtherCalls) {
  ThreadPool pool(2);
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-draft")).value();
  AqlmOptions options{
      .scheme = {4, 4, 8}, .preset = "fast", .calibration = text(), .save_moments = in("moments")};
  const AqlmWeights first = quantize_aqlm(plan, options, pool).value();
  options.calibration.reset();
  options.save_moments.reset();
  options.moments = in("moments");
  const AqlmWeights second = quantize_aqlm(plan, options, pool).value();
  const auto model_of = [&](const AqlmWeights& made) {
    return build_model(plan.config.spec, made.weights, plan.config.prefix).value();
  };
  EXPECT_EQ(model_of(first).fingerprint(), model_of(second).fingerprint());
}

TEST_F(AqlmOverlay, RefusesWhatAFolderWould) {
  ThreadPool pool(2);
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-draft")).value();
  const auto refused = [&](const CheckpointPlan& source, const AqlmOptions& options) {
    const auto made = quantize_aqlm(source, options, pool);
    return made ? std::string() : made.error().message;
  };
  EXPECT_EQ(refused(plan, {.preset = "better"}),
            "[aqlm] preset: expected fast, default or best, found 'better'");
  EXPECT_EQ(refused(plan, {.calibration = text().substr(0, 100)}),
            "[aqlm] calibration: expected at least 256 tokens, found 100");
  EXPECT_NE(refused(plan, {.keep = {"*.layers.99.*"}}).find("which fits none"), std::string::npos);
  EXPECT_NE(refused(plan, {.calibration = text(), .save_moments = in("none/moments")})
                .find("expected a folder that is there"),
            std::string::npos);
  // What is quantised once is not quantised again.
  CheckpointPlan small = plan;
  small.checkpoint.weights = quantize_aqlm(plan, {.preset = "fast"}, pool).value().weights;
  EXPECT_NE(refused(small, {.preset = "fast"}).find("in_proj"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST_F(AqlmOverlay, NothingIsLeftOfACallThatIsCancelled) {
  ThreadPool pool(2);
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-draft")).value();
  int calls = 0;
  const auto stop = [&](Index, Index) { return ++calls > 5 ? Flow::stop : Flow::go_on; };
  const auto made = quantize_aqlm(plan, {.preset = "fast", .calibration = text()}, pool, stop);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::cancelled);
  EXPECT_FALSE(fs::exists(bundled("krait-bytes-draft") + ".partial"));
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace krait::aqlm_overlay_test
