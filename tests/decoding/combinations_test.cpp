// Everything that decoding can do, with everything else: it gives what it should, or is refused
// with a reason. Which are refused stands here, and nowhere else in the tests.
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/decoding/beam_search.hpp"
#include "krait/decoding/best_of.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/speculation.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::combinations_test {
namespace {

using Tokens = std::vector<Token>;

// Allows even and odd tokens in turn, the first even.
class InTurn final : public Constraint {
 public:
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<InTurn>(*this); }
  void restrict_to(TokenMask& mask) const override {
    for (Token token = 0; token < mask.size(); ++token) {
      if ((token + count_) % 2 != 0) mask.forbid(token);
    }
  }
  void accept(Token /*token*/) override { ++count_; }

 private:
  Token count_ = 0;
};

bool is_in_turn(const Tokens& tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if ((static_cast<std::size_t>(tokens[i]) + i) % 2 != 0) return false;
  }
  return true;
}

const char* const forms[] = {"f32", "bf16", "q8", "q4", "low_rank", "aqlm"};

struct Case {
  test::TinyStack stack;
  const char* form;

  std::string name() const { return std::string(stack.name) + "_" + form; }
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name(); }
};

Model model_of(const test::TinyStack& stack, const std::string& form) {
  const ModelSpec spec = stack.spec();
  if (form == "low_rank") return test::tiny_factored_model(spec, DType::f32);
  if (form == "aqlm" || form == "gguf") {
    const WeightStore weights =
        form == "aqlm" ? test::aqlm_weights(spec, {.codebooks = 4, .bits = 4, .in_group = 8})
                       : test::gguf_weights(spec, "q5_1", "q4_k");
    return build_model(spec, weights, "backbone").value();
  }
  return test::tiny_model(spec, DType::f32, {.form = form});
}

// One row of the table.
struct Choice {
  bool is_constrained = false;
  std::string drugs = "none";  // or a policy for the state
  std::string draft = "none";  // "ngram", "model"
  double guidance = 1.0;
  bool is_greedy = false;

  std::string name() const {
    return std::string(is_constrained ? "constraint " : "") + "drugs " + drugs + ", draft " +
           draft + ", guidance " + std::to_string(guidance) + (is_greedy ? ", greedy" : "");
  }
};

std::vector<Choice> choices() {
  std::vector<Choice> all;
  for (const bool is_constrained : {false, true}) {
    for (const char* drugs : {"none", "clean", "carry", "shower(3)"}) {
      for (const char* draft : {"none", "ngram", "model"}) {
        for (const double guidance : {1.0, 1.5}) {
          for (const bool is_greedy : {false, true}) {
            all.push_back({is_constrained, drugs, draft, guidance, is_greedy});
          }
        }
      }
    }
  }
  return all;
}

// Why a row is refused; empty: it works.
std::string refusal(const Choice& choice) {
  if (choice.guidance != 1.0 && choice.drugs.starts_with("shower")) {
    return "[generate] guidance: expected noise whose state is clean or carry, found a shower";
  }
  if (choice.guidance != 1.0 && choice.draft != "none") {
    return "[generate] guidance: expected no speculation beside it, found one";
  }
  return {};
}

constexpr Index length = 14;

class Combinations : public testing::TestWithParam<Case> {
 protected:
  Sequence prompt() const { return {model_, test::random_tokens(11, 61, 4)}; }

  GenerationOptions options_of(const Choice& choice) {
    GenerationOptions options{.max_tokens = length};
    options.sampler = {.temperature = 0.9, .greedy = choice.is_greedy, .seed = 5};
    if (choice.is_constrained) options.constraint = std::make_shared<const InTurn>();
    if (choice.drugs != "none") {
      DrugPlan plan{.doses = parse_doses("H:theta=0.4;Z:theta=0.3").value(), .seed = 8};
      if (std::string_view(GetParam().stack.name).starts_with("hybrid")) {
        plan.doses = parse_doses("H:theta=0.4").value();
      }
      parse_drug_state(choice.drugs, plan).value();
      options.drugs = std::make_shared<const Drugs>(Drugs::make(plan, model_).value());
    }
    if (choice.draft != "none") {
      auto drafter = choice.draft == "ngram"
                         ? ngram_drafter({.least = 1}).value()
                         : cascade_drafter({{similar_, "similar"}}, nullptr, executor_).value();
      options.speculation = std::make_shared<Speculation>(
          Speculation::make(std::move(drafter), {.length = 3}).value());
    }
    options.guidance_scale = choice.guidance;
    return options;
  }
  static Choice plain(Choice choice) {
    choice.draft = "none";
    return choice;
  }

  Tokens generated(Sequence& sequence, const GenerationOptions& options) {
    return generate(session_, *tokenizer_, sequence, options).value().tokens;
  }

  SerialExecutor executor_;
  Model model_ = model_of(GetParam().stack, GetParam().form);
  Model similar_ = model_of(GetParam().stack, "bf16");
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  Session session_{
      model_, executor_, {.chunk = 16, .max_batch = 40, .max_verify = 8, .max_verify_batch = 40}};
};

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const test::TinyStack& stack : test::tiny_stacks) {
    for (const char* form : forms) all.push_back({stack, form});
  }
  // Blocks of GGUF are longer than most rows of the other stacks.
  all.push_back({{"wide", test::tiny_wide_spec}, "gguf"});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Models, Combinations, testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name(); });

// One text: drafts change nothing, constraints hold, and the text can be cut anywhere.
TEST_P(Combinations, WorkOrAreRefused) {
  for (const Choice& choice : choices()) {
    SCOPED_TRACE(choice.name());
    const GenerationOptions options = options_of(choice);
    Sequence sequence = prompt();
    const auto result = generate(session_, *tokenizer_, sequence, options);
    if (const std::string reason = refusal(choice); !reason.empty()) {
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().message, reason);
      EXPECT_EQ(sequence.tokens, prompt().tokens);
      continue;
    }
    ASSERT_TRUE(result) << result.error().message;
    Sequence undrafted = prompt();
    const Tokens expected = generated(undrafted, options_of(plain(choice)));
    EXPECT_EQ(result->tokens, expected);
    ASSERT_EQ(std::ssize(expected), length);
    if (choice.is_constrained) {
      EXPECT_TRUE(is_in_turn(expected));
    }
    if (choice.draft != "none") {
      EXPECT_EQ(result->accepted + result->target_passes, length);
    }

    // Cut at some token (or where its step ends, for drafts), the sequence goes on as if it had not
    // been.
    Sequence part = prompt();
    const auto stopped = generate(
        session_, *tokenizer_, part, options_of(choice),
        [](const GenerationEvent& event) { return event.count < 5 ? Flow::go_on : Flow::stop; });
    ASSERT_TRUE(stopped) << stopped.error().message;
    EXPECT_EQ(stopped->reason, FinishReason::cancelled);
    EXPECT_TRUE(validate(part));
    const Index cut = std::ssize(stopped->tokens);
    EXPECT_GE(cut, 5);
    EXPECT_LE(cut, choice.draft == "none" ? 5 : 8);
    EXPECT_EQ(std::ssize(part.tokens), std::ssize(prompt().tokens) + cut);
    if (choice.guidance != 1.0) continue;                 // its prompt begins anew
    if (choice.is_constrained && cut % 2 != 0) continue;  // so does a constraint
    GenerationOptions rest = options_of(choice);
    rest.max_tokens = length - cut;
    const Tokens end = generated(part, rest);
    EXPECT_EQ(end, Tokens(expected.begin() + cut, expected.end()));
    EXPECT_EQ(part.tokens, undrafted.tokens);
  }
}

// All texts that can be run together, in one pass over the weights each.
TEST_P(Combinations, ShareABatch) {
  std::vector<Tokens> expected;
  std::vector<Generation> texts;
  std::vector<std::string> names;
  std::vector<std::shared_ptr<Speculation>> speculations;
  for (const Choice& choice : choices()) {
    if (choice.guidance != 1.0) continue;  // `generate` guides
    Sequence alone = prompt();
    expected.push_back(generated(alone, options_of(plain(choice))));
    const GenerationOptions options = options_of(choice);
    texts.push_back(Generation::make(model_, *tokenizer_, prompt(), options).value());
    speculations.push_back(options.speculation);
    if (options.speculation) options.speculation->begin(texts.back().sequence(), options).value();
    names.push_back(choice.name());
  }
  std::vector<Generation*> pointers;
  for (Generation& text : texts) pointers.push_back(&text);
  Session session(model_, executor_,
                  {.chunk = 512, .max_batch = 64, .max_verify = 256, .max_verify_batch = 64});
  while (!std::ranges::all_of(texts, &Generation::is_finished)) {
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (speculations[i]) speculations[i]->propose(texts[i], 3).value();
    }
    advance_all(session, pointers).value();
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (speculations[i]) speculations[i]->observe(texts[i]).value();
    }
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(std::as_const(texts[i]).result().tokens, expected[i]) << names[i];
  }
}

// Searches: beams are texts without drafts, noise or draws, the best of several have no drafts.
TEST_P(Combinations, OfSearches) {
  for (const Choice& choice : choices()) {
    SCOPED_TRACE(choice.name());
    GenerationOptions options = options_of(choice);
    const auto best = best_of(session_, *tokenizer_, prompt(), options, 3);
    if (choice.draft != "none" || !refusal(choice).empty()) {
      ASSERT_FALSE(best);
      EXPECT_NE(best.error().message.find(": expected "), std::string::npos);
    } else {
      ASSERT_TRUE(best) << best.error().message;
    }

    options.sampler = {};
    const auto beams = beam_search(session_, *tokenizer_, prompt(), options, {.num_beams = 3});
    if (choice.draft != "none" || choice.drugs != "none") {
      ASSERT_FALSE(beams);
      EXPECT_NE(beams.error().message.find(": expected "), std::string::npos)
          << beams.error().message;
      continue;
    }
    ASSERT_TRUE(beams) << beams.error().message;
    EXPECT_EQ(std::ssize(beams->front().result.tokens), length);
    EXPECT_TRUE(!choice.is_constrained || is_in_turn(beams->front().result.tokens));
    EXPECT_TRUE(validate(beams->front().sequence));
  }
}

}  // namespace
}  // namespace krait::combinations_test
