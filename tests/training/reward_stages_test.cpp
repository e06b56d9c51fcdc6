// The stages of a self-rewarding iteration, against plain runs of the same model.

#include "krait/training/reward_stages.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "io/json.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/training/compare_answers.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::reward_stages_test {
namespace {

class RewardStages : public testing::Test {
 protected:
  RewardStages()
      : model_{.model = test::tiny_model(spec(), DType::f32),
               .tokenizer = byte_tokenizer(),
               .stop_tokens = {},
               .bos = {},
               .chat_templates = {}} {}

  static ModelSpec spec() {
    ModelSpec spec = test::tiny_spec();
    spec.embedding.vocab = spec.embedding.vocab_padded = 256;
    return spec;
  }
  std::string path(const char* name) const { return (directory_.path() / name).string(); }
  std::vector<Metadata> lines(const char* name) const {
    std::vector<Metadata> result;
    std::ifstream file(path(name));
    for (std::string line; std::getline(file, line);) {
      result.push_back(parse_json(line, name).value());
    }
    return result;
  }
  static std::vector<Token> tokens_of(const Metadata& response) {
    std::vector<Token> tokens;
    for (const Metadata& token : *response["tokens"].array()) {
      tokens.push_back(static_cast<Token>(*token.whole()));
    }
    return tokens;
  }
  std::vector<Token> encode(const std::string& text) const {
    return model_.tokenizer->encode(text, {.add_special = false}).value();
  }
  static StageInput prompts(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text += "{\"prompt\": \"question " + std::to_string(i) + "\", \"x\": [1, {\"y\": null}]}\n";
    }
    return {.text = text, .name = "prompts.jsonl"};
  }
  Result<void> candidates(const StageInput& input, Index count, const char* out,
                          Progress progress = {}) {
    return write_candidates(model_, serial_, input,
                            {.count = count, .max_tokens = 9, .sampler = {.seed = 5}}, path(out),
                            progress);
  }

  test::TemporaryDirectory directory_;
  SerialExecutor serial_;
  LanguageModel model_;
};

TEST_F(RewardStages, CandidatesAreTheTextsOfPlainRuns) {
  candidates(prompts(3), 4, "c").value();
  const std::vector<Metadata> found = lines("c");
  ASSERT_EQ(found.size(), 3U);
  Session session(model_.model, serial_);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i]["id"].whole(), i);
    EXPECT_EQ(found[i]["x"][1].size(), 1U);  // what else was on the line
    EXPECT_TRUE(found[i]["model"].is(model_.model.fingerprint()));
    const std::vector<Token> prompt = encode("question " + std::to_string(i));
    for (std::size_t k = 0; k < 4; ++k) {
      const Metadata& response = found[i]["responses"][k];
      Sequence sequence(model_.model, prompt);
      const GenerationResult plain =
          generate(session, *model_.tokenizer, sequence,
                   {.max_tokens = 9,
                    .sampler = {.seed = *response["seed"].whole(),
                                .sequence = static_cast<std::uint32_t>(k)},
                    .stop_tokens = {0}})
              .value();
      std::vector<Token> tokens = tokens_of(response);
      EXPECT_TRUE(response["text"].is(plain.text));
      std::vector<Token> all = prompt;
      all.insert(all.end(), tokens.begin(), tokens.end());
      std::vector<float> log_p(all.size() - 1);
      State state = model_.model.initial_state();
      session.score(all, state, log_p).value();
      double sum = 0.0;
      for (std::size_t t = prompt.size() - 1; t < log_p.size(); ++t) {
        sum += static_cast<double>(log_p[t]);
      }
      EXPECT_EQ(response["logp"].number(), sum);
      if (plain.reason == FinishReason::stop_token) {
        ASSERT_EQ(tokens.back(), 0);
        tokens.pop_back();
      }
      EXPECT_EQ(tokens, plain.tokens);
    }
  }
}

TEST_F(RewardStages, AnAnswerDependsOnSeedLineAndNumberAlone) {
  candidates(prompts(40), 4, "many").value();
  ThreadPool pool(2);
  write_candidates(model_, pool, prompts(5), {.count = 2, .max_tokens = 9, .sampler = {.seed = 5}},
                   path("few"))
      .value();
  const std::vector<Metadata> many = lines("many");
  const std::vector<Metadata> few = lines("few");
  for (std::size_t i = 0; i < few.size(); ++i) {
    ASSERT_EQ(few[i]["responses"].size(), 2U);
    for (const std::size_t k : {0U, 1U}) {
      EXPECT_EQ(few[i]["responses"][k], many[i]["responses"][k]);
    }
  }
  EXPECT_FALSE(many[0]["responses"][0] == many[1]["responses"][0]);
}

TEST_F(RewardStages, WhatWasInterruptedGoesOn) {
  candidates(prompts(40), 4, "whole").value();
  const auto stop = [](Index done, Index) { return done > 0 ? Flow::stop : Flow::go_on; };
  const Result<void> cut = candidates(prompts(40), 4, "cut", stop);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::cancelled);
  EXPECT_FALSE(std::filesystem::exists(path("cut")));
  // A process that is killed may leave a part of a line.
  std::ofstream(path("cut.partial"), std::ios::app) << "{\"prompt\": \"ques";
  Index first = -1;
  const auto note = [&](Index done, Index) {
    if (first < 0) first = done;
    return Flow::go_on;
  };
  candidates(prompts(40), 4, "cut", note).value();
  EXPECT_GE(first, 16);
  EXPECT_EQ(test::read_file(path("cut")), test::read_file(path("whole")));
  EXPECT_FALSE(std::filesystem::exists(path("cut.partial")));
}

TEST_F(RewardStages, UnfinishedWorkOfAnotherCallIsKept) {
  const auto stop = [](Index done, Index) { return done > 0 ? Flow::stop : Flow::go_on; };
  ASSERT_FALSE(candidates(prompts(39), 3, "cut", stop).has_value());
  const std::string unfinished = test::read_file(path("cut.partial"));
  EXPECT_EQ(candidates(prompts(40), 4, "cut").error().message,
            "[training] unfinished work: expected that of the same call, found another's (" +
                path("cut.partial") + "; remove the file to begin anew)");
  EXPECT_EQ(test::read_file(path("cut.partial")), unfinished);
}

TEST_F(RewardStages, TheExpectedScoreIsThatOfTheWholeText) {
  candidates(prompts(3), 3, "c").value();
  const StageInput input{.text = test::read_file(path("c")), .name = "c"};
  for (const std::string& pattern :
       {std::string("Rate: {prompt} / {response} ="), std::string("{response} to {prompt}:")}) {
    write_scores(&model_, serial_, input, {.by = JudgeBy::expected, .prompt = pattern}, path("s"))
        .value();
    Session session(model_.model, serial_);
    for (const Metadata& line : lines("s")) {
      for (std::size_t k = 0; k < 3; ++k) {
        std::string text = pattern;
        text.replace(text.find("{prompt}"), 8, *line["prompt"].text());
        text.replace(text.find("{response}"), 10, *line["responses"][k]["text"].text());
        State state = model_.model.initial_state();
        const auto logits = session.prefill(encode(text), state).value();
        double sum = 0.0;
        double mean = 0.0;
        for (int digit = 0; digit <= 5; ++digit) {
          const double p =
              std::exp(static_cast<double>(logits[static_cast<std::size_t>('0' + digit)]));
          sum += p;
          mean += digit * p;
        }
        EXPECT_NEAR(line["mean"][k].number().value(), mean / sum, 1e-5);
        EXPECT_EQ(line["scores"][k][0], line["mean"][k]);
        EXPECT_EQ(line["raw"][k].size(), 6U);
        EXPECT_EQ(line["n_parsed"][k].whole(), 1U);
      }
    }
  }
}

TEST_F(RewardStages, SamplesThatAreNoDigitsAreCountedAndNotGuessed) {
  candidates(prompts(6), 3, "c").value();
  const StageInput input{.text = test::read_file(path("c")), .name = "c"};
  const JudgeOptions options{
      .by = JudgeBy::samples, .prompt = "{prompt}{response}", .samples = 40, .seed = 1};
  write_scores(&model_, serial_, input, options, path("s")).value();
  std::uint64_t parsed = 0;
  for (const Metadata& line : lines("s")) {
    for (std::size_t k = 0; k < 3; ++k) {
      const Metadata& raw = line["raw"][k];
      ASSERT_EQ(raw.size(), 40U);
      std::vector<double> digits;
      for (const Metadata& text : *raw.array()) {
        if (text.text()->size() == 1 && *text.text() >= "0" && *text.text() <= "5") {
          digits.push_back((*text.text())[0] - '0');
        }
      }
      parsed += digits.size();
      EXPECT_EQ(line["n_parsed"][k].whole(), digits.size());
      ASSERT_EQ(line["scores"][k].size(), digits.size());
      double sum = 0.0;
      for (std::size_t j = 0; j < digits.size(); ++j) {
        EXPECT_EQ(line["scores"][k][j].number(), digits[j]);
        sum += digits[j];
      }
      if (digits.empty()) {
        EXPECT_TRUE(line["mean"][k].is_null());
      } else {
        EXPECT_DOUBLE_EQ(line["mean"][k].number().value(),
                         sum / static_cast<double>(digits.size()));
      }
    }
  }
  EXPECT_GT(parsed, 0U);
  EXPECT_LT(parsed, 6U * 3U * 40U / 4U);
}

TEST_F(RewardStages, RulesCountMatches) {
  const StageInput input{
      .text = R"x({"prompt": "p", "verify": [{"pattern": "a", "points": 1, "most": 3},
        {"pattern": "^(?!.{4}$)", "points": -2, "most": 1}, {"pattern": "b*", "points": 10}],
        "responses": [{"text": "aXaY"}, {"text": "aaaaa"}, {"text": ""}, {"text": "bbéa"}]})x",
      .name = "c"};
  StageInput one = input;
  std::erase(one.text, '\n');
  write_scores(nullptr, serial_, one, {.by = JudgeBy::verify}, path("s")).value();
  const std::vector<Metadata> found = lines("s");
  // b* matches as Python's re.findall has it: also the empty text at every place and at the end.
  const double expected[] = {2 + 50, 3 - 2 + 60, -2 + 10, 1 + 40};
  for (std::size_t k = 0; k < 4; ++k) EXPECT_EQ(found[0]["mean"][k].number(), expected[k]) << k;
  write_scores(nullptr, serial_, one, {.by = JudgeBy::random, .seed = 2}, path("r")).value();
  for (std::size_t k = 0; k < 4; ++k) {
    EXPECT_GE(lines("r")[0]["mean"][k].number(), 0.0);
    EXPECT_LT(lines("r")[0]["mean"][k].number(), 5.0);
  }
}

// A scored line with answers that have these texts and scores.
std::string scored(const std::vector<std::pair<std::string, std::string>>& answers) {
  std::string responses;
  std::string means;
  for (const auto& [text, mean] : answers) {
    responses += (responses.empty() ? "" : ", ") + ("{\"text\": \"" + text + "\"}");
    means += (means.empty() ? "" : ", ") + mean;
  }
  return "{\"prompt\": \"p\", \"responses\": [" + responses + "], \"mean\": [" + means + "]}\n";
}

TEST_F(RewardStages, PairsAreTheBestAndTheWorst) {
  const StageInput input{
      .text = scored({{"a", "1"}, {"bb", "3"}, {"cc", "3"}, {"d", "2"}}) +
              scored({{"a", "2"}, {"b", "2"}}) + scored({{"a", "2"}, {"a", "4"}}) +
              scored({{"a", "2"}, {"b", "2.4"}}) + scored({{"aaa", "2"}, {"b", "3"}}) +
              scored({{"aa", "2"}, {"b", "2.5"}}) + scored({{"a", "null"}, {"b", "2"}}) +
              scored({{"a", "null"}, {"b", "2"}, {"c", "4"}}),
      .name = "s"};
  const PairCounts counts =
      write_pairs(input, nullptr, {.min_gap = 0.5, .max_len_ratio = 2.0}, path("p")).value();
  EXPECT_EQ(counts.kept, 3);
  EXPECT_EQ(counts.tied, 1);
  EXPECT_EQ(counts.equal_text, 1);
  EXPECT_EQ(counts.gap, 1);
  EXPECT_EQ(counts.length, 1);
  EXPECT_EQ(counts.unparsable, 1);
  EXPECT_EQ(counts.discarded(), 5);
  const std::vector<Metadata> pairs = lines("p");
  ASSERT_EQ(pairs.size(), 3U);
  EXPECT_TRUE(pairs[0]["chosen"].is("bb"));
  EXPECT_TRUE(pairs[0]["rejected"].is("a"));
  EXPECT_EQ(pairs[0]["score_c"].number(), 3.0);
  EXPECT_EQ(pairs[0]["score_r"].number(), 1.0);
  EXPECT_TRUE(pairs[1]["chosen"].is("b"));  // bounds are inclusive
  EXPECT_TRUE(pairs[2]["chosen"].is("c"));

  const StageInput anchors{.text = scored({{"old", "0"}, {"e", "5"}}), .name = "a"};
  const StageInput line{.text = scored({{"a", "1"}, {"b", "2"}}), .name = "s"};
  write_pairs(line, &anchors, {}, path("q")).value();
  EXPECT_TRUE(lines("q")[0]["chosen"].is("b"));
  EXPECT_TRUE(lines("q")[0]["rejected"].is("old"));

  const StageInput tied{.text = scored({{"a", "1"}, {"b", "1"}}), .name = "s"};
  EXPECT_EQ(write_pairs(tied, nullptr, {}, path("t")).error().message,
            "[pairs] pairs: expected at least one, found none: 1 tied, 0 below the gap, 0 of equal "
            "texts, 0 of lengths too different, 0 unparsable (s)");
  EXPECT_FALSE(std::filesystem::exists(path("t")));
}

TEST_F(RewardStages, NewPromptsAreNewOnes) {
  const StageInput seeds = prompts(4);
  const PromptOptions options{.count = 5, .shots = 2, .max_tokens = 400, .sampler = {.seed = 3}};
  const Result<PromptCounts> counts = write_prompts(model_, serial_, seeds, options, path("p"));
  ASSERT_TRUE(counts) << counts.error().message;
  EXPECT_EQ(counts->kept, 5);
  std::vector<std::string> found;
  for (const Metadata& line : lines("p")) found.push_back(*line["prompt"].text());
  ASSERT_EQ(found.size(), 5U);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_FALSE(found[i].empty());
    EXPECT_EQ(found[i].find('\n'), std::string::npos);
    EXPECT_EQ(std::ranges::count(found, found[i]), 1);
  }
  write_prompts(model_, serial_, seeds, options, path("q")).value();
  EXPECT_EQ(test::read_file(path("p")), test::read_file(path("q")));
}

TEST_F(RewardStages, PromptsGoOnWhereTheyWereInterrupted) {
  const StageInput seeds = prompts(4);
  const PromptOptions options{.count = 40, .shots = 2, .max_tokens = 60, .sampler = {.seed = 3}};
  const auto make = [&](const char* name, Progress progress) {
    return write_prompts(model_, serial_, seeds, options, path(name), progress);
  };
  const PromptCounts whole = make("whole", {}).value();
  Index batches = 0;
  const auto stop = [&](Index, Index) { return ++batches < 3 ? Flow::go_on : Flow::stop; };
  EXPECT_EQ(make("cut", stop).error().code, ErrorCode::cancelled);
  EXPECT_FALSE(std::filesystem::exists(path("cut")));
  const std::string unfinished = test::read_file(path("cut.partial"));
  EXPECT_EQ(std::ranges::count(unfinished, '\n'), 4);  // what it is of, and three batches
  const PromptCounts again = make("cut", {}).value();
  EXPECT_EQ(test::read_file(path("cut")), test::read_file(path("whole")));
  EXPECT_EQ(again.kept, whole.kept);
  EXPECT_EQ(again.length + again.similar, whole.length + whole.similar);
  EXPECT_FALSE(std::filesystem::exists(path("cut.partial")));
}

// What stages before have written of themselves gives way.
TEST_F(RewardStages, ReadWhatTheyWrite) {
  const std::string seeds = "{\"prompt\": \"one two\"}\n{\"prompt\": \"three four\"}\n";
  const PromptOptions options{.count = 2, .shots = 1, .max_tokens = 6, .max_rouge = 1.0};
  write_prompts(model_, serial_, {.text = seeds, .name = "seeds"}, options, path("p")).value();
  const auto input = [&](const char* name) {
    return StageInput{.text = test::read_file(path(name)), .name = name};
  };
  candidates(input("p"), 2, "c").value();
  const JudgeOptions judge{.by = JudgeBy::random};
  write_scores(nullptr, serial_, input("c"), judge, path("s")).value();
  const std::vector<Metadata> prompts = lines("p");
  const std::vector<Metadata> scored = lines("s");
  ASSERT_EQ(prompts.size(), scored.size());
  for (std::size_t i = 0; i < scored.size(); ++i) {
    EXPECT_EQ(*scored[i]["prompt"].text(), *prompts[i]["prompt"].text());
    EXPECT_EQ(scored[i]["id"].whole(), prompts[i]["id"].whole());
    EXPECT_EQ(scored[i]["seed"].whole(), prompts[i]["seed"].whole());
    EXPECT_EQ(*scored[i]["model"].text(), model_.model.fingerprint());
    EXPECT_EQ(scored[i]["mean"].size(), 2U);
  }
  StageInput odd = input("c");
  odd.text = "{\"mean\": 3, \"raw\": null, " + odd.text.substr(1);
  write_scores(nullptr, serial_, odd, judge, path("t")).value();
  EXPECT_EQ(lines("t")[0]["mean"].size(), 2U);
  EXPECT_EQ(lines("t")[0]["scores"][0][0].number(), scored[0]["scores"][0][0].number());
}

TEST_F(RewardStages, BadLinesAreRefusedWithTheirNumber) {
  const auto message = [](const Result<void>& result) {
    return result ? std::string() : result.error().message;
  };
  const auto of_candidates = [&](const std::string& text) {
    return message(candidates({.text = text, .name = "f"}, 2, "c"));
  };
  EXPECT_EQ(of_candidates(""), "[training] data: expected prompts, found none (f)");
  EXPECT_EQ(of_candidates("{\"prompt\": \"a\"}\n{\"promt\": \"a\"}"),
            "[training] line 2: expected the text \"prompt\", found null (f)");
  EXPECT_EQ(of_candidates("{\"prompt\": \"\"}"),
            "[training] line 1: expected a prompt of at least one token, found an empty one (f)");
  EXPECT_EQ(of_candidates("{\"prompt\": \"a\", \"responses\": []}"),
            "[training] line 1: expected no \"responses\", found some (f)");
  const auto of_judge = [&](const std::string& text, const std::string& pattern) {
    return message(write_scores(&model_, serial_, {.text = text, .name = "f"},
                                {.by = JudgeBy::expected, .prompt = pattern}, path("s")));
  };
  EXPECT_EQ(of_judge("{\"prompt\": \"a\"}", "{response}"),
            "[training] line 1: expected \"responses\", a list of objects with \"text\", found "
            "none (f)");
  EXPECT_EQ(of_judge("{\"prompt\": \"a\", \"responses\": [{\"text\": \"b\"}]}", "{prompt}"),
            "[judge] template: expected {response} in it, found none");
  EXPECT_EQ(of_judge("{\"prompt\": \"\", \"responses\": [{\"text\": \"b\"}, {\"text\": \"\"}]}",
                     "{response}"),
            "[training] line 1: expected something to read by the template, found an empty text "
            "(f)");
  const auto of_rules = [&](const std::string& rules) {
    return message(write_scores(
        nullptr, serial_,
        {.text = "{\"prompt\": \"a\", \"responses\": [{\"text\": \"b\"}]" + rules + "}",
         .name = "f"},
        {.by = JudgeBy::verify}, path("s")));
  };
  EXPECT_EQ(of_rules(""), "[training] line 1: expected rules, \"verify\", found none (f)");
  EXPECT_NE(of_rules(", \"verify\": [{\"pattern\": \"(\", \"points\": 1}]")
                .find("line 1: expected a regular expression, found '('"),
            std::string::npos);
  EXPECT_NE(of_rules(", \"verify\": [{\"pattern\": \"a\"}]").find("a number \"points\""),
            std::string::npos);
  EXPECT_EQ(
      write_pairs({.text = "{\"prompt\": \"a\", \"responses\": [{\"text\": \"b\"}]}", .name = "f"},
                  nullptr, {}, path("p"))
          .error()
          .message,
      "[training] line 1: expected \"mean\", a list of 1, found null (f)");
}

TEST(Estimates, HaveTheIntervalsOfTheirLaws) {
  // Wilson's, as tables have it.
  const Estimate none = part_of(0.0, 10);
  EXPECT_EQ(none.value, 0.0);
  EXPECT_NEAR(none.low, 0.0, 1e-12);
  EXPECT_NEAR(none.high, 0.2775, 1e-4);
  const Estimate some = part_of(15.0, 50);
  EXPECT_NEAR(some.low, 0.1910, 1e-4);
  EXPECT_NEAR(some.high, 0.4375, 1e-4);
  const double values[] = {1.0, 2.0, 3.0};
  const Estimate mean = mean_of(values);
  EXPECT_EQ(mean.value, 2.0);
  EXPECT_NEAR(mean.high - mean.low, 2.0 * 1.96 / std::sqrt(3.0), 1e-12);
}

}  // namespace
}  // namespace krait::reward_stages_test
