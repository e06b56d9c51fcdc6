// Constraints: forbidden tokens under every sampler, where they end a text, and how they roll back.
#include "krait/decoding/constraint.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <stdexcept>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::constraint_test {
namespace {

using test::random_tokens;
using test::tiny_model;

// Of the tokens below 40, one that is as far from the last as the text is long, modulo 5; so what
// is allowed follows from all of the text. Ends after `limit` tokens.
class Steps final : public Constraint {
 public:
  explicit Steps(Index limit = 1000) : limit_(limit) {}
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Steps>(*this); }
  bool allows(Token token) const {
    return count_ < limit_ && token < 40 && (token - last_ + 100) % 5 == count_ % 5;
  }
  void restrict_to(TokenMask& mask) const override {
    for (Token token = 0; token < mask.size(); ++token) {
      if (!allows(token)) mask.forbid(token);
    }
  }
  void accept(Token token) override {
    last_ = token;
    ++count_;
  }

 private:
  Index limit_;
  Index count_ = 0;
  Token last_ = 0;
};

class Constraints : public testing::Test {
 protected:
  Sequence prompt() const { return {model_, random_tokens(9, model_.vocab(), 5)}; }
  GenerationResult run(Sequence& sequence, const GenerationOptions& options) {
    return generate(session_, *tokenizer_, sequence, options).value();
  }
  std::string run(Generation& generation) {
    std::string text;
    while (!generation.is_finished()) {
      const RunItem step = generation.next().value();
      const auto logits = session_.prefill(step.tokens, generation.state()).value();
      const auto events = generation.accept(logits).value();
      for (const GenerationEvent& event : events) text += event.text;
    }
    return text += generation.finish();
  }
  static void expect_allowed(std::span<const Token> tokens) {
    Steps steps;
    for (const Token token : tokens) {
      ASSERT_TRUE(steps.allows(token)) << token;
      steps.accept(token);
    }
  }

  Model model_ = tiny_model();
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Session session_{model_, executor_};
};

TEST_F(Constraints, HoldUnderEverySampler) {
  const SamplerOptions samplers[] = {{.greedy = true},
                                     {.temperature = 0.0},
                                     {.repetition_penalty = 1.5, .temperature = 0.0},
                                     {.seed = 1},
                                     {.temperature = 0.5, .top_k = 3, .top_p = 0.8, .seed = 2},
                                     {.typical_p = 0.4, .seed = 3}};
  std::set<std::vector<Token>> different;
  for (const SamplerOptions& sampler : samplers) {
    Sequence free = prompt();
    Sequence text = prompt();
    const GenerationResult result =
        run(text,
            {.max_tokens = 60, .sampler = sampler, .constraint = std::make_shared<const Steps>()});
    EXPECT_EQ(result.tokens.size(), 60U);
    expect_allowed(result.tokens);
    EXPECT_NE(result.tokens, run(free, {.max_tokens = 60, .sampler = sampler}).tokens);
    different.insert(result.tokens);
  }
  EXPECT_GE(different.size(), 4U);
}

TEST_F(Constraints, EndATextThatNothingMayFollow) {
  for (const Index limit : {0, 1, 7}) {
    Sequence text = prompt();
    const GenerationResult result =
        run(text, {.max_tokens = 20, .constraint = std::make_shared<const Steps>(limit)});
    EXPECT_EQ(result.reason, FinishReason::constraint);
    EXPECT_EQ(to_string(result.reason), "constraint");
    EXPECT_EQ(std::ssize(result.tokens), limit);
    // The last token is pending, as behind every text; without one, the prompt is.
    EXPECT_EQ(text.pending, limit == 0 ? 9 : 1);
    EXPECT_EQ(std::ssize(text.tokens), 9 + limit);
  }
}

// The constraint of a copy is its own.
TEST_F(Constraints, AreCopied) {
  Generation one =
      Generation::make(
          model_, *tokenizer_, prompt(),
          {.max_tokens = 30, .sampler = {.seed = 4}, .constraint = std::make_shared<const Steps>()})
          .value();
  for (int i = 0; i < 10; ++i) {
    const auto logits = session_.prefill(one.next().value().tokens, one.state()).value();
    one.accept(logits).value();
  }
  Generation two = one;
  EXPECT_EQ(run(one), run(two));
  EXPECT_EQ(one.result().tokens, two.result().tokens);
  expect_allowed(one.result().tokens);
}

// Behind a stop string the constraint stands where the text ends, wherever that is; so it goes on
// as if it had never seen the rest.
TEST_F(Constraints, RollBackWithAStopString) {
  GenerationOptions options{.max_tokens = 200,
                            .sampler = {.repetition_penalty = 1.2, .seed = 6},
                            .constraint = std::make_shared<const Steps>()};
  Sequence free = prompt();
  const std::vector<Token> all = run(free, options).tokens;
  for (const std::size_t at : {3U, 50U, 70U, 150U}) {
    for (const std::size_t size : {1U, 4U}) {
      const std::vector<Token> bytes(all.begin() + static_cast<std::ptrdiff_t>(at),
                                     all.begin() + static_cast<std::ptrdiff_t>(at + size));
      options.stop_strings = {tokenizer_->decode(bytes)};
      Generation generation = Generation::make(model_, *tokenizer_, prompt(), options).value();
      run(generation);
      ASSERT_EQ(generation.result().reason, FinishReason::stop_string);
      const auto kept = std::span(generation.sequence().tokens).subspan(9);
      ASSERT_LE(kept.size(), at);
      expect_allowed(kept);
      ASSERT_TRUE(std::ranges::equal(kept, std::span(all).first(kept.size())));
      const std::vector<Token> before(kept.begin(), kept.end());
      // Sampling again from there gives the stop string again; the sampler saw the same text.
      Generation again = generation;
      again.resume(static_cast<Index>(size)).value();
      run(again);
      EXPECT_TRUE(
          std::ranges::equal(again.result().tokens, std::span(all).subspan(before.size(), size)));
      // With other text behind it, it begins anew.
      generation.resume(30, std::vector<Token>{63}).value();
      run(generation);
      expect_allowed(generation.result().tokens);
    }
  }
}

// Resumed without more text, it goes on; cut anywhere, the text is the whole.
TEST_F(Constraints, GoOnWhereATextWasCut) {
  GenerationOptions options{
      .max_tokens = 30, .sampler = {.seed = 8}, .constraint = std::make_shared<const Steps>()};
  Sequence text = prompt();
  const std::vector<Token> whole = run(text, options).tokens;
  options.max_tokens = 11;
  Generation generation = Generation::make(model_, *tokenizer_, prompt(), options).value();
  run(generation);
  std::vector<Token> tokens = generation.result().tokens;
  generation.resume(19).value();
  run(generation);
  tokens.insert(tokens.end(), generation.result().tokens.begin(), generation.result().tokens.end());
  EXPECT_EQ(tokens, whole);
}

// A stop token that the constraint leaves in ends the text; one that it forbids does not.
TEST_F(Constraints, DecideAboutStopTokens) {
  class Only final : public Constraint {
   public:
    explicit Only(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
    std::unique_ptr<Constraint> clone() const override { return std::make_unique<Only>(*this); }
    void restrict_to(TokenMask& mask) const override {
      mask.forbid_all();
      for (const Token token : tokens_) mask.allow(token);
    }
    void accept(Token /*token*/) override {}

   private:
    std::vector<Token> tokens_;
  };
  GenerationOptions options{.max_tokens = 5, .stop_tokens = {7}};
  options.constraint = std::make_shared<const Only>(std::vector<Token>{7});
  Sequence text = prompt();
  GenerationResult result = run(text, options);
  EXPECT_EQ(result.reason, FinishReason::stop_token);
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_EQ(text.tokens.back(), 7);
  options.constraint = std::make_shared<const Only>(std::vector<Token>{8});
  text = prompt();
  EXPECT_EQ(run(text, options).tokens, std::vector<Token>(5, 8));
}

#if KRAIT_HAS_EXCEPTIONS
TEST_F(Constraints, MayThrow) {
  class Throws final : public Constraint {
   public:
    std::unique_ptr<Constraint> clone() const override { return std::make_unique<Throws>(*this); }
    void restrict_to(TokenMask& /*mask*/) const override {
      if (count_ == 3) throw std::runtime_error("mask");
    }
    void accept(Token /*token*/) override { ++count_; }

   private:
    int count_ = 0;
  };
  Sequence text = prompt();
  GenerationOptions options{.max_tokens = 9, .sampler = {.seed = 3}};
  options.constraint = std::make_shared<const Throws>();
  EXPECT_THROW(run(text, options), std::runtime_error);
  Sequence expected = prompt();
  options.constraint = nullptr;
  run(expected, options);
  EXPECT_EQ(text.tokens.size(), 9U + 3U);
  EXPECT_EQ(text.pending, 1);
  options.max_tokens = 6;
  run(text, options);
  EXPECT_EQ(text.tokens, expected.tokens);
}
#endif

}  // namespace
}  // namespace krait::constraint_test
