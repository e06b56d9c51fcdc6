// Beam search and guidance against transformers and against slow loops; best-of; log-probabilities.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "krait/core/executor.hpp"
#include "krait/decoding/beam_search.hpp"
#include "krait/decoding/best_of.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/guidance.hpp"
#include "krait/loading/language_model.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::search_test {
namespace {

using Tokens = std::vector<Token>;

nlohmann::json golden(const char* part) {
  return nlohmann::json::parse(
      test::read_file(test::data_dir() / "golden" / "samplers.json"))[part];
}

// Log-probabilities in double.
std::vector<double> log_softmax(std::span<const float> logits) {
  double sum = 0.0;
  for (const double x : logits) sum += std::exp(x);
  std::vector<double> result;
  for (const double x : logits) result.push_back(x - std::log(sum));
  return result;
}

class Search : public ::testing::Test {
 protected:
  Search()
      : model_(test::tiny_model(test::tiny_spec(), DType::f32)),
        session_(model_, executor_, {.chunk = 16, .max_batch = 6}) {}

  Sequence prompt(Index count = 9) const {
    return Sequence(model_, test::random_tokens(count, model_.vocab(), 3));
  }
  // The logits behind a text, from its beginning.
  std::vector<float> logits_of(const Tokens& tokens) {
    State state = model_.initial_state();
    const auto logits = session_.prefill(tokens, state).value();
    return {logits.begin(), logits.begin() + model_.vocab()};
  }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Model model_;
  Session session_;
};

TEST(BeamSearch, FindsWhatTransformersFinds) {
  const auto all = golden("beams");
  const auto lm =
      load_language_model((test::bundled_models_dir() / "krait-bytes-draft").string()).value();
  SerialExecutor executor;
  for (const Index max_batch : {8, 3}) {
    Session session(lm.model, executor, {.max_batch = max_batch});
    const Sequence prompt(lm.model, lm.tokenizer->encode(all["prompt"].get<std::string>()).value());
    for (const auto& one : all["cases"]) {
      using EarlyStopping = BeamOptions::EarlyStopping;
      GenerationOptions options{.max_tokens = all["max_new_tokens"]};
      options.stop_tokens = one.value("eos", Tokens());
      options.sampler.repetition_penalty = one.value("repetition_penalty", 1.0);
      options.sampler.min_length = one.value("min_length", 0);
      options.sampler.eos_tokens = options.stop_tokens;
      options.sampler.bad_words = one.value("bad_words_ids", std::vector<Tokens>());
      BeamOptions beams{.num_beams = one["num_beams"], .length_penalty = one["length_penalty"]};
      beams.num_return_sequences = beams.num_beams;
      if (one.contains("early_stopping")) {
        beams.early_stopping =
            one["early_stopping"] == "never" ? EarlyStopping::never : EarlyStopping::yes;
      }
      const auto found = beam_search(session, *lm.tokenizer, prompt, options, beams).value();
      ASSERT_EQ(found.size(), one["sequences"].size()) << one;
      for (std::size_t i = 0; i < found.size(); ++i) {
        const auto& sequence = one["sequences"][i];
        Tokens tokens = found[i].result.tokens;
        EXPECT_EQ(found[i].result.text, lm.tokenizer->decode(tokens));
        if (found[i].result.reason == FinishReason::stop_token) {
          tokens.push_back(found[i].sequence.tokens.back());
        }
        EXPECT_EQ(tokens, sequence["tokens"].get<Tokens>()) << one << i;
        EXPECT_NEAR(found[i].score, sequence["score"].get<double>(), 2e-5) << one << i;
      }
    }
  }
}

// As many beams as there are continuations: the best of all texts of three tokens.
TEST_F(Search, ManyBeamsFindTheBestOfAllTexts) {
  GenerationOptions options{.max_tokens = 2};
  const Sequence start = prompt();
  const auto found = beam_search(session_, tokenizer(), start, options,
                                 {.num_beams = model_.vocab(), .num_return_sequences = 5})
                         .value();
  std::vector<std::pair<double, Tokens>> all;
  const auto first = log_softmax(logits_of(start.tokens));
  for (Token a = 0; a < model_.vocab(); ++a) {
    Tokens text = start.tokens;
    text.push_back(a);
    const auto second = log_softmax(logits_of(text));
    for (Token b = 0; b < model_.vocab(); ++b) {
      all.push_back(
          {first[static_cast<std::size_t>(a)] + second[static_cast<std::size_t>(b)], {a, b}});
    }
  }
  std::ranges::sort(all, std::greater<>());
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(found[i].result.tokens, all[i].second);
    EXPECT_NEAR(found[i].log_prob, all[i].first, 1e-4);
    EXPECT_DOUBLE_EQ(found[i].score, found[i].log_prob / 2.0);
    EXPECT_EQ(found[i].result.reason, FinishReason::max_tokens);
  }
}

TEST_F(Search, OneBeamIsTheGreedyTextAndCanGoOn) {
  const GenerationOptions options{.max_tokens = 20};
  GenerationOptions greedy = options;
  greedy.sampler.greedy = true;
  Sequence sequence = prompt();
  const auto plain = generate(session_, tokenizer(), sequence, greedy).value();
  auto found = beam_search(session_, tokenizer(), prompt(), options, {.num_beams = 1}).value();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].result.tokens, plain.tokens);
  EXPECT_EQ(found[0].result.prompt_tokens, 9);
  EXPECT_EQ(found[0].sequence.tokens, sequence.tokens);
  EXPECT_EQ(found[0].sequence.pending, 1);
  EXPECT_TRUE(found[0].sequence.state == sequence.state);
  // Each beam's state is that of its text.
  for (const Beam& beam : beam_search(session_, tokenizer(), prompt(), {.max_tokens = 12},
                                      {.num_beams = 5, .num_return_sequences = 5})
                              .value()) {
    State state = model_.initial_state();
    session_.prefill(std::span(beam.sequence.tokens).first(beam.sequence.tokens.size() - 1), state)
        .value();
    EXPECT_TRUE(state == beam.sequence.state);
  }
}

// Even tokens only, four of them.
class Even final : public Constraint {
 public:
  explicit Even(int limit) : limit_(limit) {}
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Even>(*this); }
  void restrict_to(TokenMask& mask) const override {
    for (Token token = 0; token < mask.size(); ++token) {
      if (token % 2 != 0 || count_ == limit_) mask.forbid(token);
    }
  }
  void accept(Token /*token*/) override { ++count_; }

 private:
  int limit_;
  int count_ = 0;
};

TEST_F(Search, BeamsKeepToAConstraint) {
  GenerationOptions options{.max_tokens = 10};
  options.constraint = std::make_shared<Even>(4);
  for (const Beam& beam : beam_search(session_, tokenizer(), prompt(), options,
                                      {.num_beams = 3, .num_return_sequences = 3})
                              .value()) {
    EXPECT_EQ(beam.result.tokens.size(), 4U);
    EXPECT_EQ(beam.result.reason, FinishReason::constraint);
    EXPECT_TRUE(std::ranges::all_of(beam.result.tokens, [](Token t) { return t % 2 == 0; }));
  }
  options.constraint = std::make_shared<Even>(0);
  const auto none = beam_search(session_, tokenizer(), prompt(), options).value();
  ASSERT_EQ(none.size(), 1U);
  EXPECT_TRUE(none[0].result.tokens.empty());
  EXPECT_EQ(none[0].result.reason, FinishReason::constraint);
  EXPECT_EQ(none[0].sequence.tokens, prompt().tokens);
}

TEST_F(Search, BeamsRefuseWhatIsAboutADraw) {
  const auto message = [&](auto change) {
    GenerationOptions options{.max_tokens = 3};
    BeamOptions beams;
    change(options, beams);
    const auto found = beam_search(session_, tokenizer(), prompt(), options, beams);
    return found ? std::string("nothing wrong") : found.error().message;
  };
  const std::pair<std::string, const char*> cases[] = {
      {message([](auto& o, auto&) { o.sampler.temperature = 0.5; }),
       "[beams] sampler: expected steps that change logits, and none that is about a draw, found "
       "'temperature'"},
      {message([](auto& o, auto&) { o.sampler.mirostat = 2; }), "found 'mirostat'"},
      {message([](auto& o, auto&) { o.sampler.greedy = true; }), "found 'greedy'"},
      {message([](auto& o, auto&) { o.stop_strings = {"x"}; }),
       "search: expected no stop strings, but stop"},
      {message([](auto& o, auto&) { o.log_probs = 1; }), "search: expected no log-probabilities"},
      {message([](auto& o, auto&) { o.max_tokens = 0; }), "tokens: expected at least 1, found 0"},
      {message([](auto&, auto& b) { b.num_beams = 0; }), "num_beams: expected 1 to 1000, found 0"},
      {message([](auto&, auto& b) { b.length_penalty = NAN; }),
       "length_penalty: expected a number"},
      {message([](auto&, auto& b) { b.num_return_sequences = 5; }), "expected 1 to 4, found 5"},
      {message([](auto& o, auto&) { o.sampler.top_k = -1; }), "[sampler] top-k"},
  };
  for (const auto& [found, expected] : cases) {
    EXPECT_NE(found.find(expected), std::string::npos) << found;
  }
  Index steps = 0;
  const auto stopped =
      beam_search(session_, tokenizer(), prompt(), {.max_tokens = 30}, {}, [&](Index done, Index) {
        steps = done;
        return done == 4 ? Flow::stop : Flow::go_on;
      });
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
  EXPECT_EQ(steps, 4);
}

TEST(GuidanceFormula, IsThatOfTransformers) {
  const auto all = golden("steps");
  const auto rows = all["logits"].get<std::vector<std::vector<float>>>();
  ModelSpec spec = test::tiny_spec();
  const Index vocab = std::ssize(rows[0]);
  spec.embedding.vocab = vocab;
  const Model model = test::tiny_model(spec, DType::f32);
  SerialExecutor executor;
  Session session(model, executor);
  for (const auto& [scale, expected] : all["guided"].items()) {
    Guidance guidance = Guidance::make(session, Tokens{1}, std::stod(scale)).value();
    const auto scores = guidance.combine({rows[0].data(), 1, vocab}, {rows[1].data(), 1, vocab});
    for (std::size_t i = 0; i < rows[0].size(); ++i) {
      EXPECT_NEAR(scores.row(0)[i], expected[i].get<double>(), 2e-5) << scale;
    }
  }
}

TEST_F(Search, GuidanceRunsTheNegativePromptBesideTheText) {
  for (const Index chunk : {256, 6, 2}) {
    Session session(model_, executor_, {.chunk = chunk, .max_batch = 2});
    for (const Tokens& negative : {Tokens{4, 9, 2, 7, 7, 1, 30}, Tokens{5}, Tokens{}}) {
      GenerationOptions options{.max_tokens = 25};
      options.sampler = {.temperature = 0.9, .top_k = 20, .seed = 4};
      options.guidance_scale = 1.7;
      options.negative_prompt = negative;
      Sequence sequence = prompt(17);
      const auto guided = generate(session, tokenizer(), sequence, options).value();

      // Both texts from their beginning for every token.
      Tokens text = prompt(17).tokens;
      Tokens other = negative.empty() ? Tokens{text.back()} : negative;
      Sampler sampler = Sampler::make(options.sampler, model_.vocab()).value();
      for (const Token token : guided.tokens) {
        const auto c = log_softmax(logits_of(text));
        const auto u = log_softmax(logits_of(other));
        std::vector<float> scores;
        for (std::size_t i = 0; i < c.size(); ++i) {
          scores.push_back(static_cast<float>(1.7 * (c[i] - u[i]) + u[i]));
        }
        ASSERT_EQ(sampler.sample(scores, std::ssize(text)), token);
        text.push_back(token);
        other.push_back(token);
      }
      EXPECT_EQ(guided.tokens.size(), 25U);
      EXPECT_EQ(sequence.tokens, text);
    }
  }
}

TEST_F(Search, GuidanceOfOneChangesNothingAndOfZeroIsTheOtherText) {
  const Tokens negative = {4, 9, 2, 7};
  GenerationOptions options{.max_tokens = 20};
  options.sampler.greedy = true;
  Sequence sequence(model_, negative);
  const Tokens other = generate(session_, tokenizer(), sequence, options).value().tokens;
  sequence = prompt();
  const Tokens plain = generate(session_, tokenizer(), sequence, options).value().tokens;
  options.negative_prompt = negative;
  sequence = prompt();
  EXPECT_EQ(generate(session_, tokenizer(), sequence, options).value().tokens, plain);
  options.guidance_scale = 0.0;
  sequence = prompt();
  EXPECT_EQ(generate(session_, tokenizer(), sequence, options).value().tokens, other);
  // One beam, guided, is the guided greedy text.
  options.guidance_scale = 2.0;
  sequence = prompt();
  const Tokens guided = generate(session_, tokenizer(), sequence, options).value().tokens;
  EXPECT_NE(guided, plain);
  options.sampler.greedy = false;
  for (const Index num_beams : {1, 4}) {
    const auto found =
        beam_search(session_, tokenizer(), prompt(), options, {.num_beams = num_beams}).value();
    if (num_beams == 1) {
      EXPECT_EQ(found[0].result.tokens, guided);
    }
    EXPECT_EQ(found[0].result.tokens.size(), 20U);
  }
}

TEST_F(Search, GuidanceIsRefusedWhereItCannotBe) {
  const auto message = [](const auto& result) {
    return result ? std::string("nothing wrong") : result.error().message;
  };
  GenerationOptions options;
  options.guidance_scale = 1.5;
  EXPECT_EQ(
      message(Generation::make(model_, tokenizer(), prompt(), options)),
      "[generate] guidance scale: expected 1, where generate does not run the text, found 1.5");
  options.guidance_scale = NAN;
  Sequence sequence = prompt();
  EXPECT_EQ(message(generate(session_, tokenizer(), sequence, options)),
            "[generate] guidance scale: expected a finite number, found nan");
  EXPECT_EQ(sequence.tokens, prompt().tokens) << "it is not taken";
  options = {};
  options.negative_prompt = {-1};
  EXPECT_NE(
      message(generate(session_, tokenizer(), sequence, options)).find("negative prompt: expected"),
      std::string::npos);
  EXPECT_NE(message(Guidance::make(session_, Tokens{}, 1.5)).find("at least one token"),
            std::string::npos);
}

TEST_F(Search, LogProbsAreThoseOfScoring) {
  GenerationOptions options{.max_tokens = 30};
  options.sampler = {.temperature = 0.5, .top_k = 5, .seed = 8};
  options.log_probs = 3;
  Sequence sequence = prompt();
  const auto result = generate(session_, tokenizer(), sequence, options).value();
  ASSERT_EQ(result.log_probs.size(), 30U);
  std::vector<float> scores(sequence.tokens.size() - 1);
  State state = model_.initial_state();
  session_.score(sequence.tokens, state, scores).value();
  Tokens text = prompt().tokens;
  for (std::size_t i = 0; i < 30; ++i) {
    const TokenLogProbs& one = result.log_probs[i];
    EXPECT_EQ(one.token, result.tokens[i]);
    EXPECT_EQ(one.log_prob, scores[8 + i]);
    const auto all = log_softmax(logits_of(text));
    ASSERT_EQ(one.top.size(), 3U);
    std::vector<std::pair<double, Token>> order;
    for (std::size_t t = 0; t < all.size(); ++t) order.push_back({-all[t], static_cast<Token>(t)});
    std::ranges::sort(order);
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(one.top[k].token, order[k].second);
      EXPECT_NEAR(one.top[k].log_prob, -order[k].first, 1e-5);
    }
    text.push_back(one.token);
  }
  options.log_probs = {};
  sequence = prompt();
  const auto without = generate(session_, tokenizer(), sequence, options).value();
  EXPECT_EQ(without.tokens, result.tokens);
  EXPECT_TRUE(without.log_probs.empty());
  options.log_probs = model_.vocab() + 1;
  EXPECT_FALSE(generate(session_, tokenizer(), sequence, options));
  // Degenerate rows.
  const std::vector<float> row = {NAN, 1.0F, 1.0F};
  EXPECT_EQ(log_probs_of(row, 1, 9).top.size(), 3U);
  EXPECT_EQ(log_probs_of(row, 1, 2).top[0].token, 1);
}

// Two tokens behind every one that is sampled.
class Forcing final : public Constraint {
 public:
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Forcing>(*this); }
  void restrict_to(TokenMask& /*mask*/) const override {}
  void accept(Token /*token*/) override { ++count_; }
  std::vector<Token> forced() const override { return count_ % 3 == 1 ? Tokens{5, 6} : Tokens{}; }

 private:
  int count_ = 0;
};

TEST_F(Search, TokensThatAreForcedTeachNothing) {
  GenerationOptions options{.max_tokens = 30};
  options.constraint = std::make_shared<Forcing>();
  options.sampler = {.mirostat = 2, .mirostat_tau = 3.0, .mirostat_eta = 0.5, .seed = 8};
  for (const double scale : {1.0, 1.5}) {
    options.guidance_scale = scale;
    Sequence sequence = prompt();
    const auto result = generate(session_, tokenizer(), sequence, options).value();
    EXPECT_EQ(result.forced, 20);
    Tokens text = prompt().tokens;
    Tokens other = {text.back()};
    Sampler sampler = Sampler::make(options.sampler, model_.vocab()).value();
    sampler.observe(text);
    for (std::size_t i = 0; i < 30; ++i) {
      const Token token = result.tokens[i];
      if (i % 3 == 0) {
        const auto c = log_softmax(logits_of(text));
        const auto u = log_softmax(logits_of(other));
        std::vector<float> scores;
        for (std::size_t k = 0; k < c.size(); ++k) {
          scores.push_back(static_cast<float>(scale * (c[k] - u[k]) + u[k]));
        }
        ASSERT_EQ(sampler.sample(scores, std::ssize(text)), token) << i;
      } else {
        EXPECT_EQ(token, i % 3 == 1 ? 5 : 6);
      }
      sampler.observe({&token, 1});
      text.push_back(token);
      other.push_back(token);
    }
  }
}

TEST_F(Search, BestOfIsTheBestOfTheSamples) {
  GenerationOptions options{.max_tokens = 12};
  options.sampler = {.temperature = 1.3, .seed = 6};
  options.stop_tokens = {1, 2, 3};
  options.log_probs = 0;
  for (const BestBy by : {BestBy::mean, BestBy::sum}) {
    for (const double scale : {1.0, 1.5}) {
      options.guidance_scale = scale;
      double best_score = -1e9;
      Tokens best;
      std::uint32_t best_index = 0;
      std::size_t lengths = 0;
      for (std::uint32_t k = 0; k < 20; ++k) {
        options.sampler.sequence = k;
        Sequence sequence = prompt();
        const auto result = generate(session_, tokenizer(), sequence, options).value();
        double score = 0.0;
        for (const TokenLogProbs& one : result.log_probs)
          score += static_cast<double>(one.log_prob);
        if (by == BestBy::mean) score /= static_cast<double>(result.log_probs.size());
        lengths += result.reason == FinishReason::stop_token ? 1 : 0;
        if (score > best_score) best_score = score, best = result.tokens, best_index = k;
      }
      EXPECT_GT(lengths, 0U) << "some end before the others";
      options.sampler.sequence = 7;
      const Best found = best_of(session_, tokenizer(), prompt(), options, 20, by).value();
      EXPECT_EQ(found.result.tokens, best);
      EXPECT_EQ(found.index, best_index);
      EXPECT_NEAR(found.score, best_score, 1e-12);
      EXPECT_GE(found.sequence.pending, 1);
    }
  }
  EXPECT_FALSE(best_of(session_, tokenizer(), prompt(), options, 0));
  options.guidance_scale = 1.0;
  const auto stopped = best_of(session_, tokenizer(), prompt(), options, 9, BestBy::mean,
                               [](Index, Index) { return Flow::stop; });
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
}

// Mirostat and DRY remember more than a draft may leave: the text with drafts is that without.
TEST_F(Search, StepsThatRememberSurviveDrafts) {
  Session session(model_, executor_, {.max_verify = 8});
  for (const SamplerOptions& sampler :
       {SamplerOptions{.mirostat = 2, .mirostat_tau = 3.0, .mirostat_eta = 0.5, .seed = 2},
        SamplerOptions{.mirostat = 1, .mirostat_tau = 3.0, .mirostat_eta = 0.5, .seed = 2},
        SamplerOptions{.dry_multiplier = 2.0,
        .dry_allowed_length = 1,
        .bad_words = {{7, 3}, {5}},
        .xtc_probability = 0.5,
        .seed = 2}}) {
    const GenerationOptions options{.max_tokens = 60, .sampler = sampler, .log_probs = 1};
    Sequence sequence = prompt();
    const auto plain = generate(session, tokenizer(), sequence, options).value();
    Generation text = Generation::make(model_, tokenizer(), prompt(), options).value();
    Generation earlier = text;
    for (int step = 0; !text.is_finished(); ++step) {
      if (step == 12) earlier = text;
      if (step == 20) text = earlier;  // rolled back
      const auto at = text.result().tokens.size();
      if (at > 0 && at + 6 < plain.tokens.size()) {
        Tokens draft(plain.tokens.begin() + static_cast<std::ptrdiff_t>(at),
                     plain.tokens.begin() + static_cast<std::ptrdiff_t>(at) + 5);
        draft[static_cast<std::size_t>(step) % 5] =
            (draft[static_cast<std::size_t>(step) % 5] + 1) % 40;
        text.propose(draft).value();
        if (step % 4 == 3) text.withdraw();
      }
      const RunItem item = text.next().value();
      const RunOutput output = session.run({&item, 1}).value();
      text.accept(output.logits(0)).value();
      if (item.tentative) session.keep(text.kept(), text.state()).value();
    }
    EXPECT_EQ(text.result().tokens, plain.tokens);
    EXPECT_EQ(text.result().log_probs.size(), plain.log_probs.size());
  }
}

}  // namespace
}  // namespace krait::search_test
