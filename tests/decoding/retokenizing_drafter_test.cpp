// Drafters of another vocabulary: what they guess is spelled in the target's tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "krait/decoding/drafter.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::retokenizing_drafter_test {
namespace {

using Tokens = std::vector<Token>;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

const TokenizerPtr& words() {
  static const TokenizerPtr tokenizer =
      read_tokenizer_json(test::read_file(test::data_dir() / "data/gpt-neox-20b/tokenizer.json"))
          .value();
  return tokenizer;
}
const TokenizerPtr& bytes() {
  static const TokenizerPtr tokenizer = byte_tokenizer();
  return tokenizer;
}

const std::string sentence =
    "The quick brown fox, whose name nobody knows, jumps over the lazy dog's 23 puppies; \n"
    "na\xc3\xafve caf\xc3\xa9 owners look on.\n";

std::string text_of(const Draft& draft, const Tokenizer& tokenizer) {
  std::string text;
  for (const Token token : draft.tokens) text += tokenizer.bytes(token);
  return text;
}

Draft propose(Drafter& drafter, Index most, const Tokens& ahead = {}) {
  Draft draft;
  for (const Token token : ahead) draft.append(token, {});
  drafter.propose(draft, most).value();
  return draft;
}

std::unique_ptr<Drafter> copying(const TokenizerPtr& own, const TokenizerPtr& target) {
  return retokenizing_drafter(ngram_drafter({.least = 1}).value(), own, target);
}

TEST(Retokenizing, BytesAreGuessedByWords) {
  const auto drafter = copying(words(), bytes());
  EXPECT_EQ(drafter->name(), "ngram");
  const Tokens text = bytes()->encode(sentence + "The quick brown").value();
  drafter->observe(text).value();
  const Draft draft = propose(*drafter, 24);
  EXPECT_EQ(text_of(draft, *bytes()), " fox, whose name nobody ");
  EXPECT_EQ(draft.marks.size(), 24U);
  // Behind what is in the draft already, also within a word.
  EXPECT_EQ(text_of(propose(*drafter, 9, bytes()->encode(" fo").value()), *bytes()),
            " fox, whose ");
}

// A text seen before is copied, from wherever one is in it.
void expect_copied(const TokenizerPtr& own, const TokenizerPtr& target, double least) {
  const auto drafter = copying(own, target);
  const Tokens once = target->encode(sentence).value();
  drafter->observe(once).value();
  Index guessed = 0;
  Index right = 0;
  for (std::size_t i = 0; i < once.size(); ++i) {
    const Draft draft = propose(*drafter, 6);
    const Tokens rest(once.begin() + static_cast<std::ptrdiff_t>(i), once.end());
    const auto [end, unused] = std::ranges::mismatch(draft.tokens, rest);
    guessed += std::min<Index>(6, std::ssize(rest));
    right += std::min<Index>(end - draft.tokens.begin(), std::ssize(rest));
    EXPECT_LE(draft.size(), 6);
    drafter->observe(std::span(once).subspan(i, 1)).value();
  }
  EXPECT_GT(static_cast<double>(right), least * static_cast<double>(guessed));
}

TEST(Retokenizing, ATextSeenBeforeIsCopied) {
  expect_copied(words(), bytes(), 0.8);
  expect_copied(bytes(), words(), 0.6);  // the last token of a guess is held back
  expect_copied(words(), words(), 0.6);
  expect_copied(bytes(), bytes(), 0.95);
}

// Guesses " lo", which is not how the word at the end began, unless it is shown the beginning.
class Fixed final : public Drafter {
 public:
  std::string_view name(Index /*level*/) const noexcept override { return "fixed"; }
  Result<void> begin(const DraftSetting& setting) override {
    is_greedy = setting.sampler.greedy;
    return {};
  }
  Result<void> observe(std::span<const Token> tokens) override {
    seen.insert(seen.end(), tokens.begin(), tokens.end());
    return {};
  }
  Result<void> propose(Draft& draft, Index /*most*/, Index level) override {
    const std::string_view next = draft.empty() ? " wrong" : end_of_text ? "<|endoftext|>" : " end";
    draft.append(*words()->find(next), {.level = level, .confidence = 0.25});
    return {};
  }
  std::unique_ptr<Drafter> clone() const override { return std::make_unique<Fixed>(*this); }

  bool is_greedy = false;
  bool end_of_text = false;
  Tokens seen;
};

TEST(Retokenizing, ADrafterIsShownHowAWordBegan) {
  auto owned = std::make_unique<Fixed>();
  Fixed& fixed = *owned;
  const auto drafter = retokenizing_drafter(std::move(owned), words(), bytes());
  drafter->begin({.sampler = {.temperature = 0.5}, .acceptance = Acceptance::rejection}).value();
  EXPECT_TRUE(fixed.is_greedy);
  drafter->observe(bytes()->encode("All of London").value()).value();
  // What is settled are the words before the last.
  EXPECT_EQ(fixed.seen, words()->encode("All of").value());
  const Draft draft = propose(*drafter, 5);
  EXPECT_EQ(text_of(draft, *bytes()), " end ");
  EXPECT_EQ(draft.marks[0].confidence, 0.25);
  EXPECT_EQ(draft.marks[1].confidence, 0.625);  // the word is right if its beginning is
  EXPECT_TRUE(std::ranges::all_of(draft.laws, &TokenLaw::is_one_hot));
  fixed.end_of_text = true;
  EXPECT_TRUE(propose(*drafter, 5).empty());
}

TEST(Retokenizing, WhatIsNoTextCostsGuessesOnly) {
  const auto drafter = copying(words(), bytes());
  Tokens noise = test::random_tokens(600, 256, 9);
  drafter->observe(noise).value();
  propose(*drafter, 8);
  const Tokens text = bytes()->encode(sentence + "The quick").value();
  drafter->observe(text).value();
  EXPECT_EQ(text_of(propose(*drafter, 6), *bytes()), " brown");
  // No space for long: what is known is cut anywhere, so that looking at it stays cheap.
  drafter->observe(Tokens(5000, 'x')).value();
  EXPECT_LE(propose(*drafter, 8).size(), 8);
}

// A normalizer adds characters that the decoder takes away.
TEST(Retokenizing, TokensWithoutBytesEndAGuess) {
  const TokenizerPtr target = read_tokenizer_json(R"({"normalizer":{"type":"Replace","pattern":
      {"String":"b"},"content":"b☃☃☃"},"decoder":{"type":"Replace","pattern":{"String":"☃"},
      "content":""},"model":{"type":"BPE","vocab":{"a":0,"b":1,"☃":2},"merges":[]}})")
                                  .value();
  const auto drafter = copying(bytes(), target);
  const Tokens text = target->encode("abababab").value();
  drafter->observe(text).value();
  const std::string guess = text_of(propose(*drafter, 8), *target);
  EXPECT_TRUE(std::string("abababab").starts_with(guess)) << guess;
}

TEST(Retokenizing, CopiesGoSeparateWays) {
  const auto drafter = copying(words(), bytes());
  drafter->observe(bytes()->encode(sentence + "The quick").value()).value();
  const auto copy = drafter->clone();
  copy->observe(bytes()->encode(" brown fox").value()).value();
  EXPECT_EQ(text_of(propose(*drafter, 6), *bytes()), " brown");
  EXPECT_EQ(text_of(propose(*copy, 7), *bytes()), ", whose");
}

}  // namespace
}  // namespace krait::retokenizing_drafter_test
