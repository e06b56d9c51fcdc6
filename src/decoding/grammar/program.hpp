#pragma once

/// \file
/// Program: a grammar, compiled to what a recogniser runs.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "decoding/grammar/dfa.hpp"
#include "decoding/grammar/expr.hpp"
#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Texts of an automaton, none of them empty. If it is counted, `least` to `most` texts of it in a
/// row, none of which is the beginning of another.
struct Lexeme {
  Dfa dfa;
  bool is_counted = false;
  std::uint32_t least = 1, most = 1;
  std::uint32_t first_state = 0;  ///< its start, among the states of all lexemes

  friend bool operator==(const Lexeme&, const Lexeme&) = default;
};

/// What a state of an automaton can do.
struct StateInfo {
  std::uint32_t lexeme = 0;
  bool accepts = false;
  bool can_go_on = false;
  std::int16_t only_byte = -1;  ///< the one byte that leads on; -1 if none or several do
};

/// A lexeme or a rule, and the point behind it.
struct Step {
  std::uint32_t what = 0;
  std::uint32_t next = 0;
  bool is_rule = false;

  friend bool operator==(const Step&, const Step&) = default;
};

/// A place in a rule: what may come next there, and whether the rule may end.
struct Point {
  std::uint32_t first_step = 0, steps = 0;
  bool may_end = false;
};

/// Recursive transition network (Woods 1970): rules are automata whose moves are lexemes and other
/// rules. No rule begins with itself, and each rule, point and state leads to an end.
class Program {
 public:
  /// Rule 0 of the grammar is the one that texts are of. Errors: bad_format (a rule that begins
  /// with itself), unsupported (a grammar that is too large), bad_argument (no text at all).
  static Result<Program> compile(const Rules& rules);

  /// The texts that can be written with these bytes alone. Errors: bad_argument (none can).
  Result<Program> restricted_to(const std::array<bool, 256>& bytes) const;

  std::uint32_t root() const noexcept { return root_; }  ///< a point
  bool accepts_empty_text() const noexcept { return accepts_empty_; }
  /// Whether nothing but the rule's end can follow.
  bool is_end(std::uint32_t point) const noexcept {
    return points_[point].may_end && points_[point].steps == 0;
  }
  bool may_end(std::uint32_t point) const noexcept { return points_[point].may_end; }
  std::span<const Step> steps(std::uint32_t point) const noexcept {
    return std::span(steps_).subspan(points_[point].first_step, points_[point].steps);
  }
  std::uint32_t entry(std::uint32_t rule) const noexcept { return entries_[rule]; }
  std::uint32_t rules() const noexcept { return static_cast<std::uint32_t>(entries_.size()); }

  const std::vector<Lexeme>& lexemes() const noexcept { return lexemes_; }
  const Lexeme& lexeme_of(std::uint32_t state) const noexcept {
    return lexemes_[states_[state].lexeme];
  }
  const StateInfo& state(std::uint32_t state) const noexcept { return states_[state]; }

 private:
  friend class Compiler;
  Error nothing_left(std::string_view why) const;
  Result<void> finish();
  void number_states();
  bool trim();
  Result<void> refuse_left_recursion() const;

  std::uint32_t root_ = 0;
  bool accepts_empty_ = false;
  std::vector<Lexeme> lexemes_;
  std::vector<StateInfo> states_;
  std::vector<Point> points_;
  std::vector<Step> steps_;
  std::vector<std::uint32_t> entries_;  // by rule
  std::vector<std::string> names_;      // by rule; empty for parts of rules
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
