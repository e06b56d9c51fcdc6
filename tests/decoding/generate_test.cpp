#include "krait/decoding/generate.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "krait/core/thread_pool.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/loading/language_model.hpp"
#include "tests/support/support.hpp"

namespace krait::generate_test {
namespace {

class Generate : public testing::Test {
 protected:
  Sequence sequence(const std::string& prompt) const {
    return Sequence(lm_.model, lm_.tokenizer->encode(prompt).value());
  }
  GenerationResult run(Sequence& text, const GenerationOptions& options) {
    return generate(session_, *lm_.tokenizer, text, options).value();
  }

  LanguageModel lm_ =
      load_language_model((test::bundled_models_dir() / "krait-bytes-draft").string()).value();
  ThreadPool threads_{2};
  Session session_{lm_.model, threads_};
};

TEST_F(Generate, GreedyTextEqualsTheReference) {
  const auto golden =
      nlohmann::json::parse(test::read_file(test::data_dir() / "golden" / "greedy.json"));
  for (const auto& [name, entry] : golden["models"].items()) {
    const LanguageModel lm =
        load_language_model((test::bundled_models_dir() / name).string()).value();
    Session session(lm.model, threads_);
    Sequence text(lm.model, lm.tokenizer->encode(golden["prompt"].get<std::string>()).value());
    const auto expected = entry["bytes"].get<std::vector<Token>>();
    const GenerationResult result =
        generate(session, *lm.tokenizer, text,
                 {.max_tokens = static_cast<Index>(expected.size()), .sampler = {.greedy = true}})
            .value();
    EXPECT_EQ(result.tokens, expected) << name;
  }
}

TEST_F(Generate, ARunCutInTwoGivesTheTokensOfOne) {
  const GenerationOptions options{
      .max_tokens = 60, .sampler = {.repetition_penalty = 1.2, .temperature = 0.9, .seed = 5}};
  Sequence whole = sequence("The old man ");
  const GenerationResult expected = run(whole, options);

  const test::TemporaryDirectory directory;
  const std::string path = (directory.path() / "s").string();
  Sequence cut = sequence("The old man ");
  GenerationOptions part = options;
  part.max_tokens = 23;
  std::vector<Token> tokens = run(cut, part).tokens;
  save_state(cut, path).value();
  Sequence again = load_state(lm_.model, path).value();
  part.max_tokens = 37;
  const GenerationResult rest = run(again, part);
  tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
  EXPECT_EQ(tokens, expected.tokens);
  EXPECT_TRUE(again.state == whole.state);
  EXPECT_EQ(again.tokens, whole.tokens);
}

TEST_F(Generate, ForksAreIndependentAndReproducible) {
  Sequence start = sequence("She opened the ");
  prefill(session_, start).value();
  EXPECT_EQ(start.pending, 1);
  std::vector<std::string> texts;
  for (const std::uint32_t k : {0U, 1U, 0U}) {
    Sequence fork = start;
    texts.push_back(run(fork, {.max_tokens = 30, .sampler = {.seed = 9, .sequence = k}}).text);
  }
  EXPECT_EQ(texts[0], texts[2]);
  EXPECT_NE(texts[0], texts[1]);
  Sequence direct = sequence("She opened the ");
  EXPECT_EQ(run(direct, {.max_tokens = 30, .sampler = {.seed = 9}}).text, texts[0]);
}

TEST_F(Generate, StopsAtStringsAcrossTokensAndAtTokens) {
  const GenerationOptions greedy{.max_tokens = 60, .sampler = {.greedy = true}};
  Sequence text = sequence("The ");
  const std::string full = run(text, greedy).text;
  ASSERT_GT(full.size(), 30U);
  GenerationOptions options = greedy;
  options.stop_strings = {full.substr(10, 4)};
  text = sequence("The ");
  GenerationResult result = run(text, options);
  EXPECT_EQ(result.reason, FinishReason::stop_string);
  EXPECT_EQ(result.text, full.substr(0, full.find(full.substr(10, 4))));

  options = greedy;
  options.stop_tokens = {static_cast<unsigned char>(full[5])};
  text = sequence("The ");
  result = run(text, options);
  EXPECT_EQ(result.reason, FinishReason::stop_token);
  EXPECT_EQ(result.text, full.substr(0, full.find(full[5])));
  EXPECT_EQ(text.pending, 1);
}

TEST_F(Generate, ShowsWhatItReturnsAndCanBeStopped) {
  Sequence text = sequence("It is ");
  std::string shown;
  Index calls = 0;
  const auto watch = [&](const GenerationEvent& event) {
    shown += event.text;
    calls = event.count;
    return event.count == 12 ? Flow::stop : Flow::go_on;
  };
  const GenerationResult result =
      generate(session_, *lm_.tokenizer, text, {.max_tokens = 50, .sampler = {.seed = 2}}, watch)
          .value();
  EXPECT_EQ(result.reason, FinishReason::cancelled);
  EXPECT_EQ(calls, 12);
  EXPECT_EQ(result.tokens.size(), 12U);
  EXPECT_EQ(result.text, shown);
  EXPECT_EQ(result.prompt_tokens, 6);
}

TEST_F(Generate, ReportsBadRequests) {
  Sequence empty(lm_.model);
  EXPECT_EQ(generate(session_, *lm_.tokenizer, empty).error().code, ErrorCode::bad_argument);
  Sequence text = sequence("a");
  EXPECT_EQ(generate(session_, *lm_.tokenizer, text, {.max_tokens = -1}).error().code,
            ErrorCode::bad_argument);
  EXPECT_EQ(generate(session_, *lm_.tokenizer, text, {.sampler = {.top_p = 2.0}}).error().code,
            ErrorCode::bad_argument);
  Sequence wild(lm_.model, std::vector<Token>{1, 9999});
  EXPECT_EQ(generate(session_, *lm_.tokenizer, wild).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(text.state.position(), 0) << "nothing was consumed";
  Sequence wrong = sequence("abc");
  for (const Index pending : {Index{-1}, Index{4}, std::numeric_limits<Index>::max()}) {
    wrong.pending = pending;
    EXPECT_EQ(generate(session_, *lm_.tokenizer, wrong).error().code, ErrorCode::bad_argument);
  }
  Sequence stateless;
  stateless.append(std::vector<Token>{1, 2});
  EXPECT_EQ(generate(session_, *lm_.tokenizer, stateless).error().code,
            ErrorCode::incompatible_state);
  EXPECT_EQ(stateless.pending, 2);

  Sequence nothing = sequence("abc");
  const GenerationResult result = run(nothing, {.max_tokens = 0});
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_EQ(nothing.state.position(), 2);
  EXPECT_EQ(nothing.pending, 1);
}

TEST_F(Generate, TheSameTextForAnyNumberOfThreads) {
  std::string expected;
  for (const int width : {1, 2, 3, 8}) {
    ThreadPool threads(width);
    Session session(lm_.model, threads, {.chunk = 16 / width});
    Sequence text = sequence("And then they all went down to the sea ");
    const std::string out =
        generate(session, *lm_.tokenizer, text, {.max_tokens = 40, .sampler = {.seed = 4}})
            .value()
            .text;
    if (expected.empty()) expected = out;
    EXPECT_EQ(out, expected) << width;
  }
}

}  // namespace
}  // namespace krait::generate_test
