#include "krait/models/session.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "krait/core/thread_pool.hpp"
#include "krait/kernels/softmax.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::session_test {
namespace {

using test::random_tokens;
using test::tiny_model;

TEST(Session, ScoreEqualsTheLogitsOfEveryPosition) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor, {.chunk = 7, .max_batch = 3});
  const auto tokens = random_tokens(25, 61, 1);
  State all = model.initial_state();
  const auto logits = test::all_logits(session, tokens, all);
  State state = model.initial_state();
  std::vector<float> log_probs(24);
  session.score(tokens, state, log_probs).value();
  EXPECT_EQ(state.position(), 24);
  double total = 0.0;
  for (std::size_t i = 0; i < 24; ++i) {
    const auto row = std::span(logits).subspan(i * 64, 61);  // without the padding
    double sum = 0.0;
    for (const float x : row) sum += std::exp(double{x});
    const double expected = double{row[static_cast<std::size_t>(tokens[i + 1])]} - std::log(sum);
    EXPECT_NEAR(double{log_probs[i]}, expected, 1e-5);
    total += expected;
  }
  EXPECT_LT(total, -24.0);
}

TEST(Session, ScoreInPiecesEqualsScoreInOne) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  const auto tokens = random_tokens(20, 61, 2);
  std::vector<float> whole(19);
  std::vector<float> pieces(19);
  State state = model.initial_state();
  session.score(tokens, state, whole).value();
  state.reset();
  session.score(std::span(tokens).first(8), state, std::span(pieces).first(7)).value();
  session.score(std::span(tokens).subspan(7), state, std::span(pieces).subspan(7)).value();
  EXPECT_TRUE(test::same_bits<float>(whole, pieces));
}

TEST(Session, HiddenStatesTimesTheHeadAreTheLogits) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor, {.chunk = 4, .max_batch = 1});
  const auto tokens = random_tokens(9, 61, 3);
  State a = model.initial_state();
  State b = model.initial_state();
  std::vector<float> hidden(9 * 20);
  session.hidden(tokens, a, {hidden.data(), 9, 20}).value();
  const auto logits = test::all_logits(session, tokens, b);
  EXPECT_TRUE(a == b);
  std::vector<float> again(9 * 64);
  Scratch scratch;
  const BlockContext ctx{
      .x = {}, .sequences = {}, .executor = executor, .memory = scratch, .workspace = {}};
  model.parts().head.apply(ctx, {hidden.data(), 9, 20}, {again.data(), 9, 64});
  EXPECT_TRUE(test::same_bits<float>(logits, again));
}

TEST(Session, PrefillTellsProgressAndStops) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor, {.chunk = 10, .max_batch = 1});
  const auto tokens = random_tokens(35, 61, 4);
  State state = model.initial_state();
  std::vector<Index> seen;
  const auto watch = [&](Index done, Index total) {
    EXPECT_EQ(total, 35);
    seen.push_back(done);
    return done >= 20 ? Flow::stop : Flow::go_on;
  };
  const auto result = session.prefill(tokens, state, watch);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::cancelled);
  EXPECT_EQ(seen, (std::vector<Index>{10, 20}));
  EXPECT_EQ(state.position(), 20);

  // What was consumed counts: going on gives the same as a prompt in one piece.
  State whole = model.initial_state();
  session.prefill(std::span(tokens).subspan(20), state).value();
  session.prefill(tokens, whole).value();
  EXPECT_TRUE(state == whole);
}

// Every mistake is an error, found before anything is touched.
TEST(Session, ReportsTheCallersMistakes) {
  const Model model = tiny_model();
  const Model other = tiny_model(DType::f32, "bf16");
  SerialExecutor executor;
  Session session(model, executor, {.max_batch = 2});
  State state = model.initial_state();
  State foreign = other.initial_state();
  State empty;
  State gone = model.initial_state();
  const State taken = std::move(gone);
  const std::vector<Token> tokens = {1, 2, 3};
  const std::vector<Token> wild = {1, 2, 64};
  const auto expect = [](const auto& result, ErrorCode code, std::string_view part) {
    ASSERT_FALSE(result) << part;
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  constexpr auto argument = ErrorCode::bad_argument;
  constexpr auto model_code = ErrorCode::incompatible_state;
  expect(session.prefill({}, state), argument, "at least one");
  expect(session.prefill(wild, state), argument, "0 to 63, found 64");
  expect(session.step(64, state), argument, "found 64");
  expect(session.step(-1, state), argument, "found -1");
  expect(session.step(1, foreign), model_code, "state");
  expect(session.step(1, empty), model_code, "no model");
  expect(session.step(1, gone), model_code, "no model");  // NOLINT(bugprone-use-after-move)
  std::vector<State*> states(3, &state);
  expect(session.step_batch(tokens, states), argument, "at most 2");
  expect(session.step_batch(std::span(tokens).first(1), std::span(states).first(2)), argument,
         "1 tokens and 2 states");
  expect(session.step_batch(std::span(tokens).first(2), std::span(states).first(2)), argument,
         "distinct");
  State fork = state;
  State* const mixed[] = {&fork, &foreign};
  expect(session.step_batch(std::span(tokens).first(2), mixed), model_code, "state");
  State* const missing[] = {&fork, nullptr};
  expect(session.step_batch(std::span(tokens).first(2), missing), argument, "null");
  std::vector<float> few(1);
  expect(session.score(tokens, state, few), argument, "2 log-probabilities, found 1");
  expect(session.score({}, state, {}), argument, "at least one");
  expect(session.hidden(tokens, state, {few.data(), 1, 1}), argument, "[3, 20]");
  expect(session.prefill_all(tokens, state, {few.data(), 1, 1}), argument, "[3, 64]");
  EXPECT_THROW(state.copy_from(empty), ContractError);
  EXPECT_TRUE(state == model.initial_state()) << "nothing was consumed";
  EXPECT_TRUE(fork == state);
}

TEST(Session, ABatchOfNothingIsNothing) {
  for (const std::string form : {"f32", "bf16", "q8", "q4"}) {
    const Model model = tiny_model(DType::f32, form);
    SerialExecutor executor;
    Session session(model, executor);
    EXPECT_EQ(session.step_batch({}, {}).value().rows, 0);
    EXPECT_EQ(session.verify_batch({}, {}).value().rows, 0);
  }
}

TEST(Session, ChecksItsOptions) {
  const Model model = tiny_model();
  SerialExecutor executor;
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const SessionOptions& options :
       {SessionOptions{.chunk = 0}, SessionOptions{.chunk = -1}, SessionOptions{.chunk = most},
        SessionOptions{.max_batch = -1}, SessionOptions{.max_batch = most},
        SessionOptions{.max_verify = -1}, SessionOptions{.max_verify = most},
        SessionOptions{.max_verify_batch = -1}, SessionOptions{.max_verify_batch = most}}) {
    const auto valid = validate(options, model);
    ASSERT_FALSE(valid);
    EXPECT_EQ(valid.error().code, ErrorCode::bad_argument);
    EXPECT_THROW(Session(model, executor, options), ContractError);
  }
  EXPECT_TRUE(validate({.chunk = Index{1} << 20}, model));
  EXPECT_TRUE(validate({.max_verify = 0}, model));
  EXPECT_TRUE(validate({.max_batch = 0}, model));
  Session smallest(model, executor, {.chunk = 1, .max_batch = 0, .max_verify = 0});
  State state = model.initial_state();
  std::vector<float> log_probs(2);
  EXPECT_TRUE(smallest.score(std::vector<Token>{1, 2, 3}, state, log_probs));
}

TEST(State, IsAValueWithNamedTensors) {
  const Model model = tiny_model();
  State state = model.initial_state();
  EXPECT_EQ(state.position(), 0);
  EXPECT_EQ(state.tensor("layers.1.mixer.ssm_state").size(), 3U * 5 * 16);
  EXPECT_TRUE(state.tensor("layers.9.mixer.ssm_state").empty());
  State copy = state;
  copy.tensor("layers.0.mixer.conv_state")[5] = 1.0F;
  EXPECT_FALSE(copy == state);
  EXPECT_EQ(state.tensor("layers.0.mixer.conv_state")[5], 0.0F);
  std::swap(copy, state);
  EXPECT_EQ(state.tensor("layers.0.mixer.conv_state")[5], 1.0F);
  state.reset();
  EXPECT_TRUE(state == copy);
  const State moved = std::move(copy);
  EXPECT_TRUE(moved == state);
}

}  // namespace
}  // namespace krait::session_test
