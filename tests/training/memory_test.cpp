// What a run needs is known before it begins. This program replaces operator new, to compare.

#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>

#include "krait/core/thread_pool.hpp"
#include "krait/training/initial_weights.hpp"
#include "krait/training/train.hpp"
#include "tests/support/replaced_new.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace {

std::atomic<long> held{0};  // bytes
std::atomic<long> most{0};

}  // namespace

namespace krait::test {
void before_allocation(std::size_t /*size*/) {}
void after_allocation(void* memory) noexcept {
  const long now = held += static_cast<long>(malloc_usable_size(memory));
  long before = most.load();
  while (now > before && !most.compare_exchange_weak(before, now)) {
  }
}
void before_release(void* memory) noexcept {
  held -= static_cast<long>(malloc_usable_size(memory));
}
}  // namespace krait::test

namespace krait::memory_test {
namespace {

class Stack : public testing::TestWithParam<ModelSpec (*)()> {};

// The count of what a row's passes take agrees with what they take: to the float, but for experts.
TEST_P(Stack, IsCountedBeforeItIsTaken) {
  const ModelSpec spec = GetParam()();
  const bool has_experts =
      spec == test::tiny_expert_spec() || spec == test::tiny_hybrid_options_spec();
  for (const int threads : {1, 3}) {
    for (const Index tokens : {1, 17, 150}) {
      ThreadPool pool(threads);
      ModelGradient gradient = ModelGradient::create(spec, "", pool).value();
      const RowMemory expected = gradient.memory(tokens);
      AlignedBuffer<float> values(gradient.parameters().floats());
      AlignedBuffer<float> gradients(values.size());
      initial_weights(spec, gradient.parameters(), 5, values.span());
      gradient.bind(values.data()).value();
      const std::vector<Token> row = test::random_tokens(tokens + 1, 61, 9);
      const auto inputs = static_cast<std::size_t>(tokens);
      gradient
          .backward(
              {.inputs = std::span(row).first(inputs), .targets = std::span(row).last(inputs)},
              gradients.data())
          .value();
      const Index taken = gradient.most_floats() * Index{sizeof(float)};
      if (has_experts) {
        EXPECT_LE(taken, expected.kept + expected.recomputed);
      } else {
        EXPECT_EQ(taken, expected.kept + expected.recomputed) << threads << " " << tokens;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, Stack,
                         testing::Values(
                             +[] { return test::tiny_spec(); }, test::tiny_mamba2_spec,
                             test::tiny_expert_spec, test::tiny_hybrid_spec,
                             test::tiny_hybrid_options_spec, test::tiny_shared_spec));

constexpr const char* mamba = R"({"model_type": "mamba", "vocab_size": 256, "hidden_size": 64,
  "num_hidden_layers": 3, "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": 4,
  "use_conv_bias": true, "use_bias": false, "tie_word_embeddings": true,
  "layer_norm_epsilon": 1e-5, "intermediate_size": 128})";

class Peak : public testing::Test {
 protected:
  Peak() { test::write_file(path("config.json"), mamba); }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  TrainFiles files(const std::string& name) const {
    return {.destination = path(name), .log = path(name + ".jsonl")};
  }

  // A run of the task needs what it was told, within a tenth.
  static void compare(FunctionRef<TrainTask(TaskValues)> make, const TrainOptions& options,
                      const TrainFiles& files) {
    const Index expected = train_memory(make(TaskValues::left_out), options, 2).value().total();
    ThreadPool pool(2);
    const long before = held.load();
    most = before;
    train(make(TaskValues::made), options, files, pool, [](const TrainProgress&) {
      return Flow::go_on;
    }).value();
    const auto found = static_cast<double>(most.load() - before);
    EXPECT_NEAR(found / static_cast<double>(expected), 1.0, 0.1);
  }

  test::TemporaryDirectory folder_;
};

constexpr TrainOptions options{.steps = 3, .batch = 8, .length = 256};

std::vector<Token> text() { return test::random_tokens(5000, 256, 3); }

TEST_F(Peak, OfAModelIsTold) {
  const auto make = [&](TaskValues values) {
    TrainTask task = new_train_task(path("config.json"), 1, values).value();
    task.text = text();
    return task;
  };
  compare(make, options, files("a"));
  compare(make, {.steps = 2, .batch = 1, .length = 1500}, files("b"));
  compare(make, {.steps = 2, .batch = 1, .length = 16, .optimizer = Optimizer::muon}, files("c"));
}

TEST_F(Peak, OfAnAdapterIsTold) {
  const std::string model = (test::bundled_models_dir() / "krait-bytes-draft").string();
  const LoraOptions lora{.rank = 4, .alpha = 8, .targets = {"in", "x", "dt", "out"}};
  const auto make = [&](TaskValues values) {
    TrainTask task = new_lora_task(model, lora, 1, values).value();
    task.text = text();
    return task;
  };
  compare(make, options, files("a"));
}

TEST_F(Peak, OfPairsIsTold) {
  const auto make = [&](TaskValues values) {
    TrainTask task = new_train_task(path("config.json"), 1, values).value();
    task.preference = PreferenceTask{.options = {}, .pairs = {}};
    for (std::uint64_t i = 0; i < 4; ++i) {
      task.preference->pairs.push_back(
          {.chosen = {.tokens = test::random_tokens(200 + Index(10 * i), 256, i), .given = 9},
           .rejected = {.tokens = test::random_tokens(100, 256, 50 + i), .given = 9}});
    }
    return task;
  };
  compare(make, {.steps = 2, .batch = 2, .length = 512}, files("a"));
  // A replay's rows are longer than the pairs', and there are more of them.
  const auto make_with_replay = [&](TaskValues values) {
    TrainTask task = make(values);
    task.preference->replay = Replay{.examples = {}, .weight = 0.3};
    for (std::uint64_t i = 0; i < 1500; ++i) {
      task.preference->replay->examples.push_back(
          {.tokens = test::random_tokens(400, 256, i), .given = 9});
    }
    return task;
  };
  compare(make_with_replay, {.steps = 2, .batch = 2, .length = 512}, files("b"));
}

}  // namespace
}  // namespace krait::memory_test
