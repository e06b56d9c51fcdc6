#include "krait/decoding/grammar.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "decoding/grammar/gbnf.hpp"
#include "decoding/grammar/json_schema.hpp"
#include "decoding/grammar/mask_cache.hpp"
#include "decoding/grammar/regex.hpp"
#include "decoding/text_before.hpp"
#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {

struct Vocabulary::Impl {
  Impl(std::shared_ptr<const Tokenizer> known, std::span<const Token> stops)
      : tokenizer(std::move(known)),
        stop_tokens(stops.begin(), stops.end()),
        trie(std::make_shared<const grammar::TokenTrie>(*tokenizer, stops)) {}

  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<Token> stop_tokens;
  std::shared_ptr<const grammar::TokenTrie> trie;
};

struct Grammar::Impl {
  std::shared_ptr<const grammar::Program> program;
};

namespace {

using grammar::Program;
using grammar::Recogniser;

// What the constraints of one grammar and vocabulary share.
struct Shared {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<Token> stop_tokens;
  std::shared_ptr<const grammar::TokenTrie> trie;
  std::shared_ptr<const Program> program;
  grammar::MaskCache masks;
};

class GrammarConstraint final : public Constraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<Shared> shared)
      : shared_(std::move(shared)), recogniser_(*shared_->program) {}

  std::unique_ptr<Constraint> clone() const override {
    return std::make_unique<GrammarConstraint>(*this);
  }

  void restrict_to(TokenMask& mask) const override {
    std::vector<std::uint64_t> words(static_cast<std::size_t>(shared_->masks.vocab() + 63) / 64);
    shared_->masks.allow(recogniser_, words);
    if (recogniser_.may_end()) {
      for (const Token token : shared_->stop_tokens) {
        if (token < 0 || token >= shared_->masks.vocab()) continue;
        words[static_cast<std::size_t>(token) / 64] |= std::uint64_t{1}
                                                       << (static_cast<unsigned>(token) % 64U);
      }
    }
    const auto allowed = mask.words();
    for (std::size_t w = 0; w < allowed.size(); ++w) {
      allowed[w] &= w < words.size() ? words[w] : 0;
    }
  }

  void accept(Token token) override {
    const auto& stops = shared_->stop_tokens;
    const bool is_text =
        !shared_->tokenizer->is_special(token) && std::ranges::find(stops, token) == stops.end();
    // Behind what is no text nothing follows.
    recogniser_.accept(*shared_->program, is_text ? shared_->tokenizer->bytes(token) : end_of_text);
  }

  std::vector<Token> forced() const override {
    constexpr std::size_t most = 1000;
    const std::string bytes = recogniser_.forced(*shared_->program, most);
    if (bytes.empty()) return {};
    const Tokenizer& tokenizer = *shared_->tokenizer;
    const std::vector<Token> tokens = tokens_within(tokenizer, bytes);
    // Where a longer token could cover the end and what follows, the model is to choose.
    std::size_t certain = 0;
    while (certain < bytes.size() &&
           !shared_->trie->is_prefix(std::string_view(bytes).substr(certain))) {
      ++certain;
    }
    std::vector<Token> kept;
    for (const Token token : tokens) {
      const std::size_t size = tokenizer.bytes(token).size();
      if (size > certain || !is_text(token)) break;
      certain -= size;
      kept.push_back(token);
    }
    return kept;
  }

 private:
  // No UTF-8, so no text of a grammar goes on with it.
  static constexpr std::string_view end_of_text = "\xFF";

  bool is_text(Token token) const {
    const auto& stops = shared_->stop_tokens;
    return !shared_->tokenizer->is_special(token) && std::ranges::find(stops, token) == stops.end();
  }

  std::shared_ptr<Shared> shared_;
  Recogniser recogniser_;
};

}  // namespace

Vocabulary::Vocabulary(std::shared_ptr<const Tokenizer> tokenizer,
                       std::span<const Token> stop_tokens)
    : impl_(std::make_shared<const Impl>(std::move(tokenizer), stop_tokens)) {}

Grammar::Grammar(std::shared_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}

template <class Rules>
Result<Grammar> Grammar::compile(const Rules& rules) {
  KRAIT_ASSIGN_OR_RETURN(Program program, Program::compile(rules));
  auto impl = std::make_shared<Impl>();
  impl->program = std::make_shared<const Program>(std::move(program));
  return Grammar(std::move(impl));
}

Result<Grammar> Grammar::from_regex(std::string_view pattern) {
  grammar::Rules rules;
  const std::uint32_t root = rules.declare("root");
  KRAIT_ASSIGN_OR_RETURN(
      const grammar::ExprId body,
      grammar::parse_regex(rules, pattern, grammar::Match::whole,
                           [&](const grammar::Ranges& set) { return rules.chars(set); }));
  rules.define(root, body);
  return compile(rules);
}

Result<Grammar> Grammar::from_gbnf(std::string_view text, std::string_view root) {
  KRAIT_ASSIGN_OR_RETURN(const grammar::Rules rules, grammar::parse_gbnf(text, root));
  return compile(rules);
}

Result<Grammar> Grammar::from_json_schema(std::string_view schema) {
  KRAIT_ASSIGN_OR_RETURN(const Metadata parsed, parse_json(schema, "json-schema", JsonWords::none));
  KRAIT_ASSIGN_OR_RETURN(const grammar::SchemaRules made, grammar::parse_json_schema(parsed));
  return compile(made.rules);
}

bool Grammar::matches(std::string_view text) const {
  Recogniser recogniser(*impl_->program);
  return recogniser.accept(*impl_->program, text) && recogniser.may_end();
}

Result<std::shared_ptr<const Constraint>> Grammar::constrain(const Vocabulary& vocabulary) const {
  const auto& known = *vocabulary.impl_;
  KRAIT_ASSIGN_OR_RETURN(Program program, impl_->program->restricted_to(known.trie->bytes()));
  auto kept = std::make_shared<const Program>(std::move(program));
  const auto shared =
      std::shared_ptr<Shared>(new Shared{.tokenizer = known.tokenizer,
                                         .stop_tokens = known.stop_tokens,
                                         .trie = known.trie,
                                         .program = kept,
                                         .masks = {kept, known.trie, known.tokenizer->vocab()}});
  return std::shared_ptr<const Constraint>(std::make_shared<const GrammarConstraint>(shared));
}

}  // namespace v0_1
}  // namespace krait
