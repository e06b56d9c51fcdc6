#pragma once

/// \file
/// Rewind: states of before, for a text that may be taken back.

#include <cstddef>
#include <utility>
#include <vector>

#include "krait/decoding/sequence.hpp"

namespace krait {
inline namespace v0_1 {

/// States from before the tokens that a stop string may yet take back. A copy is taken every few
/// dozen tokens, so that it costs little, and little is consumed again after a stop.
class Rewind {
 public:
  Rewind(const Sequence& sequence, std::size_t consumed) { take(sequence, consumed, safe_); }

  // Before the state, which has consumed so many tokens, consumes the next one. `kept` tokens are
  // certain to stay.
  void note(const Sequence& sequence, std::size_t consumed, std::size_t kept) {
    if (!is_waiting_ && consumed >= safe_.consumed + interval) {
      take(sequence, consumed, waiting_);
      is_waiting_ = true;
    }
    if (is_waiting_ && waiting_.consumed < kept) {
      std::swap(safe_, waiting_);
      is_waiting_ = false;
    }
  }

  // The last state before a token that is certain to stay. Once.
  void restore(Sequence& sequence) noexcept {
    std::swap(sequence.state, safe_.state);
    std::swap(sequence.clean, safe_.clean);
    sequence.noised = safe_.noised;
    // Which of the tokens were sampled, as it was known then: a shower forgets it. Those that came
    // later all were, and there is room for them.
    sequence.sampled.swap(safe_.sampled);
    sequence.mark_sampled({safe_.known, std::ssize(sequence.tokens)});
  }

 private:
  static constexpr std::size_t interval = 64;

  struct Copy {
    State state;
    std::size_t consumed = 0;
    State clean;
    Index noised = 0;
    std::vector<Range> sampled;
    Index known = 0;  // tokens of the text
  };

  static void take(const Sequence& sequence, std::size_t consumed, Copy& copy) {
    if (copy.state.layout() == nullptr) {
      copy.state = sequence.state;
    } else {
      copy.state.copy_from(sequence.state);
    }
    copy.consumed = consumed;
    copy.clean = sequence.clean;
    copy.noised = sequence.noised;
    copy.sampled.reserve(sequence.sampled.size() + 1);
    copy.sampled.assign(sequence.sampled.begin(), sequence.sampled.end());
    copy.known = std::ssize(sequence.tokens);
  }

  Copy safe_;
  Copy waiting_;  // becomes safe_ once a token behind it is certain to stay
  bool is_waiting_ = false;
};

}  // namespace v0_1
}  // namespace krait
