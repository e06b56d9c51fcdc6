// Grammars and schemas on texts that models write: at any temperature, with drafts, in batches, cut
// and resumed.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/grammar.hpp"
#include "krait/loading/language_model.hpp"
#include "tests/decoding/grammar_oracle.hpp"
#include "tests/decoding/schema_validator.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::constrained_text_test {
namespace {

using nlohmann::ordered_json;

constexpr const char* person = R"({"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 8},
    "kind": {"enum": ["captain", "sailor", "cook"]},
    "age": {"type": "integer", "minimum": 1, "maximum": 120},
    "ships": {"type": "array", "maxItems": 3, "items": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"}},
    "friend": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/friend"}]}},
  "required": ["name", "kind", "age", "ships"],
  "$defs": {"friend": {"type": "object", "properties": {"born": {"type": "string", "format": "date"}}, "required": ["born"]}}})";

class ConstrainedText : public testing::Test {
 protected:
  static std::shared_ptr<const Constraint> constraint(const Grammar& grammar) {
    return grammar.constrain(Vocabulary(byte_tokenizer())).value();
  }
  Sequence prompt() const { return {model_, test::random_tokens(5, model_.vocab(), 5)}; }

  // Runs the text to its end, then so many tokens further.
  static std::vector<Token> in_two_parts(Session& session, Generation& generation, Index more) {
    std::vector<Token> tokens;
    for (const bool is_resumed : {false, true}) {
      if (is_resumed) generation.resume(more).value();
      while (!generation.is_finished()) {
        const RunItem item = generation.next().value();
        const RunOutput output = session.run({&item, 1}).value();
        generation.accept(output.logits(0)).value();
      }
      generation.finish();
      const GenerationResult& part = std::as_const(generation).result();
      EXPECT_EQ(part.target_passes + part.accepted + part.forced, std::ssize(part.tokens));
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
    }
    return tokens;
  }

  // A byte model without knowledge: whatever it writes is the constraint's doing.
  static Model byte_model() {
    ModelSpec spec = test::tiny_spec();
    spec.embedding.vocab = spec.embedding.vocab_padded = 256;
    return test::tiny_model(spec, DType::f32);
  }
  Model model_ = byte_model();
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Session session_{model_, executor_, {.max_batch = 4, .max_verify = 8}};
};

TEST_F(ConstrainedText, ParsesAndValidatesAtAnyTemperature) {
  const test::SchemaValidator validator(ordered_json::parse(person));
  const auto held = constraint(Grammar::from_json_schema(person).value());
  int finished = 0;
  int forced = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const double temperature = seed % 3 == 0 ? 0.0 : seed % 3 == 1 ? 2.0 : 100.0;
    Sequence text = prompt();
    const GenerationResult result = generate(session_, *tokenizer_, text,
                                             {.max_tokens = 400,
                                              .sampler = {.temperature = temperature, .seed = seed},
                                              .constraint = held})
                                        .value();
    if (result.reason == FinishReason::max_tokens) continue;
    ++finished;
    ASSERT_EQ(result.reason, FinishReason::constraint);
    const ordered_json value = ordered_json::parse(result.text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << result.text;
    ASSERT_TRUE(validator.is_valid(value)) << result.text;
    ASSERT_EQ(tokenizer_->decode(result.tokens), result.text);
    ASSERT_EQ(result.target_passes + result.forced, std::ssize(result.tokens));
    forced += static_cast<int>(result.forced);
  }
  EXPECT_GT(finished, 40);
  EXPECT_GT(forced, 30 * finished);
}

// Run by hand, one token at a time, without the constraint's own words for what must follow.
TEST_F(ConstrainedText, ForcedTokensAreThoseThatWouldBeSampled) {
  class Unforced final : public Constraint {
   public:
    explicit Unforced(std::unique_ptr<Constraint> inner) : inner_(std::move(inner)) {}
    std::unique_ptr<Constraint> clone() const override {
      return std::make_unique<Unforced>(inner_->clone());
    }
    void restrict_to(TokenMask& mask) const override { inner_->restrict_to(mask); }
    void accept(Token token) override { inner_->accept(token); }

   private:
    std::unique_ptr<Constraint> inner_;
  };
  const auto held = constraint(Grammar::from_json_schema(person).value());
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    for (const Index tokens : {1, 3, 20, 300}) {
      for (const std::string& stop :
           {std::string(), std::string("\"kind\": \"s"), std::string("age")}) {
        GenerationOptions options{
            .max_tokens = tokens, .sampler = {.seed = seed}, .constraint = held};
        if (!stop.empty()) options.stop_strings = {stop};
        Sequence one = prompt();
        const GenerationResult first = generate(session_, *tokenizer_, one, options).value();
        options.constraint = std::make_shared<const Unforced>(held->clone());
        Sequence two = prompt();
        const GenerationResult second = generate(session_, *tokenizer_, two, options).value();
        ASSERT_EQ(first.tokens, second.tokens);
        ASSERT_EQ(first.text, second.text);
        ASSERT_EQ(first.reason, second.reason);
        ASSERT_EQ(one.tokens, two.tokens);
        EXPECT_EQ(second.forced, 0);
        // The states, once they have consumed the same.
        prefill(session_, one).value();
        prefill(session_, two).value();
        ASSERT_EQ(one.pending, two.pending);
        ASSERT_TRUE(one.state == two.state);
      }
    }
  }
}

// Whatever is proposed, right or wrong, the text is the same.
TEST_F(ConstrainedText, GoesTogetherWithDrafts) {
  const auto held = constraint(Grammar::from_json_schema(person).value());
  for (const bool has_stops : {false, true}) {
    GenerationOptions options{.max_tokens = 150, .sampler = {.seed = 3}, .constraint = held};
    if (has_stops) options.stop_strings = {"nowhere to be seen"};
    Sequence plain = prompt();
    const std::vector<Token> expected =
        generate(session_, *tokenizer_, plain, options).value().tokens;
    Generation text = Generation::make(model_, *tokenizer_, prompt(), options).value();
    int proposed = 0;
    while (!text.is_finished()) {
      const auto at = std::as_const(text).result().tokens.size();
      const bool is_single = text.sequence().pending == 1 && at > 0;
      if (is_single && at + 1 < expected.size()) {
        std::vector<Token> draft(
            expected.begin() + static_cast<std::ptrdiff_t>(at),
            expected.begin() + static_cast<std::ptrdiff_t>(std::min(at + 4, expected.size())));
        if (at % 3 == 0) draft.back() ^= 1;
        text.propose(draft).value();
        ++proposed;
      }
      const RunItem item = text.next().value();
      const RunOutput output = session_.run({&item, 1}).value();
      text.accept(output.logits(0)).value();
      if (item.tentative) session_.keep(text.kept(), text.state()).value();
    }
    text.finish();
    EXPECT_GT(proposed, 5);
    EXPECT_EQ(std::as_const(text).result().tokens, expected);
    EXPECT_GT(std::as_const(text).result().accepted, 0);
  }
}

// Several texts at once, each held to something else; copies go on like the original.
TEST_F(ConstrainedText, GoesTogetherWithBatchesAndCopies) {
  const Grammar grammars[] = {Grammar::from_json_schema(person).value(),
                              Grammar::from_regex("[a-z]{3,9}(, [a-z]{3,9}){2}\\.").value(),
                              Grammar::from_gbnf("root ::= \"(\" root \")\" | [0-9]{5}").value()};
  std::vector<Generation> texts;
  std::vector<std::vector<Token>> expected;
  for (const Grammar& grammar : grammars) {
    const GenerationOptions options{
        .max_tokens = 60, .sampler = {.seed = 8}, .constraint = constraint(grammar)};
    Sequence alone = prompt();
    expected.push_back(generate(session_, *tokenizer_, alone, options).value().tokens);
    texts.push_back(Generation::make(model_, *tokenizer_, prompt(), options).value());
  }
  std::vector<Generation*> running;
  for (Generation& text : texts) running.push_back(&text);
  for (int step = 0; step < 7; ++step) advance_all(session_, running).value();
  std::vector<Generation> copies = texts;
  for (std::vector<Generation>* const set : {&texts, &copies}) {
    running.clear();
    for (Generation& text : *set) running.push_back(&text);
    while (!std::ranges::all_of(*set, &Generation::is_finished)) {
      advance_all(session_, running).value();
    }
    for (std::size_t i = 0; i < set->size(); ++i) {
      EXPECT_EQ(std::as_const((*set)[i]).result().tokens, expected[i]);
    }
  }
}

// Cut anywhere and resumed, the text is the whole.
TEST_F(ConstrainedText, GoesOnWhereItWasCut) {
  GenerationOptions options{.max_tokens = 120, .sampler = {.seed = 2}};
  options.constraint = constraint(Grammar::from_json_schema(person).value());
  Sequence text = prompt();
  const std::vector<Token> whole = generate(session_, *tokenizer_, text, options).value().tokens;
  for (const Index cut : {1, 5, 9, 10, 30}) {
    options.max_tokens = cut;
    Generation generation = Generation::make(model_, *tokenizer_, prompt(), options).value();
    EXPECT_EQ(in_two_parts(session_, generation, std::ssize(whole) - cut), whole) << cut;
  }
}

// Also within what can go on in one way only, which long tokens spell in many.
TEST_F(ConstrainedText, OfLongTokensGoesOnWhereItWasCut) {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  for (const char* text : {"{\"", "\"name", "name", "me\"", "\": ", ", \"", "kind", "\"k", "in",
                           "age", "\"age\"", "ships", "\": [", "]}"}) {
    texts.emplace_back(text);
  }
  const auto tokenizer = std::make_shared<const test::ListTokenizer>(texts);
  ModelSpec spec = test::tiny_spec();
  spec.embedding.vocab = spec.embedding.vocab_padded = tokenizer->vocab();
  const Model model = test::tiny_model(spec, DType::f32);
  Session session(model, executor_);
  const Sequence begin{model, test::random_tokens(5, model.vocab(), 5)};
  GenerationOptions options{.max_tokens = 120, .sampler = {.seed = 2}};
  options.constraint =
      Grammar::from_json_schema(person).value().constrain(Vocabulary(tokenizer)).value();
  Sequence text = begin;
  const GenerationResult whole = generate(session, *tokenizer, text, options).value();
  EXPECT_GT(whole.forced, 10);
  for (Index cut = 1; cut < std::ssize(whole.tokens); ++cut) {
    options.max_tokens = cut;
    Generation generation = Generation::make(model, *tokenizer, Sequence(begin), options).value();
    EXPECT_EQ(in_two_parts(session, generation, std::ssize(whole.tokens) - cut), whole.tokens)
        << cut;
  }
}

// A bundled model, which has learned to write.
TEST(ConstrainedModel, WritesWhatParses) {
  const LanguageModel lm = load_language_model("krait-bytes-draft").value();
  SerialExecutor executor;
  Session session(lm.model, executor);
  const Vocabulary vocabulary(lm.tokenizer, lm.stop_tokens);
  const test::SchemaValidator validator(ordered_json::parse(person));
  const auto held = Grammar::from_json_schema(person).value().constrain(vocabulary).value();
  int finished = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Sequence text(lm.model, lm.encode_prompt("Here is the sailor: ").value());
    const GenerationResult result =
        generate(
            session, *lm.tokenizer, text,
            {.max_tokens = 500, .sampler = {.temperature = 2.0, .seed = seed}, .constraint = held})
            .value();
    if (result.reason == FinishReason::max_tokens) continue;
    ++finished;
    const ordered_json value = ordered_json::parse(result.text, nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << result.text;
    ASSERT_TRUE(validator.is_valid(value)) << result.text;
  }
  EXPECT_GT(finished, 20);
}

}  // namespace
}  // namespace krait::constrained_text_test
