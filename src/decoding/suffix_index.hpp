#pragma once

/// \file
/// SuffixIndex: where the end of a text stands further in front.

#include <cstdint>
#include <span>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// A suffix automaton (Blumer et al. 1985) of the last tokens of a text. Its states are the
/// substrings of the text, those together that end at the same places; so the longest suffix that
/// stands elsewhere too is found in constant time per token, averaged, however long it is.
class SuffixIndex {
 public:
  /// Remembers at most `history` tokens, at least 2: where it is full, it forgets the older half.
  explicit SuffixIndex(Index history) : history_(static_cast<std::size_t>(history)) { clear(); }

  void clear();
  void append(Token token);

  /// A suffix of the text, and of what was followed behind it, that also stands elsewhere.
  struct Match {
    std::int32_t state = 0;
    Index length = 0;  ///< in tokens; 0: none
  };
  /// The longest suffix of the text that ends further in front too.
  Match suffix() const noexcept { return match_; }
  /// The longest suffix of a match and a token behind it.
  Match follow(Match match, Token token) const noexcept;

  /// Where a match ends in `tokens()`: at its first place, or the last where it was found as the
  /// longest suffix.
  std::size_t first_end(const Match& match) const noexcept { return state(match).first_end; }
  std::size_t last_end(const Match& match) const noexcept { return state(match).last_end; }

  /// What is remembered, oldest first.
  std::span<const Token> tokens() const noexcept { return tokens_; }

 private:
  static constexpr std::int32_t none = -1;

  struct State {
    std::int32_t length = 0;  // of its longest substring
    std::int32_t link = none;
    std::uint32_t first_end = 0;
    std::uint32_t last_end = 0;
    std::int32_t edges = none;  // the first of a list
  };
  struct Edge {
    std::int32_t from;
    Token token;
    std::int32_t to;
    std::int32_t next;
  };

  const State& state(const Match& match) const noexcept { return at(match.state); }
  State& at(std::int32_t state) noexcept { return states_[static_cast<std::size_t>(state)]; }
  const State& at(std::int32_t state) const noexcept {
    return states_[static_cast<std::size_t>(state)];
  }
  std::int32_t add_state(const State& state);
  void add_edge(std::int32_t from, Token token, std::int32_t to);
  void extend(Token token);
  std::int32_t split(std::int32_t from, Token token, std::int32_t to);
  // The slot of an edge in table_, or the free one where it would be.
  std::size_t slot(std::int32_t from, Token token) const noexcept;
  Edge* find(std::int32_t from, Token token) noexcept;
  const Edge* find(std::int32_t from, Token token) const noexcept;
  void grow_table();

  std::size_t history_;
  std::vector<Token> tokens_;
  std::vector<State> states_;  // the first is that of the empty string
  std::vector<Edge> edges_;
  std::vector<std::int32_t> table_;  // of edges, by state and token; a power of two
  std::int32_t last_ = 0;            // the state of the whole text
  Match match_;
};

}  // namespace v0_1
}  // namespace krait
