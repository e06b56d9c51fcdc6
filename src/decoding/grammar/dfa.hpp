#pragma once

/// \file
/// Finite automata over bytes, and the algebra of the languages they accept.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// How much work may be done before a grammar counts as too large. Shared by all that is made for
/// one grammar, so that no number of attempts is slow.
struct Budget {
  std::uint64_t steps = 100'000'000;
  /// Whether so much was left.
  bool spend(std::uint64_t count) noexcept {
    if (count > steps) {
      steps = 0;
      return false;
    }
    steps -= count;
    return true;
  }
};

/// A deterministic automaton. State 0 is the start; every state leads to an accepting one, so an
/// automaton without states accepts nothing.
struct Dfa {
  static constexpr std::uint32_t dead = 0xFFFFFFFF;

  std::array<std::uint8_t, 256> class_of = {};  ///< bytes that no state tells apart
  std::uint32_t classes = 1;
  std::vector<std::uint32_t> next;    ///< [states, classes]
  std::vector<std::uint8_t> accepts;  ///< [states]

  std::uint32_t states() const noexcept { return static_cast<std::uint32_t>(accepts.size()); }
  bool is_empty() const noexcept { return accepts.empty(); }
  bool accepts_empty_text() const noexcept { return !is_empty() && accepts[0] != 0; }
  std::uint32_t step(std::uint32_t state, unsigned char byte) const noexcept {
    return next[static_cast<std::size_t>(state) * classes + class_of[byte]];
  }
  bool matches(std::string_view text) const noexcept;

  friend bool operator==(const Dfa&, const Dfa&) = default;
};

/// An automaton with empty moves, as it is put together from a pattern.
class Nfa {
 public:
  struct Edge {
    std::uint8_t first, last;
    std::uint32_t to;
  };
  struct State {
    std::vector<Edge> edges;
    std::vector<std::uint32_t> empty;
  };

  std::uint32_t add() {
    states_.emplace_back();
    return static_cast<std::uint32_t>(states_.size() - 1);
  }
  void connect(std::uint32_t from, std::uint32_t to) { states_[from].empty.push_back(to); }
  void connect(std::uint32_t from, std::uint32_t to, std::uint8_t first, std::uint8_t last) {
    states_[from].edges.push_back({first, last, to});
  }
  /// By the UTF-8 of any of these characters; surrogates are none.
  void connect(std::uint32_t from, std::uint32_t to, std::span<const unicode::CodeRange> chars);
  /// By any text of an automaton.
  void connect(std::uint32_t from, std::uint32_t to, const Dfa& dfa);

  const std::vector<State>& states() const noexcept { return states_; }

 private:
  std::vector<State> states_;
};

/// The smallest automaton (of those beyond a few thousand states, only a trimmed one) for what
/// leads from `start` to `end`; nothing if it has more than `most` states or the budget is spent.
std::optional<Dfa> determinise(const Nfa& nfa, std::uint32_t start, std::uint32_t end,
                               std::uint32_t most, Budget& budget);

enum class Product { both, first_only };
/// What both accept, or what only the first does.
std::optional<Dfa> combine(const Dfa& a, const Dfa& b, Product kind, std::uint32_t most,
                           Budget& budget);

/// Without the empty text.
Dfa without_empty(const Dfa& dfa);

/// What can be written with these bytes alone.
Dfa restricted(const Dfa& dfa, const std::array<bool, 256>& bytes);

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
