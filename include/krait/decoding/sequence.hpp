#pragma once

/// \file
/// Sequence: a text in progress.

#include <span>
#include <utility>
#include <vector>

#include "krait/models/model.hpp"

namespace krait {
inline namespace v0_1 {

/// A state together with the tokens it stands for. Copy it to fork the text.
struct Sequence {
  State state;
  /// The text so far, oldest first. The last `pending` tokens have not been consumed by the state
  /// yet: a prompt that was just appended, or the token that was sampled last.
  std::vector<Token> tokens;
  Index pending = 0;
  /// Bytes at the end of the text that a generation held back, since a stop string may begin there.
  /// All of their tokens are pending.
  Index unshown = 0;

  Sequence() = default;
  explicit Sequence(const Model& model) : state(model.initial_state()) {}
  Sequence(const Model& model, std::span<const Token> prompt) : Sequence(model) { append(prompt); }

  /// Puts more text behind it. What was held back stays part of the text, but is never shown.
  void append(std::span<const Token> more) {
    tokens.reserve(tokens.size() + more.size());
    for (const Token token : more) tokens.push_back(token);
    pending += static_cast<Index>(more.size());
    if (!more.empty()) unshown = 0;
  }

  /// The tokens that are still to be consumed.
  std::span<const Token> pending_tokens() const noexcept {
    return std::span(tokens).last(static_cast<std::size_t>(pending));
  }
};

/// Whether no more tokens are pending than there are, and the rest of a sequence's numbers can be.
KRAIT_API Result<void> validate(const Sequence& sequence);

}  // namespace v0_1
}  // namespace krait
