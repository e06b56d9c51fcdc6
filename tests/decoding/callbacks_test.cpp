// Callbacks that stop, throw, or have a floating-point mode of their own.
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/tiny_models.hpp"

#if defined(__SSE2__)
#  include <xmmintrin.h>
#endif

namespace krait::callbacks_test {
namespace {

using test::random_tokens;
using test::tiny_model;

class Callbacks : public testing::Test {
 protected:
  Sequence sequence() const { return {model_, random_tokens(20, model_.vocab(), 1)}; }
  Result<GenerationResult> run(Sequence& text, Index count, GenerationCallback callback = {},
                               Progress progress = {}) {
    return generate(session_, *tokenizer_, text,
                    {.max_tokens = count, .sampler = {.seed = 5}, .stop_strings = {"\x01\x02"}},
                    callback, progress);
  }
  // The text that comes of it when it is taken up again after whatever happened.
  void expect_goes_on(Sequence text) {
    ASSERT_GE(text.pending, 1);
    Sequence expected = sequence();
    run(expected, 16).value();
    const Index missing = std::ssize(expected.tokens) - std::ssize(text.tokens);
    ASSERT_GE(missing, 1);
    run(text, missing).value();
    EXPECT_EQ(text.tokens, expected.tokens);
    EXPECT_TRUE(text.state == expected.state);
  }

  Model model_ = tiny_model();
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Session session_{model_, executor_, {.chunk = 8}};
};

TEST_F(Callbacks, StoppingThePromptLosesNothing) {
  for (const Index at : {8, 16, 20}) {
    Sequence text = sequence();
    const auto stop = [&](Index done, Index total) {
      EXPECT_EQ(total, 20);
      return done == at ? Flow::stop : Flow::go_on;
    };
    const auto result = run(text, 10, {}, stop);
    if (at < 20) {
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().code, ErrorCode::cancelled);
      EXPECT_EQ(text.state.position(), at);
      EXPECT_EQ(text.pending, 20 - at);
    } else {  // the logits are there: their token is not lost
      ASSERT_TRUE(result);
      EXPECT_EQ(result->reason, FinishReason::cancelled);
      EXPECT_EQ(result->tokens.size(), 1U);
    }
    expect_goes_on(text);
  }
  for (const Index at : {8, 16, 19}) {
    Sequence text = sequence();
    const auto stop = [&](Index done, Index) { return done == at ? Flow::stop : Flow::go_on; };
    EXPECT_EQ(prefill(session_, text, stop).has_value(), at == 19);
    expect_goes_on(text);
  }
}

TEST_F(Callbacks, TheEndOfAPromptCannotBeStopped) {
  State state = model_.initial_state();
  const auto tokens = random_tokens(20, model_.vocab(), 1);
  Index reports = 0;
  const auto stop = [&](Index done, Index total) {
    ++reports;
    return done == total ? Flow::stop : Flow::go_on;
  };
  EXPECT_TRUE(session_.prefill(tokens, state, stop));
  EXPECT_EQ(reports, 3);
}

#if KRAIT_HAS_EXCEPTIONS
TEST_F(Callbacks, ThrowingInThePromptConsumesNothingTwice) {
  for (const Index at : {8, 16, 20}) {
    Sequence text = sequence();
    const auto fail = [&](Index done, Index) {
      if (done == at) throw std::runtime_error("progress");
      return Flow::go_on;
    };
    EXPECT_THROW(static_cast<void>(run(text, 10, {}, fail)), std::runtime_error);
    expect_goes_on(text);
    if (at == 20) continue;
    text = sequence();
    EXPECT_THROW(static_cast<void>(prefill(session_, text, fail)), std::runtime_error);
    EXPECT_EQ(text.pending, 20 - at);
    expect_goes_on(text);
  }
}

TEST_F(Callbacks, ThrowingInTheTextConsumesNothingTwice) {
  for (const Index at : {1, 2, 7}) {
    Sequence text = sequence();
    const auto fail = [&](const GenerationEvent& event) {
      if (event.count == at) throw std::runtime_error("callback");
      return Flow::go_on;
    };
    EXPECT_THROW(static_cast<void>(run(text, 10, fail)), std::runtime_error);
    EXPECT_EQ(std::ssize(text.tokens), 20 + at);
    expect_goes_on(text);
  }
}
#endif

#if defined(__SSE2__)
TEST_F(Callbacks, RunUnderTheirOwnFloatingPointMode) {
  const unsigned before = _mm_getcsr();
  const unsigned flushing = before | 0x8040U;
  _mm_setcsr(flushing);
  std::vector<unsigned> modes;
  const auto progress = [&](Index, Index) {
    modes.push_back(_mm_getcsr());
    return Flow::go_on;
  };
  const auto show = [&](const GenerationEvent&) {
    modes.push_back(_mm_getcsr());
    return Flow::go_on;
  };
  Sequence text = sequence();
  const auto result = run(text, 3, show, progress);
  _mm_setcsr(before);
  ASSERT_TRUE(result);
  ASSERT_EQ(modes.size(), 6U);
  for (const unsigned mode : modes) EXPECT_EQ(mode & 0x8040U, 0x8040U);
}
#endif

}  // namespace
}  // namespace krait::callbacks_test
