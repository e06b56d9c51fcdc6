// Speculation: whatever drafts, the text is that of the plain run, or has its law.
#include "krait/decoding/speculation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "krait/decoding/generate.hpp"
#include "krait/decoding/rejection.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::speculation_test {
namespace {

using test::random_tokens;
using test::tiny_model;
using Tokens = std::vector<Token>;

constexpr Index max_verify = 8;

// Guesses tokens of a text that it is told, changed in some way.
class Scripted final : public Drafter {
 public:
  using Change = std::function<Token(Token token, std::size_t place)>;
  Scripted(Tokens text, Change change) : text_(std::move(text)), change_(std::move(change)) {}

  std::string_view name(Index /*level*/) const noexcept override { return "scripted"; }
  Result<void> begin(const DraftSetting& /*setting*/) override {
    known_ = 0;
    return {};
  }
  Result<void> observe(std::span<const Token> tokens) override {
    known_ += tokens.size();
    return {};
  }
  Result<void> propose(Draft& draft, Index most, Index /*level*/) override {
    ++calls;
    for (Index i = 0; i < most; ++i) {
      const std::size_t place = known_ + draft.tokens.size();
      if (place >= text_.size()) break;
      draft.append(change_(text_[place], place), DraftMark{.confidence = 0.8});
    }
    return {};
  }
  std::unique_ptr<Drafter> clone() const override { return std::make_unique<Scripted>(*this); }

  Index calls = 0;

 private:
  Tokens text_;
  Change change_;
  std::size_t known_ = 0;
};

// Allows tokens of one parity, in turn.
class Parity final : public Constraint {
 public:
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Parity>(*this); }
  void restrict_to(TokenMask& mask) const override {
    for (Token token = 0; token < mask.size(); ++token) {
      if ((token + count_) % 3 == 0) mask.forbid(token);
    }
  }
  void accept(Token token) override { count_ += 1 + token % 2; }

 private:
  Token count_ = 0;
};

ModelSpec spec_of(const std::string& name) {
  if (name == "mamba2") return test::tiny_mamba2_spec();
  if (name == "experts") return test::tiny_expert_spec();
  if (name == "hybrid") return test::tiny_hybrid_spec();
  return test::tiny_spec();
}

Model model_of_seed(const ModelSpec& spec, std::uint64_t seed) {
  return build_model(spec, random_weights(spec, seed).value(), "", {}).value();
}

class Speculated : public testing::TestWithParam<const char*> {
 protected:
  using Make = std::function<std::unique_ptr<Drafter>()>;

  Sequence prompt() const { return {model_, random_tokens(19, 61, 4)}; }
  GenerationResult run(Sequence& sequence, const GenerationOptions& options) {
    return generate(session_, *tokenizer_, sequence, options).value();
  }
  std::vector<DraftModelOptions> models(int count) const {
    std::vector<DraftModelOptions> all = {{similar_, "similar"}, {other_, "other"}};
    all.erase(all.begin() + count, all.end());
    return all;
  }
  std::map<std::string, Make> drafters(const Tokens& text) {
    std::map<std::string, Make> all;
    all["ngram"] = [] { return ngram_drafter({.least = 1}).value(); };
    all["maxgram"] = [] { return maxgram_drafter().value(); };
    all["itself"] = [this] {
      return cascade_drafter({{model_, "itself"}}, nullptr, executor_).value();
    };
    all["model"] = [this] { return cascade_drafter(models(1), nullptr, executor_).value(); };
    all["cascade"] = [this] {
      return cascade_drafter(models(2), ngram_drafter({.least = 1}).value(), executor_).value();
    };
    all["lenient cascade"] = [this] {
      return cascade_drafter(models(2), maxgram_drafter().value(), executor_,
                             {.increments = {{0, 2, 2}, {0, 0, 3}, {0, 0, 0}}, .lenience = 3.0})
          .value();
    };
    all["other vocabulary"] = [this] {
      static const std::shared_ptr<const Tokenizer> words =
          read_tokenizer_json(
              test::read_file(test::data_dir() / "data/gpt-neox-20b/tokenizer.json"))
              .value();
      return retokenizing_drafter(ngram_drafter({.least = 1}).value(), words, tokenizer_);
    };
    all["wrong"] = [text] {
      return std::make_unique<Scripted>(text,
                                        [](Token token, std::size_t) { return (token + 1) % 61; });
    };
    all["mostly right"] = [text] {
      return std::make_unique<Scripted>(text, [](Token token, std::size_t place) {
        return place % 5 == 3 ? (token + 1) % 61 : token;
      });
    };
    return all;
  }
  std::map<std::string, GenerationOptions> cases() {
    std::map<std::string, GenerationOptions> all;
    all["greedy"].sampler = {.greedy = true};
    all["cold"].sampler = {.temperature = 0.7, .seed = 3};
    all["warm"].sampler = {.seed = 4, .sequence = 2};
    all["hot"].sampler = {.repetition_penalty = 1.3,
                          .frequency_penalty = 0.2,
                          .temperature = 1.5,
                          .top_k = 20,
                          .top_p = 0.9,
                          .seed = 5};
    all["gumbel"].sampler = {.temperature = 0.8, .gumbel = true, .seed = 6};
    all["mask"].sampler = {.temperature = 0.9, .seed = 7};
    all["mask"].constraint = std::make_shared<const Parity>();
    all["stop"] = all["cold"];
    Sequence sequence = prompt();
    all["stop"].max_tokens = 40;
    const Tokens text = run(sequence, all["stop"]).tokens;
    all["stop"].stop_strings = {tokenizer_->decode({text[20], text[21], text[22]})};
    for (auto& [name, options] : all) options.max_tokens = 40;
    return all;
  }
  static void expect_sums(const GenerationResult& result, const DraftStatistics& statistics) {
    EXPECT_EQ(result.accepted + result.target_passes, std::ssize(result.tokens));
    DraftCount levels;
    for (const auto& level : statistics.levels) {
      levels.drafted += level.count.drafted;
      levels.accepted += level.count.accepted;
    }
    EXPECT_EQ(levels.drafted, result.drafted);
    EXPECT_EQ(levels.accepted, result.accepted);
    DraftCount positions;
    for (const DraftCount& position : statistics.positions) {
      positions.drafted += position.drafted;
      positions.accepted += position.accepted;
    }
    EXPECT_EQ(positions.drafted, result.drafted);
    EXPECT_EQ(positions.accepted, result.accepted);
  }

  SerialExecutor executor_;
  Model model_ = tiny_model(spec_of(GetParam()), DType::f32);
  Model similar_ = tiny_model(spec_of(GetParam()), DType::bf16);
  Model other_ = model_of_seed(test::tiny_spec(), 5);
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  Session session_{model_, executor_, {.chunk = 16, .max_verify = max_verify}};
};

INSTANTIATE_TEST_SUITE_P(Models, Speculated,
                         testing::Values("mamba", "mamba2", "experts", "hybrid"),
                         [](const auto& model) { return std::string(model.param); });

TEST_P(Speculated, TextIsThatOfThePlainRun) {
  for (const auto& [case_name, options] : cases()) {
    Sequence plain = prompt();
    const GenerationResult expected = run(plain, options);
    for (const auto& [name, make] : drafters(plain.tokens)) {
      for (const std::optional<Index> length :
           {std::optional<Index>(), std::optional<Index>(0), std::optional<Index>(1),
            std::optional<Index>(3), std::optional<Index>(7), std::optional<Index>(20)}) {
        SCOPED_TRACE(testing::Message()
                     << case_name << ", " << name << ", length " << length.value_or(-1));
        GenerationOptions drafted = options;
        drafted.speculation =
            std::make_shared<Speculation>(Speculation::make(make(), {.length = length}).value());
        Sequence sequence = prompt();
        const GenerationResult result = run(sequence, drafted);
        ASSERT_EQ(result.tokens, expected.tokens);
        EXPECT_EQ(result.text, expected.text);
        EXPECT_EQ(result.reason, expected.reason);
        EXPECT_EQ(sequence.tokens, plain.tokens);
        if (options.stop_strings.empty()) {
          EXPECT_TRUE(sequence.state == plain.state);
          EXPECT_EQ(sequence.pending, plain.pending);
        }
        expect_sums(result, drafted.speculation->statistics());
        if (length == 0) {
          EXPECT_EQ(result.drafted, 0);
        }
        if (name == "wrong") {
          EXPECT_EQ(result.accepted, 0);
        }
        if (name == "itself" && case_name != "hot" && case_name != "mask" && case_name != "stop") {
          EXPECT_EQ(result.accepted, result.drafted);
          EXPECT_LE(result.target_passes, length == 7 ? 6 : 40);
        }
      }
    }
  }
}

// A model that drafts for itself is right, whatever the rule; and by rejection too.
TEST_P(Speculated, AModelThatDraftsForItselfIsRight) {
  for (const bool greedy : {true, false}) {
    GenerationOptions options{.max_tokens = 40,
                              .sampler = {.temperature = 0.9, .greedy = greedy, .seed = 8},
                              .acceptance = Acceptance::rejection};
    options.speculation = std::make_shared<Speculation>(
        Speculation::make(
            cascade_drafter({{model_, "itself"}}, ngram_drafter().value(), executor_).value(),
            {.length = 7, .shares = {7, 0}})
            .value());
    Sequence sequence = prompt();
    const GenerationResult result = run(sequence, options);
    EXPECT_EQ(result.accepted, result.drafted);
    EXPECT_EQ(result.target_passes, 6);
    EXPECT_EQ(result.tokens.size(), 40U);
  }
}

TEST_P(Speculated, GreedyTextIsTheSameByRejection) {
  GenerationOptions options{.max_tokens = 40, .sampler = {.temperature = 0.0}};
  Sequence plain = prompt();
  const GenerationResult expected = run(plain, options);
  options.acceptance = Acceptance::rejection;
  for (const auto& [name, make] : drafters(plain.tokens)) {
    options.speculation =
        std::make_shared<Speculation>(Speculation::make(make(), {.length = 5}).value());
    Sequence sequence = prompt();
    EXPECT_EQ(run(sequence, options).tokens, expected.tokens) << name;
  }
}

// A text that is cut in two, and copies of text and speculation: all go on as one.
TEST_P(Speculated, GoesOnWhereItWas) {
  GenerationOptions options{.max_tokens = 40, .sampler = {.temperature = 0.8, .seed = 3}};
  Sequence plain = prompt();
  const GenerationResult expected = run(plain, options);
  for (const auto& [name, make] : drafters(plain.tokens)) {
    SCOPED_TRACE(name);
    Speculation speculation = Speculation::make(make(), {.length = 4}).value();
    Generation text = Generation::make(model_, *tokenizer_, prompt(), options).value();
    const auto go_on = [&](Generation& one, Speculation& own) {
      Generation* const pointer = &one;
      own.propose(one, max_verify - 1).value();
      advance_all(session_, {&pointer, 1}).value();
      own.observe(one).value();
    };
    speculation.begin(text.sequence(), options).value();
    for (int step = 0; !text.is_finished(); ++step) {
      if (step % 3 == 1) {
        Generation copy = text;
        Speculation own = speculation;
        while (!copy.is_finished()) go_on(copy, own);
        EXPECT_EQ(std::as_const(copy).result().tokens, expected.tokens);
      }
      go_on(text, speculation);
    }
    text.finish();
    EXPECT_EQ(std::as_const(text).result().tokens, expected.tokens);
    EXPECT_TRUE(text.sequence().state == plain.state);
    // The drafter knows the text, and goes on behind it.
    Sequence sequence = text.release();
    GenerationOptions more = options;
    more.speculation = std::make_shared<Speculation>(std::move(speculation));
    const GenerationResult rest = run(sequence, more);
    Sequence behind = plain;
    EXPECT_EQ(rest.tokens, run(behind, options).tokens);
    EXPECT_TRUE(sequence.state == behind.state);
  }
}

TEST_P(Speculated, TextsOfABatchDraftDifferently) {
  GenerationOptions options{.max_tokens = 30, .sampler = {.temperature = 0.8}};
  Session session(model_, executor_, {.max_verify = 64, .max_verify_batch = 16});
  std::vector<Tokens> expected;
  std::vector<Generation> texts;
  std::vector<Speculation> speculations;
  Sequence first = prompt();
  run(first, options);
  std::uint64_t seed = 0;
  for (const auto& [name, make] : drafters(first.tokens)) {
    options.sampler.seed = ++seed;
    Sequence sequence = prompt();
    expected.push_back(run(sequence, options).tokens);
    texts.push_back(Generation::make(model_, *tokenizer_, prompt(), options).value());
    const Index length = static_cast<Index>(seed) % 7;
    speculations.push_back(Speculation::make(make(), {.length = length}).value());
    speculations.back().begin(texts.back().sequence(), options).value();
  }
  std::vector<Generation*> pointers;
  for (Generation& text : texts) pointers.push_back(&text);
  while (!std::ranges::all_of(texts, &Generation::is_finished)) {
    for (std::size_t i = 0; i < texts.size(); ++i) speculations[i].propose(texts[i], 7).value();
    advance_all(session, pointers).value();
    for (std::size_t i = 0; i < texts.size(); ++i) speculations[i].observe(texts[i]).value();
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(std::as_const(texts[i]).result().tokens, expected[i]) << i;
    expect_sums(std::as_const(texts[i]).result(), speculations[i].statistics());
  }
}

// Whatever the clock says, the text is the plain one; one that is right is accepted.
TEST_P(Speculated, DraftsAsLongAsItPays) {
  GenerationOptions options{.max_tokens = 1500, .sampler = {.temperature = 0.8, .seed = 3}};
  Sequence plain = prompt();
  run(plain, options);
  const auto drafted = [&](std::unique_ptr<Scripted> drafter, SpeculationOptions how) {
    options.speculation =
        std::make_shared<Speculation>(Speculation::make(std::move(drafter), how).value());
    Sequence sequence = prompt();
    const GenerationResult result = run(sequence, options);
    EXPECT_EQ(sequence.tokens, plain.tokens);
    return result;
  };
  const auto wrong = [](Token token, std::size_t) { return (token + 1) % 61; };
  const auto right = [](Token token, std::size_t) { return token; };
  EXPECT_EQ(drafted(std::make_unique<Scripted>(plain.tokens, wrong), {}).accepted, 0);
  drafted(std::make_unique<Scripted>(plain.tokens, right), {});
  // How many depends on the machine's clock; draft_policy_test.cpp gives it times.
  EXPECT_GT(drafted(std::make_unique<Scripted>(plain.tokens, right), {.shares = {4}}).accepted, 0);
}

// The law of the first two tokens behind a prompt, of a model of few tokens.
class RejectionLaw : public testing::Test {
 protected:
  static constexpr Index vocab = 7;
  static constexpr int samples = 12000;

  static ModelSpec spec(Index d_model) {
    return ModelBuilder{}
        .embedding("embedding", {.vocab = vocab, .d_model = d_model})
        .repeat(2,
                [](LayerBuilder& layer, Index) {
                  layer.residual("norm", RmsNormSpec{}, "mixer",
                                 MambaSpec{.d_state = 4, .dt_rank = 2});
                })
        .final_norm("norm_f", RmsNormSpec{})
        .tied_head()
        .spec();
  }
  Sequence prompt() {
    Sequence sequence(model_, Tokens{1, 5, 2, 2, 1, 5});
    prefill(session_, sequence).value();
    return sequence;
  }
  // Expected counts, from the sampler's law after one token and after two.
  std::vector<double> expected(const SamplerOptions& options) {
    std::vector<double> counts(vocab * vocab, 0.0);
    Sequence sequence = prompt();
    Sampler sampler = Sampler::make(options, vocab).value();
    sampler.observe(sequence.tokens);
    const Token pending = sequence.tokens.back();
    const TokenLaw first = sampler.law(session_.step(pending, sequence.state).value(), 6);
    for (Token a = 0; a < vocab; ++a) {
      State state = sequence.state;
      Sampler behind = sampler;
      behind.observe({&a, 1});
      const TokenLaw second = behind.law(session_.step(a, state).value(), 7);
      for (Token b = 0; b < vocab; ++b) {
        counts[static_cast<std::size_t>(a * vocab + b)] = samples * first(a) * second(b);
      }
    }
    return counts;
  }
  // Pearson's statistic over its degrees of freedom, cells of fewer than 5 put together: its mean
  // is 1, and (value - 1) * sqrt(freedom / 2) about normal.
  double deviation(const std::unique_ptr<Drafter>& drafter, const SamplerOptions& sampler,
                   Acceptance acceptance = Acceptance::rejection) {
    std::vector<double> counts(vocab * vocab, 0.0);
    const Sequence start = prompt();
    GenerationOptions options{.max_tokens = 4, .sampler = sampler, .acceptance = acceptance};
    for (int k = 0; k < samples; ++k) {
      options.sampler.sequence = static_cast<std::uint32_t>(k);
      options.speculation =
          std::make_shared<Speculation>(Speculation::make(drafter->clone(), {.length = 3}).value());
      Sequence sequence = start;
      const Tokens tokens = generate(session_, *tokenizer_, sequence, options).value().tokens;
      ++counts[static_cast<std::size_t>(tokens[0] * vocab + tokens[1])];
    }
    const std::vector<double> wanted = expected(sampler);
    double statistic = 0.0;
    double rest = 0.0;
    double rest_wanted = 0.0;
    double freedom = -1.0;
    const auto add = [&](double found, double mean) {
      statistic += (found - mean) * (found - mean) / mean;
      freedom += 1.0;
    };
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (wanted[i] >= 5.0) {
        add(counts[i], wanted[i]);
      } else {
        rest += counts[i];
        rest_wanted += wanted[i];
      }
    }
    if (rest_wanted >= 5.0) add(rest, rest_wanted);
    return (statistic - freedom) / std::sqrt(2.0 * freedom);
  }

  SerialExecutor executor_;
  Model model_ = model_of_seed(spec(12), 1);
  Model drafter_ = model_of_seed(spec(8), 2);
  Model smaller_ = model_of_seed(spec(8), 3);
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  Session session_{model_, executor_};
};

TEST_F(RejectionLaw, IsTheLawOfTheModel) {
  const SamplerOptions samplers[] = {
      {.temperature = 0.3, .seed = 1},
      {.repetition_penalty = 1.2, .temperature = 0.25, .top_k = 5, .top_p = 0.95, .seed = 2}};
  for (const SamplerOptions& sampler : samplers) {
    const auto of = [&](std::unique_ptr<Drafter> drafter) { return deviation(drafter, sampler); };
    constexpr double likely = 6.0;
    EXPECT_LT(of(ngram_drafter({.least = 1}).value()), likely);
    EXPECT_LT(of(cascade_drafter({{drafter_, "a"}}, nullptr, executor_).value()), likely);
    for (const double lenience : {1.0, 3.0}) {
      EXPECT_LT(of(cascade_drafter({{drafter_, "a"}, {smaller_, "b"}}, maxgram_drafter().value(),
                                   executor_, {.lenience = lenience})
                       .value()),
                likely)
          << lenience;
    }
  }
  // Gumbel noise changes the draws, not the law.
  SamplerOptions gumbel = samplers[1];
  gumbel.gumbel = true;
  EXPECT_LT(deviation(cascade_drafter({{drafter_, "a"}}, nullptr, executor_).value(), gumbel,
                      Acceptance::match),
            6.0);
}

// One that says another law than it draws from is found out.
TEST_F(RejectionLaw, IsAnotherWhereADrafterLies) {
  class Liar final : public Drafter {
   public:
    explicit Liar(std::unique_ptr<Drafter> honest) : honest_(std::move(honest)) {}
    std::string_view name(Index level) const noexcept override { return honest_->name(level); }
    Result<void> begin(const DraftSetting& setting) override { return honest_->begin(setting); }
    Result<void> observe(std::span<const Token> tokens) override {
      return honest_->observe(tokens);
    }
    Result<void> propose(Draft& draft, Index most, Index level) override {
      KRAIT_RETURN_IF_ERROR(honest_->propose(draft, most, level));
      for (TokenLaw& law : draft.laws) law = TokenLaw::dense(std::vector<double>(7, 1.0 / 7.0));
      return {};
    }
    std::unique_ptr<Drafter> clone() const override {
      return std::make_unique<Liar>(honest_->clone());
    }

   private:
    std::unique_ptr<Drafter> honest_;
  };
  const std::unique_ptr<Drafter> liar =
      std::make_unique<Liar>(cascade_drafter({{drafter_, "a"}}, nullptr, executor_).value());
  EXPECT_GT(deviation(liar, {.temperature = 0.3, .seed = 1}), 20.0);
}

template <class R>
std::string message(const R& result) {
  return result ? "no error" : result.error().message;
}

TEST(SpeculationErrors, NameTheOption) {
  const auto make = [](SpeculationOptions options) {
    return message(Speculation::make(ngram_drafter().value(), options));
  };
  EXPECT_EQ(message(Speculation::make(nullptr)),
            "[draft] drafter: expected one, found a null pointer");
  EXPECT_EQ(make({.length = -1}), "[draft] length: expected 0 to 64 tokens, found -1");
  EXPECT_EQ(make({.length = 65}), "[draft] length: expected 0 to 64 tokens, found 65");
  EXPECT_EQ(make({.shares = {1, 2}}), "[draft] shares: expected 1 numbers, found 2");
  EXPECT_EQ(make({.shares = {-2}}), "[draft] shares: expected 0 to 64 tokens, found -2");
}

TEST(SpeculationErrors, DraftsThatCannotBe) {
  const Model model = tiny_model();
  const auto tokenizer = byte_tokenizer();
  Generation text =
      Generation::make(model, *tokenizer, Sequence(model, Tokens{1}), {.max_tokens = 9}).value();
  Draft draft{.tokens = {1, 2}, .laws = {TokenLaw::one_hot(1)}};
  EXPECT_EQ(message(text.propose(draft.tokens, draft.laws)),
            "[generate] laws: expected 2, or none, found 1");
  draft.laws.push_back(TokenLaw::one_hot(3));
  EXPECT_EQ(message(text.propose(draft.tokens, draft.laws)),
            "[generate] law: expected one by which token 2 can be drawn, found a probability of 0");
  draft.laws[1] = TokenLaw::dense({0.5, 0.25});
  EXPECT_EQ(message(text.propose(draft.tokens, draft.laws)),
            "[draft] law: expected probabilities that add up to 1, found 0.75");
  EXPECT_FALSE(text.next().value().tentative);
  draft.laws[1] = TokenLaw::one_hot(2);
  text.propose(draft.tokens, draft.laws).value();
  EXPECT_TRUE(text.next().value().tentative);
}

}  // namespace
}  // namespace krait::speculation_test
