#pragma once

/// \file
/// Sequence: a text in progress.

#include <span>
#include <utility>
#include <vector>

#include "krait/models/model.hpp"

namespace krait::inline v0_1 {

/// A state together with the tokens it stands for. Copy it to fork the text.
struct Sequence {
  State state;
  /// The text so far, oldest first. The last `pending` tokens have not been consumed by the state
  /// yet: a prompt that was just appended, or the token that was sampled last.
  std::vector<Token> tokens;
  Index pending = 0;

  Sequence() = default;
  explicit Sequence(const Model& model) : state(model.initial_state()) {}
  Sequence(const Model& model, std::span<const Token> prompt) : Sequence(model) { append(prompt); }

  void append(std::span<const Token> more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
    pending += static_cast<Index>(more.size());
  }

  /// The tokens that are still to be consumed.
  std::span<const Token> pending_tokens() const noexcept {
    return std::span(tokens).last(static_cast<std::size_t>(pending));
  }
};

}  // namespace krait::inline v0_1
