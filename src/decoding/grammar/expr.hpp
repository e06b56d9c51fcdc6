#pragma once

/// \file
/// Rules: what grammars, patterns and schemas become before they are compiled.

#include <cstdint>
#include <deque>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "decoding/grammar/dfa.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

using Ranges = std::vector<unicode::CodeRange>;  // of characters, ascending, apart
using ExprId = std::uint32_t;

inline constexpr std::uint32_t unbounded = std::numeric_limits<std::uint32_t>::max();

/// A set of texts.
struct Expr {
  enum class Kind : std::uint8_t {
    literal,  ///< one text: `text`
    chars,    ///< one character of `ranges`
    seq,      ///< one of each part, in a row; the empty text without parts
    alt,      ///< one of the parts; nothing without parts
    repeat,   ///< parts[0], from `least` to `most` times
    rule,     ///< a text of rule `index`
    dfa,      ///< what automaton `index` accepts
    counted,  ///< `least` to `most` texts of automaton `index`, none the beginning of another
  };
  Kind kind = Kind::seq;
  std::uint32_t index = 0;
  std::uint32_t least = 0, most = 0;
  std::string text = {};
  Ranges ranges = {};
  std::vector<ExprId> parts = {};
};

struct Rule {
  std::string name;
  ExprId body = 0;
};

/// A grammar: rules that may refer to each other.
class Rules {
 public:
  ExprId literal(std::string text) {
    return add({.kind = Expr::Kind::literal, .text = std::move(text)});
  }
  ExprId chars(Ranges ranges) {
    return add({.kind = Expr::Kind::chars, .ranges = std::move(ranges)});
  }
  /// Rows within the row become part of it.
  ExprId seq(const std::vector<ExprId>& parts) {
    Expr expr{.kind = Expr::Kind::seq};
    for (const ExprId part : parts) {
      const auto& inner = exprs_[part];
      if (inner.kind == Expr::Kind::seq) {
        expr.parts.insert(expr.parts.end(), inner.parts.begin(), inner.parts.end());
      } else {
        expr.parts.push_back(part);
      }
    }
    return expr.parts.size() == 1 ? expr.parts[0] : add(std::move(expr));
  }
  ExprId alt(std::vector<ExprId> parts) {
    return parts.size() == 1 ? parts[0] : add({.kind = Expr::Kind::alt, .parts = std::move(parts)});
  }
  ExprId empty() { return seq({}); }
  ExprId never() { return alt({}); }
  ExprId repeat(ExprId part, std::uint32_t least, std::uint32_t most) {
    return add({.kind = Expr::Kind::repeat, .least = least, .most = most, .parts = {part}});
  }
  ExprId optional(ExprId part) { return repeat(part, 0, 1); }
  ExprId rule(std::uint32_t index) { return add({.kind = Expr::Kind::rule, .index = index}); }
  ExprId dfa(Dfa dfa) {
    dfas_.push_back(std::move(dfa));
    return add({.kind = Expr::Kind::dfa, .index = static_cast<std::uint32_t>(dfas_.size() - 1)});
  }

  /// Repetitions that are counted while a text is read, not written out.
  ExprId counted(Dfa part, std::uint32_t least, std::uint32_t most) {
    dfas_.push_back(std::move(part));
    return add({.kind = Expr::Kind::counted,
                .index = static_cast<std::uint32_t>(dfas_.size() - 1),
                .least = least,
                .most = most});
  }

  /// A rule whose body is set later.
  std::uint32_t declare(std::string name) {
    rules_.push_back({std::move(name), 0});
    return static_cast<std::uint32_t>(rules_.size() - 1);
  }
  void define(std::uint32_t index, ExprId body) { rules_[index].body = body; }

  /// Whether rules may become part of the automaton of a rule that uses them. If not, what several
  /// rules use is one automaton, and what is learned of it serves them all.
  bool merges_rules = true;

  const Expr& operator[](ExprId id) const noexcept { return exprs_[id]; }
  std::size_t size() const noexcept { return exprs_.size(); }
  const std::vector<Rule>& rules() const noexcept { return rules_; }
  const std::vector<Dfa>& dfas() const noexcept { return dfas_; }

 private:
  ExprId add(Expr expr) {
    exprs_.push_back(std::move(expr));
    return static_cast<ExprId>(exprs_.size() - 1);
  }

  std::deque<Expr> exprs_ = {Expr()};  // [0]: the empty text; whoever looks at one may add others
  std::vector<Rule> rules_;
  std::vector<Dfa> dfas_;
};

/// The automaton of an expression whose rules do not lead back to themselves. Nothing if it has
/// more than `most` states, or finding it takes more than the budget.
std::optional<Dfa> to_dfa(const Rules& rules, ExprId id, std::uint32_t most, Budget& budget);

/// About how many states `to_dfa` begins with, at most `limit`, which also stands for rules that
/// lead back to themselves.
std::uint32_t width(const Rules& rules, ExprId id, std::uint32_t limit);

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
