// After a session is made, running it allocates nothing. This program replaces operator new and
// the C allocator's entry points it is built on.

#include <gtest/gtest.h>

#include <atomic>

#include "krait/core/thread_pool.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/models/session.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/replaced_new.hpp"
#include "tests/support/tiny_models.hpp"

namespace {

std::atomic<long> allocations{0};
std::atomic<std::size_t> largest{~std::size_t{0}};  // beyond it there is no memory

}  // namespace

namespace krait::test {
void before_allocation(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (size > largest) throw std::bad_alloc();
}
void after_allocation(void* /*memory*/) noexcept {}
void before_release(void* /*memory*/) noexcept {}
}  // namespace krait::test

namespace krait::allocation_test {
namespace {

class Allocations : public testing::TestWithParam<ModelSpec (*)()> {};

TEST_P(Allocations, NoneAfterASessionIsMade) {
  const Model model = test::tiny_model(GetParam()(), DType::bf16);
  test::EagerThreadPool threads(2);
  Session session(model, threads);
  State state = model.initial_state();
  State fork = state;
  Sampler sampler = Sampler::make({.repetition_penalty = 1.1,
                                   .dry_multiplier = 0.5,
                                   .dry_sequence_breakers = {{3}, {4, 5}},
                                   .bad_words = {{1, 2}},
                                   .top_n_sigma = 3.0,
                                   .temperature = 0.8,
                                   .dynatemp_range = 0.2,
                                   .top_k = 40,
                                   .top_p = 0.9,
                                   .min_p = 0.01,
                                   .typical_p = 0.95,
                                   .epsilon_cutoff = 1e-4,
                                   .eta_cutoff = 1e-4,
                                   .xtc_probability = 0.5},
                                  model.vocab())
                        .value();
  Sampler made = Sampler::make({.mirostat = 2}, model.vocab()).value();
  Sampler mirostat = made;
  const auto prompt = test::random_tokens(256, 61, 1);
  std::vector<State*> states = {&state, &fork};
  TokenMask mask(model.vocab());
  mask.forbid(7);
  const long before = allocations.load();
  std::span<const float> logits = session.prefill(prompt, state).value();
  for (int i = 0; i < 100; ++i) {
    const Token token = i % 2 == 0 ? sampler.sample(logits, state.position())
                                   : *sampler.sample(logits, state.position(), mask);
    sampler.observe({&token, 1});
    const Token other = mirostat.sample(logits, state.position());
    mirostat.observe({&other, 1});
    logits = session.step(token, state).value();
  }
  fork.copy_from(state);
  const Token pair[] = {1, 2};
  session.step_batch(pair, states).value();
  session.verify(std::span(prompt).first(8), state).value();
  session.keep(5, state).value();
  EXPECT_EQ(allocations.load() - before, 0);
  EXPECT_GT(before, 0) << "the counter counts";
}

TEST(Allocations, NoneAfterRoomForTheCacheIsMade) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::bf16);
  test::EagerThreadPool threads(2);
  Session session(model, threads);
  State state = model.initial_state();
  const auto prompt = test::random_tokens(256, 61, 1);
  session.reserve(400).value();
  state.reserve(400).value();
  const long before = allocations.load();
  session.prefill(prompt, state).value();
  for (int i = 0; i < 100; ++i) session.step(1, state).value();
  const RunItem draft{.tokens = std::span(prompt).first(8), .state = &state, .tentative = true};
  session.run({&draft, 1}).value();
  session.keep(5, state).value();
  session.step(1, state).value();
  EXPECT_EQ(allocations.load() - before, 0);
}

TEST(Allocations, ACacheThatCannotGrowIsAnErrorAndNothingChanges) {
  const Model model = test::tiny_model(test::tiny_hybrid_spec(), DType::f32);
  test::EagerThreadPool threads(2);
  Session session(model, threads);
  State state = model.initial_state();
  State other = state;
  session.prefill(test::random_tokens(64, 61, 1), state).value();
  session.prefill(test::random_tokens(10, 61, 1), other).value();
  const State before = state;
  const State other_before = other;
  const Token token = 3;
  const RunItem items[] = {{.tokens = {&token, 1}, .state = &other},
                           {.tokens = {&token, 1}, .state = &state}};
  session.reserve(100).value();
  largest = 4096;
  const auto result = session.run(items);
  const auto step = session.step(token, state);
  const auto verified = session.verify({&token, 1}, state);
  largest = ~std::size_t{0};
  EXPECT_EQ(result.error().code, ErrorCode::no_memory);
  EXPECT_EQ(result.error().message,
            "[state] cache: expected memory for 11 tokens of 512 bytes, found none");
  EXPECT_EQ(step.error().code, ErrorCode::no_memory);
  EXPECT_EQ(verified.error().code, ErrorCode::no_memory);
  EXPECT_TRUE(state == before);
  EXPECT_TRUE(other == other_before);
  session.run(items).value();
  EXPECT_EQ(state.position(), 65);
}

INSTANTIATE_TEST_SUITE_P(Models, Allocations,
                         testing::Values(
                             +[] { return test::tiny_spec(); }, test::tiny_mamba2_spec,
                             test::tiny_expert_spec));

}  // namespace
}  // namespace krait::allocation_test
