// Sessions on several threads, for ThreadSanitizer above all: the threads of a pool share the
// memory of one session, and sessions on different threads share a model.

#include <gtest/gtest.h>

#include <thread>

#include "krait/core/thread_pool.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::session_threads_test {
namespace {

// Logits and states of every kind of run.
std::vector<float> run_all(const Model& model, Executor& executor) {
  Session session(model, executor,
                  {.chunk = 8, .max_batch = 3, .max_verify = 6, .max_verify_batch = 2});
  std::vector<State> states(3, model.initial_state());
  std::vector<float> result;
  const auto append = [&](std::span<const float> floats) {
    result.insert(result.end(), floats.begin(), floats.end());
  };
  const auto text = test::random_tokens(20, 61, 1);
  append(session.prefill(text, states[0]).value());
  append(session.step(text[3], states[1]).value());
  State* const all[] = {&states[0], &states[1], &states[2]};
  for (int round = 0; round < 3; ++round) {
    const auto rows = session.step_batch(std::span(text).first(3), all).value();
    append({rows.data, static_cast<std::size_t>(rows.rows * rows.cols)});
  }
  const std::span<const Token> drafts[] = {std::span(text).first(4), std::span(text).last(2)};
  const State* const two[] = {&states[0], &states[1]};
  const auto rows = session.verify_batch(drafts, two).value();
  append({rows.data, static_cast<std::size_t>(rows.rows * rows.cols)});
  session.keep(2, states[0], 0).value();
  session.keep(2, states[1], 1).value();
  std::vector<float> log_probs(text.size() - 1);
  session.score(text, states[2], log_probs).value();
  append(log_probs);
  for (const State& state : states) append(state.block());
  return result;
}

TEST(SessionThreads, APoolGivesTheBitsOfOneThread) {
  const Model model = test::tiny_model(DType::bf16);
  SerialExecutor serial;
  const auto expected = run_all(model, serial);
  for (const int threads : {2, 4}) {
    test::EagerThreadPool pool(threads);
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(test::same_bits<float>(expected, run_all(model, pool)));
    }
  }
}

TEST(SessionThreads, SessionsShareAModel) {
  const Model model = test::tiny_model();
  SerialExecutor serial;
  const auto expected = run_all(model, serial);
  std::vector<std::vector<float>> results(3);
  std::vector<std::thread> users;
  for (std::vector<float>& result : results) {
    users.emplace_back([&result, &model] {
      test::EagerThreadPool pool(2);
      result = run_all(model, pool);
    });
  }
  for (std::thread& user : users) user.join();
  for (const auto& result : results) EXPECT_TRUE(test::same_bits<float>(expected, result));
}

// One pool for sessions on several threads: nobody waits, and all get the bits they get alone.
TEST(SessionThreads, SessionsShareAPool) {
  const Model model = test::tiny_model();
  SerialExecutor serial;
  const auto expected = run_all(model, serial);
  test::EagerThreadPool pool(3);
  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> users;
  for (std::vector<float>& result : results) {
    users.emplace_back([&] {
      for (int i = 0; i < 3; ++i) result = run_all(model, pool);
    });
  }
  for (std::thread& user : users) user.join();
  for (const auto& result : results) EXPECT_TRUE(test::same_bits<float>(expected, result));
}

}  // namespace
}  // namespace krait::session_threads_test
