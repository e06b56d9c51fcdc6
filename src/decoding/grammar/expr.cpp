#include "decoding/grammar/expr.hpp"

#include <algorithm>

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

constexpr std::uint32_t deepest = 400;  // rules within rules that become one automaton

class NfaBuilder {
 public:
  NfaBuilder(const Rules& rules, Budget& budget) : rules_(rules), budget_(budget) {}

  std::optional<Dfa> run(ExprId id, std::uint32_t most) {
    const std::uint32_t start = nfa_.add();
    const std::uint32_t end = nfa_.add();
    if (!connect(id, start, end, 0)) return std::nullopt;
    return determinise(nfa_, start, end, most, budget_);
  }

 private:
  bool connect(ExprId id, std::uint32_t from, std::uint32_t to, std::uint32_t depth) {
    if (depth > deepest || nfa_.states().size() > 200'000 || !budget_.spend(10)) return false;
    const Expr& expr = rules_[id];
    switch (expr.kind) {
      case Expr::Kind::literal:
        for (const char c : expr.text) {
          const std::uint32_t next = nfa_.add();
          nfa_.connect(from, next, static_cast<std::uint8_t>(c), static_cast<std::uint8_t>(c));
          from = next;
        }
        nfa_.connect(from, to);
        return true;
      case Expr::Kind::chars:
        nfa_.connect(from, to, expr.ranges);
        return true;
      case Expr::Kind::seq:
        for (const ExprId part : expr.parts) {
          const std::uint32_t next = nfa_.add();
          if (!connect(part, from, next, depth + 1)) return false;
          from = next;
        }
        nfa_.connect(from, to);
        return true;
      case Expr::Kind::alt:
        return std::ranges::all_of(
            expr.parts, [&](ExprId part) { return connect_apart(part, from, to, depth + 1); });
      case Expr::Kind::repeat:
        return connect_repeat(expr, from, to, depth + 1);
      case Expr::Kind::rule:
        return connect(rules_.rules()[expr.index].body, from, to, depth + 1);
      case Expr::Kind::dfa:
        nfa_.connect(from, to, rules_.dfas()[expr.index]);
        return true;
      case Expr::Kind::counted:
        return false;
    }
    return false;
  }

  // Between states of its own, so that a loop in it is no loop of what is beside it.
  bool connect_apart(ExprId id, std::uint32_t from, std::uint32_t to, std::uint32_t depth) {
    const std::uint32_t start = nfa_.add();
    const std::uint32_t end = nfa_.add();
    nfa_.connect(from, start);
    nfa_.connect(end, to);
    return connect(id, start, end, depth);
  }

  bool connect_repeat(const Expr& expr, std::uint32_t from, std::uint32_t to, std::uint32_t depth) {
    for (std::uint32_t i = 0; i < expr.least; ++i) {
      const std::uint32_t next = nfa_.add();
      if (!connect_apart(expr.parts[0], from, next, depth)) return false;
      from = next;
    }
    if (expr.most == unbounded) {
      const std::uint32_t loop = nfa_.add();
      nfa_.connect(from, loop);
      nfa_.connect(loop, to);
      return connect_apart(expr.parts[0], loop, loop, depth);
    }
    for (std::uint32_t i = expr.least; i < expr.most; ++i) {
      nfa_.connect(from, to);
      const std::uint32_t next = nfa_.add();
      if (!connect_apart(expr.parts[0], from, next, depth)) return false;
      from = next;
    }
    nfa_.connect(from, to);
    return true;
  }

  const Rules& rules_;
  Budget& budget_;
  Nfa nfa_;
};

// Adds to `sum`; false once it reaches the limit.
bool add_width(const Rules& rules, ExprId id, std::uint64_t times, std::uint32_t limit,
               std::uint32_t depth, std::uint64_t& sum) {
  if (depth > deepest) sum = limit;
  const Expr& expr = rules[id];
  switch (expr.kind) {
    case Expr::Kind::literal:
      sum += times * (1 + expr.text.size());
      break;
    case Expr::Kind::chars:
      sum += times * (1 + 2 * expr.ranges.size());
      break;
    case Expr::Kind::seq:
    case Expr::Kind::alt:
      sum += times;
      for (const ExprId part : expr.parts) {
        if (!add_width(rules, part, times, limit, depth + 1, sum)) return false;
      }
      break;
    case Expr::Kind::repeat:
      times *= expr.most != unbounded ? std::max<std::uint64_t>(1, expr.most) : 1ULL + expr.least;
      sum += times;
      if (sum < limit) return add_width(rules, expr.parts[0], times, limit, depth + 1, sum);
      break;
    case Expr::Kind::rule:
      sum += times;
      return sum < limit &&
             add_width(rules, rules.rules()[expr.index].body, times, limit, depth + 1, sum);
    case Expr::Kind::dfa:
      sum += times * (1 + rules.dfas()[expr.index].states());
      break;
    case Expr::Kind::counted:
      sum = limit;
      break;
  }
  return sum < limit;
}

}  // namespace

std::optional<Dfa> to_dfa(const Rules& rules, ExprId id, std::uint32_t most, Budget& budget) {
  return NfaBuilder(rules, budget).run(id, most);
}

std::uint32_t width(const Rules& rules, ExprId id, std::uint32_t limit) {
  std::uint64_t sum = 0;
  if (!add_width(rules, id, 1, limit, 0, sum)) return limit;
  return static_cast<std::uint32_t>(sum);
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
