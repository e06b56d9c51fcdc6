// Stop strings in generated text: what is shown, what stays in the sequence, and how both go on.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <stdexcept>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/loading/language_model.hpp"
#include "tests/support/support.hpp"

namespace krait::stop_strings_test {
namespace {

// Bytes, but for some tokens of several bytes and some special ones.
class OddTokenizer final : public Tokenizer {
 public:
  explicit OddTokenizer(std::map<Token, std::string> long_tokens = {}, std::set<Token> special = {})
      : special_(std::move(special)) {
    for (Token token = 0; token < 256; ++token) {
      spelling_.emplace_back(1, static_cast<char>(token));
    }
    for (auto& [token, text] : long_tokens) {
      // Every byte of the text stays the spelling of some token.
      spelling_[static_cast<std::size_t>(token + 128)] = spelling_[static_cast<std::size_t>(token)];
      spelling_[static_cast<std::size_t>(token)] = text;
    }
  }

  Result<std::vector<Token>> encode(std::string_view text,
                                    const EncodeOptions& /*options*/) const override {
    std::vector<Token> tokens;
    for (const char c : text) {
      const auto token = find(std::string_view(&c, 1));
      if (!token) return Error{ErrorCode::bad_argument, "[test] no token"};
      tokens.push_back(*token);
    }
    return tokens;
  }
  std::string_view bytes(Token token) const noexcept override {
    return spelling_[static_cast<std::size_t>(token)];
  }
  Index vocab() const noexcept override { return 256; }
  bool is_special(Token token) const noexcept override { return special_.contains(token); }
  std::optional<Token> find(std::string_view text) const override {
    for (Token token = 0; token < 256; ++token) {
      if (spelling_[static_cast<std::size_t>(token)] == text) return token;
    }
    return std::nullopt;
  }

 private:
  std::vector<std::string> spelling_;
  std::set<Token> special_;
};

class StopStrings : public testing::Test {
 protected:
  Sequence sequence(std::string_view prompt) const {
    std::vector<Token> tokens;
    for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
    return Sequence(lm_.model, tokens);
  }
  GenerationResult run(const Tokenizer& tokenizer, Sequence& text, Index count,
                       const std::vector<std::string>& stops, bool hold_back = true) {
    return generate(session_, tokenizer, text,
                    {.max_tokens = count,
                     .sampler = {.temperature = 0.8, .seed = 5},
                     .stop_strings = stops,
                     .hold_back = hold_back})
        .value();
  }

  // The text, and the state that has consumed all but what is pending, and nothing else.
  void expect_consistent(const Sequence& text) {
    ASSERT_GE(text.pending, 1);
    State state = lm_.model.initial_state();
    const auto consumed =
        std::span(text.tokens).first(text.tokens.size() - text.pending_tokens().size());
    if (!consumed.empty()) session_.prefill(consumed, state).value();
    EXPECT_TRUE(state == text.state);
  }

  // Generates with a stop string that lies at [at, at + size) of the text that would come without,
  // in one run and in two, cut everywhere.
  void expect_stop(const Tokenizer& tokenizer, const std::string& prompt, Index count,
                   std::size_t at, std::size_t size) {
    Sequence full = sequence(prompt);
    const GenerationResult plain = run(tokenizer, full, count, {});
    const std::string all = tokenizer.decode(plain.tokens);
    ASSERT_LE(at + size, all.size());
    const std::string stop = all.substr(at, size);
    SCOPED_TRACE(testing::Message() << "stop '" << stop << "' in '" << all << "'");
    const std::size_t begin = all.find(stop);
    // Whole tokens before it, and what readers see.
    std::string kept;
    std::string visible;
    std::size_t whole = 0;
    for (const Token token : plain.tokens) {
      const std::string_view bytes = tokenizer.bytes(token);
      const std::string_view part = bytes.substr(0, begin - kept.size());
      if (part.size() < bytes.size()) {
        if (!tokenizer.is_special(token)) visible += part, kept += part;
        break;
      }
      ++whole;
      kept += part;
      if (!tokenizer.is_special(token)) visible += part;
    }

    Sequence text = sequence(prompt);
    const GenerationResult result = run(tokenizer, text, count, {stop});
    EXPECT_EQ(result.reason, FinishReason::stop_string);
    EXPECT_EQ(result.text, visible);
    EXPECT_EQ(text.unshown, 0);
    EXPECT_EQ(tokenizer.decode(text.tokens), prompt + kept);
    ASSERT_GE(text.tokens.size(), prompt.size() + whole);
    for (std::size_t i = 0; i < whole; ++i) {
      EXPECT_EQ(text.tokens[prompt.size() + i], plain.tokens[i]);
    }
    expect_consistent(text);

    for (Index first = 1; first < std::ssize(result.tokens); ++first) {
      SCOPED_TRACE(testing::Message() << "cut after " << first);
      Sequence cut = sequence(prompt);
      const GenerationResult one = run(tokenizer, cut, first, {stop});
      EXPECT_EQ(one.reason, FinishReason::max_tokens);
      expect_consistent(cut);
      const GenerationResult two = run(tokenizer, cut, count - first, {stop});
      EXPECT_EQ(two.reason, FinishReason::stop_string);
      EXPECT_EQ(one.text + two.text, visible);
      EXPECT_EQ(one.tokens.size() + two.tokens.size(), result.tokens.size());
      EXPECT_EQ(cut.tokens, text.tokens);
      EXPECT_EQ(cut.unshown, 0);
      expect_consistent(cut);
    }
  }

  LanguageModel lm_ =
      load_language_model((test::bundled_models_dir() / "krait-bytes-draft").string()).value();
  SerialExecutor executor_;
  Session session_{lm_.model, executor_};
};

TEST_F(StopStrings, LeaveInTheSequenceWhatWasShown) {
  const OddTokenizer bytes;
  for (const std::size_t size : {1U, 2U, 5U}) {
    for (const std::size_t at : {0U, 1U, 7U, 20U}) expect_stop(bytes, "The old man ", 30, at, size);
  }
}

TEST_F(StopStrings, MayBeginAndEndWithinTokens) {
  const OddTokenizer tokenizer({{'e', "(seven)"}, {' ', "a b"}, {'t', "[t]"}, {'h', "h, h"}});
  for (const std::size_t size : {1U, 3U, 9U, 14U}) {
    for (const std::size_t at : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 11U}) {
      expect_stop(tokenizer, "Xyz", 20, at, size);
    }
  }
}

TEST_F(StopStrings, MayEndWithATokenThatEndsTheTextItself) {
  Sequence text = sequence("Xyz");
  const std::vector<Token> plain = run(OddTokenizer(), text, 40, {}).tokens;
  auto mark = plain.begin() + 1;  // the first token that did not come up before it
  while (std::find(plain.begin(), mark, *mark) != mark) ++mark;
  const OddTokenizer tokenizer({{static_cast<char>(*mark), "<|end|>"}}, {static_cast<char>(*mark)});
  const auto ended_by = [&](const std::vector<std::string>& stops) {
    text = sequence("Xyz");
    return generate(session_, tokenizer, text,
                    {.max_tokens = 40,
                     .sampler = {.temperature = 0.8, .seed = 5},
                     .stop_tokens = {*mark},
                     .stop_strings = stops})
        .value();
  };
  const std::string before = tokenizer.decode({plain.begin(), mark - 1});
  const std::string last(tokenizer.bytes(*(mark - 1)));
  const GenerationResult by_string = ended_by({last + "<|end|>"});
  EXPECT_EQ(by_string.reason, FinishReason::stop_string);
  EXPECT_EQ(by_string.text, before);
  expect_consistent(text);
  const GenerationResult by_token = ended_by({"<|end|>?"});
  EXPECT_EQ(by_token.reason, FinishReason::stop_token);
  EXPECT_EQ(by_token.text, before + last);
}

TEST_F(StopStrings, SeeSpecialTokensThatReadersDoNot) {
  const OddTokenizer tokenizer({{'e', "<|e|>"}, {' ', "<|space|>"}}, {'e', ' '});
  for (const std::size_t size : {1U, 4U, 9U, 14U}) {
    for (const std::size_t at : {0U, 1U, 2U, 5U, 9U, 12U}) {
      expect_stop(tokenizer, "Xyz", 20, at, size);
    }
  }
  Sequence text = sequence("Xyz");
  const GenerationResult plain = run(tokenizer, text, 20, {});
  EXPECT_EQ(plain.text.find('|'), std::string::npos);
  text = sequence("Xyz");
  const GenerationResult result = run(tokenizer, text, 20, {"<|space|>"});
  EXPECT_EQ(result.reason, FinishReason::stop_string);
}

// Far from the beginning, where the states of the first tokens are gone.
TEST_F(StopStrings, TakeBackLittleOfALongText) {
  const OddTokenizer bytes;
  const std::string prompt(100, 'x');
  Sequence full = sequence(prompt);
  const std::string all = run(bytes, full, 400, {}).text;
  for (const std::size_t at : {3U, 63U, 64U, 65U, 130U, 190U, 300U, 390U}) {
    for (const std::string& other : {std::string("never"), all.substr(at - 1, 1) + "\x01"}) {
      std::string stop = all.substr(at, 9);
      Sequence text = sequence(prompt);
      const GenerationResult result = run(bytes, text, 400, {stop, other});
      const std::size_t begin = all.find(stop);
      EXPECT_EQ(result.text, all.substr(0, begin));
      EXPECT_EQ(bytes.decode(text.tokens), prompt + all.substr(0, begin));
      EXPECT_LE(text.pending, 140) << "of " << text.tokens.size();
      expect_consistent(text);
    }
  }
}

TEST_F(StopStrings, TheTextGoesOnFromWhereItWasCut) {
  const OddTokenizer bytes;
  Sequence full = sequence("The ");
  const std::string all = run(bytes, full, 40, {}).text;
  Sequence text = sequence("The ");
  run(bytes, text, 40, {all.substr(12, 4)});
  Sequence same = sequence("The " + all.substr(0, all.find(all.substr(12, 4))));
  ASSERT_EQ(text.tokens, same.tokens);
  for (Sequence* each : {&text, &same}) each->append(std::vector<Token>{'\n', 'B'});
  EXPECT_EQ(run(bytes, text, 20, {}).text, run(bytes, same, 20, {}).text);
  EXPECT_TRUE(text.state == same.state);
}

// What waits is in the file of the state, is shown if no stop string comes of it, and need not
// wait.
TEST_F(StopStrings, WhatWaitsIsNotLost) {
  const OddTokenizer bytes;
  Sequence full = sequence("The ");
  const std::string all = run(bytes, full, 30, {}).text;
  const std::string stop = all.substr(10, 3) + "\x01";
  Sequence text = sequence("The ");
  const GenerationResult one = run(bytes, text, 13, {stop});
  EXPECT_EQ(one.text, all.substr(0, 10));
  EXPECT_EQ(text.unshown, 3);
  const test::TemporaryDirectory directory;
  save_state(text, (directory.path() / "s").string()).value();
  for (const std::vector<std::string>& stops :
       {std::vector<std::string>{stop}, {}, {"\x02"}, {all.substr(12, 1) + "\x01"}}) {
    Sequence again = load_state(lm_.model, (directory.path() / "s").string()).value();
    EXPECT_EQ(one.text + run(bytes, again, 17, stops, false).text, all);
    EXPECT_EQ(again.tokens, full.tokens);
  }
  Sequence shown = sequence("The ");
  EXPECT_EQ(run(bytes, shown, 13, {stop}, false).text, all.substr(0, 13));
  EXPECT_EQ(shown.unshown, 0);
  EXPECT_EQ(shown.pending, 1);
  EXPECT_EQ(run(bytes, shown, 17, {stop}, false).text, all.substr(13));
  EXPECT_EQ(shown.tokens, full.tokens);

  Sequence waiting = load_state(lm_.model, (directory.path() / "s").string()).value();
  prefill(session_, waiting).value();
  EXPECT_EQ(one.text + run(bytes, waiting, 17, {stop}, false).text, all);
}

// A callback that throws at the token that completes a stop string: the text ends there all the
// same.
#if KRAIT_HAS_EXCEPTIONS
TEST_F(StopStrings, EndATextWhoseCallbackThrows) {
  const OddTokenizer bytes;
  Sequence full = sequence("The ");
  const std::string all = run(bytes, full, 30, {}).text;
  const std::string stop = all.substr(10, 4);
  Sequence expected = sequence("The ");
  const Index count = std::ssize(run(bytes, expected, 30, {stop}).tokens);
  for (const Index at : {count - 2, count}) {
    Sequence text = sequence("The ");
    const auto fail = [&](const GenerationEvent& event) {
      if (event.count == at) throw std::runtime_error("callback");
      return Flow::go_on;
    };
    const GenerationOptions options{
        .max_tokens = 30, .sampler = {.temperature = 0.8, .seed = 5}, .stop_strings = {stop}};
    EXPECT_THROW(static_cast<void>(generate(session_, bytes, text, options, fail)),
                 std::runtime_error);
    expect_consistent(text);
    if (at < count) run(bytes, text, 30 - at, {stop});
    EXPECT_EQ(text.tokens, expected.tokens);
    EXPECT_EQ(text.unshown, 0);
  }
}
#endif

TEST_F(StopStrings, DoNotBeginInThePrompt) {
  const OddTokenizer bytes;
  Sequence full = sequence("The ");
  const std::string all = run(bytes, full, 10, {}).text;
  Sequence text = sequence("The ");
  EXPECT_EQ(run(bytes, text, 10, {"e " + all.substr(0, 2)}, false).text, all);
}

}  // namespace
}  // namespace krait::stop_strings_test
