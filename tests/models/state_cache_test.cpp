// States that grow: attention's rows in pages that copies share.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "krait/decoding/state_io.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::state_cache_test {
namespace {

using test::random_tokens;

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t pages = 0;
  file >> pages >> pages;
  return pages * 4096;
}

TEST(StateCache, ForksOfALongTextShareItsPages) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::f32);
  test::EagerThreadPool pool(2);
  Session session(model, pool);
  State state = model.initial_state();
  session.prefill(random_tokens(10'000, 61, 1), state).value();
  ASSERT_EQ(state.cache().rows(), 10'000);
  const auto pages = std::as_const(state).cache().pages();
  State fork = state;
  EXPECT_TRUE(std::ranges::equal(std::as_const(fork).cache().pages(), pages));
  EXPECT_LT(fork.block().size_bytes() + pages.size_bytes() * 2, std::size_t{1} << 20)
      << "what a fork copies";
  EXPECT_GT(state.bytes(), std::size_t{1} << 20) << "what it does not copy";

  const std::size_t before = resident_bytes();
  const std::vector<State> forks(10'000, state);
  EXPECT_LT(resident_bytes() - before, std::size_t{256} << 20) << "10,000 of them";
  EXPECT_TRUE(forks.back() == state);

  // Each goes its way, and only the last page is copied.
  session.step(1, fork).value();
  session.step(2, state).value();
  EXPECT_FALSE(fork == state);
  for (std::size_t i = 0; i + 1 < pages.size(); ++i) {
    EXPECT_EQ(std::as_const(fork).cache().pages()[i], std::as_const(state).cache().pages()[i]);
  }
  EXPECT_NE(std::as_const(fork).cache().pages().back(),
            std::as_const(state).cache().pages().back());
}

TEST(StateCache, RollsBackPastAPagesBorderWhileAForkGoesOn) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::f32);
  SerialExecutor executor;
  Session session(model, executor, {.max_verify = 80});
  const auto tokens = random_tokens(150, 61, 2);
  State whole = model.initial_state();
  session.prefill(tokens, whole).value();
  State expected = model.initial_state();
  session.prefill(std::span(tokens).first(63), expected).value();

  State state = model.initial_state();
  session.prefill(std::span(tokens).first(60), state).value();
  const RunItem draft{
      .tokens = std::span(tokens).subspan(60, 80), .state = &state, .tentative = true};
  session.run({&draft, 1}).value();
  State fork = state;  // keeps what is taken back here
  session.keep(3, state).value();
  EXPECT_TRUE(state == expected);
  session.prefill(std::span(tokens).subspan(140), fork).value();
  EXPECT_TRUE(fork == whole);
  session.prefill(std::span(tokens).subspan(63), state).value();
  EXPECT_TRUE(state == whole);
  state.reset();
  session.prefill(tokens, state).value();
  EXPECT_TRUE(state == whole);
}

TEST(StateCache, RowsHaveNames) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::f32);
  EXPECT_EQ(model.plan().cache_tensors.size(), 6U);
  EXPECT_EQ(model.plan().cache_tensors[0].path, "layers.0.attention.keys");
  EXPECT_EQ(model.plan().cache_tensors[1].path, "layers.0.attention.values");
  // Keys and values of 2 heads of 7, 3 of 8 and 1 of 4, each rounded up to a cache line.
  EXPECT_EQ(model.plan().cache_bytes_per_token, 2 * (16 + 32 + 16) * 4);
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  session.prefill(random_tokens(3, 61, 1), state).value();
  EXPECT_EQ(state.cache_row("layers.0.attention.keys", 2).size(), 14);
  EXPECT_EQ(state.cache_row("layers.0.attention.keys", 3).data, nullptr);
  EXPECT_EQ(state.cache_row("layers.0.attention.keys", -1).data, nullptr);
  EXPECT_EQ(state.cache_row("layers.9.attention.keys", 0).data, nullptr);
  EXPECT_NE(model.describe().find("state 4.3 KiB per sequence and 512 B per token"),
            std::string::npos)
      << model.describe();
}

TEST(StateCache, RoomThatIsNotThereIsAnErrorAndNothingChanges) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::f32);
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  session.prefill(random_tokens(5, 61, 1), state).value();
  const State before = state;
  EXPECT_EQ(state.reserve(Index{1} << 47).error().code, ErrorCode::no_memory);
  EXPECT_EQ(session.reserve(-1).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.reserve((Index{1} << 48) + 1).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.reserve(Index{1} << 48).error().code, ErrorCode::no_memory);
  EXPECT_TRUE(state == before);
  State lying = state;
  lying.set_position(7);
  EXPECT_EQ(session.step(1, lying).error().message,
            "[session] cache: expected rows of 7 tokens, found 5");
  session.step(1, state).value();
}

// States of several lengths, saved and loaded.
void expect_files_hold_the_rows(const Model& model) {
  SerialExecutor executor;
  Session session(model, executor);
  const test::TemporaryDirectory directory;
  const std::string path = (directory.path() / "state.safetensors").string();
  for (const Index length : {0, 1, 64, 130}) {
    State state = model.initial_state();
    if (length > 0) session.prefill(random_tokens(length, 61, 1), state).value();
    save_state(state, path).value();
    EXPECT_TRUE(load_state(model, path).value().state == state) << length;
  }
}

TEST(StateCache, FilesHoldTheRows) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::f32);
  expect_files_hold_the_rows(model);
  const test::TemporaryDirectory directory;
  const std::string path = (directory.path() / "state.safetensors").string();
  State lying = model.initial_state();
  lying.set_position(7);
  EXPECT_EQ(save_state(lying, path).error().message, "[state] cache: expected 7 rows, found 0");
}

Model with_kv(DType dtype) {
  return test::tiny_model(test::tiny_hybrid_spec(), DType::f32, {.kv_dtype = dtype});
}

class StateCacheOf16Bits : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Types, StateCacheOf16Bits, testing::Values(DType::f16, DType::bf16),
                         [](const auto& test) { return std::string(to_string(test.param)); });

// What is in front of the first keys and values does not depend on their type.
TEST_P(StateCacheOf16Bits, HoldsTheRoundedRows) {
  const Model wide = with_kv(DType::f32);
  const Model narrow = with_kv(GetParam());
  // Keys and values of 14, 24 and 4 numbers, each rounded up to a cache line.
  EXPECT_EQ(narrow.plan().cache_bytes_per_token, 6 * 64);
  EXPECT_EQ(plan_model(test::tiny_hybrid_spec(), nullptr, "", {.kv_dtype = GetParam()})
                .value()
                .cache_bytes_per_token,
            6 * 64);
  EXPECT_NE(narrow.describe().find("and 384 B per token"), std::string::npos);
  SerialExecutor executor;
  const auto rows = [&](const Model& model) {
    Session session(model, executor, {.chunk = 7});
    State state = model.initial_state();
    session.prefill(random_tokens(70, 61, 1), state).value();
    return state;
  };
  const State exact = rows(wide);
  const State rounded = rows(narrow);
  for (Index t = 0; t < 70; ++t) {
    const TensorView from = exact.cache_row("layers.0.attention.keys", t);
    const TensorView to = rounded.cache_row("layers.0.attention.keys", t);
    ASSERT_EQ(to.dtype, GetParam());
    ASSERT_EQ(to.size(), 14);
    std::vector<std::uint16_t> expected(14);
    convert_floats(from, GetParam(), expected.data());
    ASSERT_EQ(std::memcmp(expected.data(), to.data, 28), 0) << t;
  }
}

TEST_P(StateCacheOf16Bits, FilesHoldTheRowsInTheirType) {
  expect_files_hold_the_rows(with_kv(GetParam()));
}

TEST_P(StateCacheOf16Bits, AModelWithAnotherTypeRefusesFilesAndStates) {
  const test::TemporaryDirectory directory;
  const std::string path = (directory.path() / "state.safetensors").string();
  SerialExecutor executor;
  for (const DType own : {DType::f32, DType::f16, DType::bf16}) {
    const Model model = with_kv(own);
    const Model other = with_kv(GetParam());
    Session session(model, executor);
    State state = other.initial_state();
    save_state(state, path).value();
    if (own == GetParam()) {
      EXPECT_EQ(model.fingerprint(), other.fingerprint());
      session.step(1, state).value();
      load_state(model, path).value();
      continue;
    }
    EXPECT_NE(model.fingerprint(), other.fingerprint());
    EXPECT_FALSE(state == model.initial_state());
    const Error refused = session.step(1, state).error();
    EXPECT_EQ(refused.code, ErrorCode::incompatible_state);
    EXPECT_EQ(refused.message, "[session] state: expected keys and values in " +
                                   std::string(to_string(own)) + ", found " +
                                   std::string(to_string(GetParam())));
    const Error unread = load_state(model, path).error();
    EXPECT_EQ(unread.code, ErrorCode::incompatible_state);
    EXPECT_EQ(unread.message, "[state] keys and values: expected " + std::string(to_string(own)) +
                                  ", found " + std::string(to_string(GetParam())) + " (" + path +
                                  ")");
  }
}

// A hook that looks at cached keys and values and leaves them sees the widened rows, and changes no
// bit.
TEST_P(StateCacheOf16Bits, HooksSeeTheWidenedRows) {
  struct Looking final : ActivationHook {
    bool wants(Site site) const noexcept override {
      return site == Site::cached_key || site == Site::cached_value;
    }
    void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
      if (!wants(place.site)) return;
      for (const float value : values.row(0)) {
        const float rounded =
            dtype == DType::f16 ? to_float(to_f16(value)) : to_float(to_bf16(value));
        is_rounded = is_rounded && value == rounded;
      }
      ++visits;
    }
    DType dtype = DType::f32;
    bool is_rounded = true;
    int visits = 0;
  };
  const Model model = with_kv(GetParam());
  SerialExecutor executor;
  Session session(model, executor);
  const auto tokens = random_tokens(20, 61, 4);
  State state = model.initial_state();
  const auto plain = session.prefill(tokens, state).value();
  const std::vector<float> expected(plain.begin(), plain.end());
  Looking hook;
  hook.dtype = GetParam();
  State other = model.initial_state();
  const RunItem item{.tokens = tokens, .state = &other, .hook = &hook};
  const auto rows = session.run({&item, 1}).value();
  EXPECT_TRUE(test::same_bits<float>(expected, rows.logits(0).row(0)));
  EXPECT_TRUE(other == state);
  EXPECT_TRUE(hook.is_rounded);
  EXPECT_GT(hook.visits, 0);
}

TEST(StateCache, TheTypeOfKeysAndValuesIsOneOfFloats) {
  const ModelSpec spec = test::tiny_hybrid_spec();
  EXPECT_EQ(plan_model(spec, nullptr, "", {.kv_dtype = DType::i8}).error().message,
            "[build] kv_dtype: expected f32, f16 or bf16, found i8");
  // Nothing to choose without attention.
  const Model plain = test::tiny_model();
  const Model chosen = test::tiny_model(DType::f32, WeightOptions{.kv_dtype = DType::f16});
  EXPECT_EQ(plain.fingerprint(), chosen.fingerprint());
  EXPECT_EQ(chosen.plan().cache_bytes_per_token, 0);
}

}  // namespace
}  // namespace krait::state_cache_test
