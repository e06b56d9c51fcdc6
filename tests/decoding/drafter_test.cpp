// Drafters that need no model, against a search that looks at every place.
#include "krait/decoding/drafter.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "tests/support/tiny_models.hpp"

namespace krait::drafter_test {
namespace {

using test::random_tokens;
using Tokens = std::vector<Token>;

// The length of the longest suffix of `text` that ends at `end` (exclusive) too.
std::size_t common_suffix(const Tokens& text, std::size_t end) {
  std::size_t length = 0;
  while (length < end && text[end - 1 - length] == text[text.size() - 1 - length]) ++length;
  return length;
}

struct Found {
  std::size_t length = 0;
  std::size_t first = 0;  // where the first place of it ends
};

// The longest suffix of `all` that ends within the first `known` tokens, and before its own end.
Found longest(const Tokens& all, std::size_t known) {
  Found found;
  for (std::size_t end = 1; end <= std::min(known, all.size() - 1); ++end) {
    const std::size_t length = common_suffix(all, end);
    if (length > found.length) found = {length, end};
  }
  return found;
}

Draft propose(Drafter& drafter, Index most, const Tokens& ahead = {}) {
  Draft draft;
  for (const Token token : ahead) draft.append(token, {});
  drafter.propose(draft, most).value();
  return draft;
}

TEST(Ngram, GuessesWhatFollowedTheLongestSuffix) {
  for (const Index alphabet : {2, 3, 7}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto drafter = ngram_drafter({.least = 1}).value();
      const Tokens text = random_tokens(120, alphabet, seed);
      for (std::size_t n = 1; n <= text.size(); ++n) {
        drafter->observe(std::span(text).subspan(n - 1, 1)).value();
        const Tokens now(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(n));
        const Found found = longest(now, n);
        const Draft draft = propose(*drafter, 4);
        ASSERT_EQ(draft.size(), found.length == 0 ? 0 : 4);
        if (draft.empty()) continue;
        // What is guessed did follow a place where the suffix of this length ends.
        bool is_found = false;
        for (std::size_t end = 1; end < n && !is_found; ++end) {
          if (common_suffix(now, end) < found.length) continue;
          Tokens all = now;
          is_found = true;
          for (std::size_t i = 0; i < 4 && is_found; ++i) {
            is_found = all[end + i] == draft.tokens[i];
            all.push_back(draft.tokens[i]);
          }
        }
        EXPECT_TRUE(is_found) << "at " << n << " of seed " << seed;
      }
    }
  }
}

TEST(Ngram, FollowsTheTokensOfADraft) {
  const auto drafter = ngram_drafter({.least = 2}).value();
  drafter->observe(Tokens{1, 2, 3, 4, 5, 9, 1, 2}).value();
  EXPECT_EQ(propose(*drafter, 3).tokens, (Tokens{3, 4, 5}));
  EXPECT_EQ(propose(*drafter, 2, {3}).tokens, (Tokens{3, 4, 5}));
  EXPECT_EQ(propose(*drafter, 2, {3, 4, 5}).tokens, (Tokens{3, 4, 5, 9, 1}));
  EXPECT_EQ(propose(*drafter, 2, {8}).tokens, (Tokens{8})) << "stands nowhere";
  EXPECT_EQ(propose(*drafter, 1, {8, 4, 5}).tokens, (Tokens{8, 4, 5, 9}));
  EXPECT_EQ(propose(*drafter, 1, {8, 5}).tokens, (Tokens{8, 5})) << "one token is too few";
  const Draft draft = propose(*drafter, 3);
  EXPECT_LT(draft.marks[0].confidence, draft.marks[2].confidence) << "a longer match";
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(draft.laws[i](draft.tokens[i]), 1.0);
}

TEST(Ngram, TakesTheLastPlaceAndGoesOnWithAPeriod) {
  const auto drafter = ngram_drafter({.least = 2}).value();
  drafter->observe(Tokens{1, 2, 3, 1, 2, 4, 1, 2}).value();
  EXPECT_EQ(propose(*drafter, 1).tokens, (Tokens{4}));
  drafter->begin({}).value();
  drafter->observe(Tokens{7, 8, 7, 8}).value();
  EXPECT_EQ(propose(*drafter, 7).tokens, (Tokens{7, 8, 7, 8, 7, 8, 7}));
  drafter->begin({}).value();
  EXPECT_TRUE(propose(*drafter, 7).empty()) << "of nothing";
}

TEST(Ngram, ForgetsWhatIsOld) {
  const auto drafter = ngram_drafter({.least = 3, .history = 64}).value();
  const Tokens text = random_tokens(1000, 50, 3);
  drafter->observe(text).value();
  // What stands among the last 32 is found, what stands before the last 64 is not.
  drafter->observe(std::span(text).subspan(980, 6)).value();
  EXPECT_EQ(propose(*drafter, 3).tokens, Tokens(text.begin() + 986, text.begin() + 989));
  drafter->observe(std::span(text).subspan(500, 6)).value();
  EXPECT_TRUE(propose(*drafter, 3).empty());
}

TEST(Ngram, CopiesGoSeparateWays) {
  const auto drafter = ngram_drafter({.least = 2}).value();
  drafter->observe(Tokens{1, 2, 3, 1, 2}).value();
  const auto copy = drafter->clone();
  copy->observe(Tokens{3, 5}).value();
  EXPECT_EQ(propose(*drafter, 2).tokens, (Tokens{3, 1}));
  EXPECT_TRUE(propose(*copy, 2).empty());
}

// As the paper's: the longest suffix at its first place, what followed to the end, and again.
Tokens maxgram(const Tokens& text, std::size_t count) {
  Tokens all = text;
  while (all.size() < text.size() + count) {
    const Found found = longest(all, text.size());
    if (found.length == 0) break;
    std::size_t next = found.first;
    do {
      all.push_back(all[next++]);
    } while (all.size() < text.size() + count && next < text.size());
  }
  return {all.begin() + static_cast<std::ptrdiff_t>(text.size()), all.end()};
}

TEST(MaxGram, GuessesAsThePaperSays) {
  for (const Index alphabet : {2, 4, 9}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto drafter = maxgram_drafter().value();
      const Tokens text = random_tokens(90, alphabet, seed);
      for (std::size_t n = 1; n <= text.size(); ++n) {
        drafter->observe(std::span(text).subspan(n - 1, 1)).value();
        const Tokens now(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(n));
        ASSERT_EQ(propose(*drafter, 6).tokens, maxgram(now, 6))
            << "at " << n << " of seed " << seed;
      }
    }
  }
}

TEST(MaxGram, IsFilledUpByBigrams) {
  const Tokens corpus = {0, 1, 2, 0, 1, 3, 0, 1, 2, 5};
  const std::vector<Token> table = bigram_table(corpus, 7).value();
  EXPECT_EQ(table, (Tokens{1, 2, 0, 0, -1, -1, -1})) << "of two that are as frequent, the lower";
  const auto drafter = maxgram_drafter({.bigrams = table}).value();
  drafter->observe(Tokens{6, 3}).value();
  EXPECT_EQ(propose(*drafter, 4).tokens, (Tokens{0, 1, 2, 0}));
  drafter->observe(Tokens{5}).value();
  EXPECT_TRUE(propose(*drafter, 4).empty());
}

template <class R>
std::string message(const R& result) {
  return result ? "no error" : result.error().message;
}

TEST(DrafterErrors, NameTheOption) {
  EXPECT_EQ(message(ngram_drafter({.least = 0})),
            "[draft] least: expected at least 1 token, found 0");
  EXPECT_EQ(message(ngram_drafter({.history = 1})),
            "[draft] history: expected 2 to 268435456 tokens, found 1");
  EXPECT_EQ(message(maxgram_drafter({.history = -1})),
            "[draft] history: expected 2 to 268435456 tokens, found -1");
  EXPECT_EQ(message(maxgram_drafter({.bigrams = {0, 2}})),
            "[draft] bigrams: expected -1 or tokens below 2, found 2");
  EXPECT_EQ(message(bigram_table(Tokens{1, 9}, 5)),
            "[draft] text: expected token ids from 0 to 4, found 9");
  EXPECT_EQ(message(bigram_table({}, 0)), "[draft] vocabulary: expected at least 1 token, found 0");
}

TEST(CascadeErrors, NameTheOption) {
  SerialExecutor executor;
  const Model model = test::tiny_model();
  const auto make = [&](CascadeOptions options, std::unique_ptr<Drafter> bottom) {
    return message(
        cascade_drafter({{model, "a"}}, std::move(bottom), executor, std::move(options)));
  };
  EXPECT_EQ(message(cascade_drafter({}, nullptr, executor)),
            "[draft] cascade: expected at least one model, found none");
  EXPECT_EQ(make({.lenience = 0.5}, ngram_drafter().value()),
            "[draft] lenience: expected a number of at least 1, found 0.5");
  EXPECT_EQ(make({.lenience = 2.0}, nullptr),
            "[draft] lenience: expected 1, where no model reviews another's guesses, found 2");
  EXPECT_EQ(make({.increments = {{1}}}, ngram_drafter().value()),
            "[draft] increments: expected 2 rows of 2 numbers from 0 to 1024, found 1 rows");
  EXPECT_EQ(make({.increments = {{1, 2}, {1}}}, ngram_drafter().value()),
            "[draft] increments: expected 2 rows of 2 numbers from 0 to 1024, found a row of 1");
  EXPECT_EQ(make({.increments = {{1, -2}, {1, 1}}}, ngram_drafter().value()),
            "[draft] increments: expected 2 rows of 2 numbers from 0 to 1024, found -2");
}

}  // namespace
}  // namespace krait::drafter_test
