#pragma once

/// \file
/// Sequence: a text in progress.

#include <algorithm>
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
  /// Which of the tokens were sampled (or forced by a constraint) rather than given, as ascending
  /// ranges of their indices: the passes of these are the ones that noise is for (drugs.hpp).
  std::vector<Range> sampled = {};
  /// Behind noised passes, `noised` of them, whose effect is to be undone one day (a shower): the
  /// state in front of the first. Else a state of no model.
  State clean = {};
  Index noised = 0;

  Sequence() = default;
  explicit Sequence(const Model& model) : state(model.initial_state()) {}
  Sequence(const Model& model, std::span<const Token> prompt) : Sequence(model) { append(prompt); }

  /// Puts more text behind it. What was held back stays part of the text, but is never shown.
  void append(std::span<const Token> more) {
    forget_marks();
    tokens.reserve(tokens.size() + more.size());
    for (const Token token : more) tokens.push_back(token);
    pending += static_cast<Index>(more.size());
    if (!more.empty()) unshown = 0;
  }

  /// The same with a token that was sampled, which is not pending yet.
  void push_sampled(Token token) {
    forget_marks();
    tokens.push_back(token);
    mark_sampled({std::ssize(tokens) - 1, std::ssize(tokens)});
  }

  /// Notes that these tokens, all behind those noted before, were sampled.
  void mark_sampled(Range indices) {
    if (indices.begin >= indices.end) return;
    if (!sampled.empty() && sampled.back().end == indices.begin) {
      sampled.back().end = indices.end;
    } else {
      sampled.push_back(indices);
    }
  }

  /// Whether a token was sampled.
  bool is_sampled(Index token) const noexcept {
    return std::ranges::any_of(
        sampled, [token](const Range& range) { return range.begin <= token && token < range.end; });
  }

  /// Whether passes to come are of tokens that were sampled, or what noised passes did is to be
  /// undone. (`prefill` knows nothing of noise.)
  bool awaits_noise() const noexcept {
    const Index first = std::ssize(tokens) - pending;
    return noised > 0 || (!sampled.empty() && sampled.back().end > first);
  }

  /// Leaves no mark on tokens that there are not.
  void forget_marks() noexcept {
    while (!sampled.empty() && sampled.back().end > std::ssize(tokens)) {
      sampled.back().end = std::ssize(tokens);
      if (sampled.back().begin >= sampled.back().end) sampled.pop_back();
    }
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
