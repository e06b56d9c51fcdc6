#pragma once

/// \file
/// Grammar: the texts that a model may write, as a regular expression, a grammar or a JSON schema.

#include <memory>
#include <span>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/decoding/constraint.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// The tokens of a model, ordered by their bytes: made once, used by all constraints. Cheap to
/// copy.
class KRAIT_API Vocabulary {
 public:
  /// `stop_tokens` end a text; they are allowed where it may end. Other special tokens are never
  /// allowed, since they are not text.
  explicit Vocabulary(std::shared_ptr<const Tokenizer> tokenizer,
                      std::span<const Token> stop_tokens = {});

 private:
  friend class Grammar;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// A set of texts, compiled. Immutable and cheap to copy.
///
///     KRAIT_ASSIGN_OR_RETURN(const Grammar grammar, Grammar::from_json_schema(schema));
///     const Vocabulary vocabulary(lm.tokenizer, lm.stop_tokens);
///     KRAIT_ASSIGN_OR_RETURN(options.constraint, grammar.constrain(vocabulary));
///
/// docs/constraints.md has what each notation can say. All three become context-free grammars over
/// bytes, recognised by all readings side by side, so tokens may cover parts of characters, and
/// characters of several parts of the grammar. Compiling takes bounded time and memory: what would
/// take more is refused, as are grammars of which no text is left.
///
/// Errors of the notations: bad_format (with a line or a place), unsupported (what cannot be
/// honoured, by name; what is too large), bad_argument (no text is left).
class KRAIT_API Grammar {
 public:
  /// Whole texts that match. No assertions but ^ and $, no references back.
  static Result<Grammar> from_regex(std::string_view pattern);

  /// llama.cpp's notation (GBNF).
  static Result<Grammar> from_gbnf(std::string_view text, std::string_view root = "root");

  /// Texts of JSON that a schema (draft 2020-12) validates, on one line, with a space behind commas
  /// and colons, properties in the order of the schema.
  static Result<Grammar> from_json_schema(std::string_view schema);

  /// Whether the text is one of the set.
  bool matches(std::string_view text) const;

  /// Holds generated texts to the grammar: a prefix of a text is always one that can be completed
  /// in tokens of the vocabulary. A copy costs what the open rules take. Where only one thing can
  /// follow, `forced` says so. Errors: bad_argument (the vocabulary's tokens can write no text of
  /// the set).
  Result<std::shared_ptr<const Constraint>> constrain(const Vocabulary& vocabulary) const;

 private:
  struct Impl;
  explicit Grammar(std::shared_ptr<const Impl> impl) noexcept;
  template <class Rules>
  static Result<Grammar> compile(const Rules& rules);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace v0_1
}  // namespace krait
