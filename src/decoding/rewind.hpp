#pragma once

/// \file
/// Rewind: states of before, for a text that may be taken back.

#include <cstddef>
#include <utility>

#include "krait/models/state.hpp"

namespace krait {
inline namespace v0_1 {

/// States from before the tokens that a stop string may yet take back. A copy is taken every few
/// dozen tokens, so that it costs little, and little is consumed again after a stop.
class Rewind {
 public:
  Rewind(const State& state, std::size_t consumed) : safe_{state, consumed} {}

  // Before `state`, which has consumed so many tokens, consumes the next one. `kept` tokens are
  // certain to stay.
  void note(const State& state, std::size_t consumed, std::size_t kept) {
    if (!is_waiting_ && consumed >= safe_.consumed + interval) {
      if (waiting_.state.layout() == nullptr) {
        waiting_.state = state;
      } else {
        waiting_.state.copy_from(state);
      }
      waiting_.consumed = consumed;
      is_waiting_ = true;
    }
    if (is_waiting_ && waiting_.consumed < kept) {
      std::swap(safe_, waiting_);
      is_waiting_ = false;
    }
  }

  // The last state before a token that is certain to stay. Once.
  void restore(State& state) noexcept { std::swap(state, safe_.state); }

 private:
  static constexpr std::size_t interval = 64;

  struct Copy {
    State state;
    std::size_t consumed = 0;
  };
  Copy safe_;
  Copy waiting_;  // becomes safe_ once a token behind it is certain to stay
  bool is_waiting_ = false;
};

}  // namespace v0_1
}  // namespace krait
