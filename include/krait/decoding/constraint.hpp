#pragma once

/// \file
/// Constraint: what a text has to look like.

#include <memory>
#include <vector>

#include "krait/core/config.hpp"
#include "krait/decoding/token_mask.hpp"

namespace krait {
inline namespace v0_1 {

/// Says which tokens may come next in what a generation writes: a grammar, a schema, a list of
/// words. It begins with the first token that is sampled; the prompt is none of its business.
///
///     // Digits only.
///     class Digits final : public Constraint {
///      public:
///       explicit Digits(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
///       std::unique_ptr<Constraint> clone() const override {
///         return std::make_unique<Digits>(*this);
///       }
///       void restrict_to(TokenMask& mask) const override {
///         for (Token token = 0; token < mask.size(); ++token) {
///           if (!is_number(tokenizer_->bytes(token))) mask.forbid(token);
///         }
///       }
///       void accept(Token) override {}
///       …
///     };
///
/// What a constraint remembers must follow from the tokens that it accepted: to roll it back, a
/// fresh clone is given the text that is left.
class KRAIT_API Constraint {
 public:
  virtual ~Constraint();

  virtual std::unique_ptr<Constraint> clone() const = 0;

  /// Forbids the tokens that may not come next. The mask has a bit for every token of the model and
  /// allows all of them. A text ends where none is left, so whoever wants it to end at a stop token
  /// leaves that one in.
  virtual void restrict_to(TokenMask& mask) const = 0;

  /// The text goes on with `token`. Once, at a stop string, what is left of a token that was cut
  /// there comes as other tokens, which may not be what the mask allowed.
  virtual void accept(Token token) = 0;

  /// Tokens that come next whatever the model says: they become part of the text without being
  /// sampled, and are run in one pass. All of them must be allowed, one after another. By default
  /// none, and every token is sampled.
  virtual std::vector<Token> forced() const { return {}; }
};

}  // namespace v0_1
}  // namespace krait
