#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "decoding/grammar/marks.hpp"
#include "decoding/grammar/program.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

constexpr std::uint32_t widest_lexeme = 4000;   // of what is tried as one automaton
constexpr std::uint32_t most_states = 2000;     // of one automaton
constexpr std::uint32_t most_points = 500'000;  // of a grammar
constexpr std::size_t most_steps = 4'000'000;
constexpr std::uint32_t most_copies = 32;  // of a character, before they are counted

}  // namespace

// Expressions become automata where they are small and regular, and points where they are not.
class Compiler {
 public:
  explicit Compiler(const Rules& rules) : rules_(rules) {}

  Result<Program> run() {
    find_recursive();
    for (const Rule& rule : rules_.rules()) program_.names_.push_back(rule.name);
    entry_.resize(rules_.rules().size(), none);
    rule_point(0);
    while (!todo_.empty() && !is_too_large_) {
      const std::uint32_t rule = todo_.back();
      todo_.pop_back();
      const std::uint32_t end = add_point();
      raw_[end].may_end = true;
      // The root may be one automaton, as any rule that is used.
      const auto small = rule == 0 && is_regular(0) ? try_small(bodies_[0]) : std::nullopt;
      entry_[rule] = small ? lexeme_point(*small, end) : compile(bodies_[rule], end);
    }
    if (is_too_large_) return too_large();
    KRAIT_RETURN_IF_ERROR(flatten());
    KRAIT_RETURN_IF_ERROR(program_.finish());
    return std::move(program_);
  }

 private:
  static constexpr std::uint32_t none = 0xFFFFFFFF;

  struct Raw {
    std::vector<Step> steps = {};
    std::vector<std::uint32_t> empty = {};  // points that are as good as this one
    bool may_end = false;
  };

  static Error too_large() {
    return {ErrorCode::unsupported,
            fmt::format("[constraint] grammar: expected one that comes to at most {} places when "
                        "its repetitions are written out, found more",
                        most_points)};
  }

  std::uint32_t add_point() {
    if (raw_.size() >= most_points) {
      is_too_large_ = true;
      return static_cast<std::uint32_t>(raw_.size() - 1);
    }
    raw_.emplace_back();
    return static_cast<std::uint32_t>(raw_.size() - 1);
  }

  // Rules that lead back to themselves, by the strongly connected components of the grammar.
  void find_recursive();

  // Has the rule compiled some time.
  void rule_point(std::uint32_t rule) {
    if (bodies_.contains(rule)) return;
    bodies_[rule] = rules_.rules()[rule].body;
    todo_.push_back(rule);
  }

  std::uint32_t part_rule(ExprId body) {
    const auto rule = static_cast<std::uint32_t>(entry_.size());
    const auto [place, is_new] = part_rules_.emplace(body, rule);
    if (!is_new) return place->second;
    entry_.push_back(none);
    program_.names_.emplace_back();
    bodies_[rule] = body;
    todo_.push_back(rule);
    return rule;
  }

  bool has_rules(ExprId id) {
    const auto known = has_rules_.find(id);
    if (known != has_rules_.end()) return known->second;
    const Expr& expr = rules_[id];
    const bool found =
        expr.kind == Expr::Kind::rule ||
        std::ranges::any_of(expr.parts, [&](ExprId part) { return has_rules(part); });
    has_rules_[id] = found;
    return found;
  }

  // The automaton of an expression, if it has a small one.
  std::optional<Dfa> try_dfa(ExprId id) {
    if (rules_[id].kind == Expr::Kind::dfa) return rules_.dfas()[rules_[id].index];
    const auto known = dfas_.find(id);
    if (known != dfas_.end()) return known->second;
    std::optional<Dfa> dfa;
    if (width(rules_, id, widest_lexeme) < widest_lexeme) {
      dfa = to_dfa(rules_, id, most_states, budget_);
    }
    dfas_[id] = dfa;
    return dfa;
  }

  std::uint32_t find_lexeme(Lexeme lexeme) {
    std::uint64_t hash = lexeme.dfa.states() * 31U + lexeme.dfa.classes + lexeme.most;
    for (const std::uint32_t next : lexeme.dfa.next) hash = (hash ^ next) * 1099511628211U;
    const auto [begin, end] = lexemes_.equal_range(hash);
    for (auto place = begin; place != end; ++place) {
      if (program_.lexemes_[place->second] == lexeme) return place->second;
    }
    const auto index = static_cast<std::uint32_t>(program_.lexemes_.size());
    program_.lexemes_.push_back(std::move(lexeme));
    lexemes_.emplace(hash, index);
    return index;
  }

  // A small automaton as points know it.
  struct Small {
    bool may_be_empty;
    std::uint32_t lexeme;  // of its other texts; none without such
  };

  Small to_small(const Dfa& dfa) {
    Dfa rest = without_empty(dfa);
    return {dfa.accepts_empty_text(),
            rest.is_empty() ? none : find_lexeme({.dfa = std::move(rest)})};
  }

  // That of an expression, if it has one. Kept, for expressions are written out many times.
  std::optional<Small> try_small(ExprId id) {
    const auto known = small_.find(id);
    if (known != small_.end()) return known->second;
    const auto dfa = try_dfa(id);
    return small_[id] = dfa ? std::optional(to_small(*dfa)) : std::nullopt;
  }

  // A point from which a text of the automaton leads to `next`.
  std::uint32_t lexeme_point(const Small& small, std::uint32_t next) {
    const std::uint32_t point = add_point();
    if (small.may_be_empty) raw_[point].empty.push_back(next);
    if (small.lexeme != none) raw_[point].steps.push_back({.what = small.lexeme, .next = next});
    return point;
  }

  std::uint32_t counted_point(const Dfa& dfa, std::uint32_t least, std::uint32_t most,
                              std::uint32_t next) {
    const std::uint32_t point = add_point();
    if (least == 0) raw_[point].empty.push_back(next);
    if (!dfa.is_empty() && most > 0) {
      const std::uint32_t lexeme = find_lexeme({.dfa = dfa,
                                                .is_counted = true,
                                                .least = std::max<std::uint32_t>(1, least),
                                                .most = most});
      raw_[point].steps.push_back({.what = lexeme, .next = next});
    }
    return point;
  }

  // The point from which a text of the expression leads to `next`.
  std::uint32_t compile(ExprId id, std::uint32_t next) {
    if (is_too_large_) return next;
    const Expr& expr = rules_[id];
    if (!has_rules(id)) {
      if (const auto small = try_small(id)) return lexeme_point(*small, next);
    }
    switch (expr.kind) {
      case Expr::Kind::literal:
      case Expr::Kind::chars:
      case Expr::Kind::dfa:
        break;  // too large for the budget
      case Expr::Kind::counted:
        return counted_point(rules_.dfas()[expr.index], expr.least, expr.most, next);
      case Expr::Kind::seq:
        return compile_seq(expr, next);
      case Expr::Kind::alt:
        return compile_alt(expr, next);
      case Expr::Kind::repeat:
        return compile_repeat(expr, next);
      case Expr::Kind::rule:
        return compile_rule(expr.index, next);
    }
    is_too_large_ = true;
    return next;
  }

  std::uint32_t compile_rule(std::uint32_t rule, std::uint32_t next) {
    if (is_regular(rule)) {
      if (const auto small = try_small(rules_.rules()[rule].body)) {
        return lexeme_point(*small, next);
      }
    }
    rule_point(rule);
    const std::uint32_t point = add_point();
    raw_[point].steps.push_back({.what = rule, .next = next, .is_rule = true});
    return point;
  }

  // Runs of parts without rules become one automaton.
  std::uint32_t compile_seq(const Expr& expr, std::uint32_t next) {
    std::size_t end = expr.parts.size();
    while (end > 0) {
      std::size_t begin = end - 1;
      if (!has_rules(expr.parts[begin])) {
        while (begin > 0 && !has_rules(expr.parts[begin - 1])) --begin;
        if (end - begin > 1) {
          if (const auto small = joined(expr, begin, end)) {
            next = lexeme_point(*small, next);
            end = begin;
            continue;
          }
        }
      }
      next = compile(expr.parts[end - 1], next);
      --end;
    }
    return next;
  }

  std::optional<Small> joined(const Expr& expr, std::size_t begin, std::size_t end) {
    if (end - begin == expr.parts.size()) return std::nullopt;  // was tried as a whole
    return try_small(rules_.seq({expr.parts.begin() + static_cast<std::ptrdiff_t>(begin),
                                 expr.parts.begin() + static_cast<std::ptrdiff_t>(end)}));
  }

  std::uint32_t compile_alt(const Expr& expr, std::uint32_t next) {
    const std::uint32_t point = add_point();
    for (const ExprId part : expr.parts) {
      const std::uint32_t begin = compile(part, next);
      raw_[point].empty.push_back(begin);
    }
    return point;
  }

  std::uint32_t compile_repeat(const Expr& expr, std::uint32_t next) {
    ExprId part = expr.parts[0];
    if (rules_[part].kind == Expr::Kind::chars &&
        std::max(expr.least, expr.most == unbounded ? 0 : expr.most) > most_copies) {
      if (const auto dfa = try_dfa(part); dfa && !dfa->is_empty()) {
        return counted_point(*dfa, expr.least, expr.most, next);
      }
    }
    // Every copy is a point at least.
    if (std::max(expr.least, expr.most == unbounded ? 0 : expr.most) > most_points) {
      is_too_large_ = true;
      return next;
    }
    // What is written out several times is a rule of its own, so that copies are small.
    const bool is_small = rules_[part].kind == Expr::Kind::rule || is_lexeme(part);
    const auto copy = [&](std::uint32_t behind) {
      if (is_small) return compile(part, behind);
      const std::uint32_t point = add_point();
      raw_[point].steps.push_back({.what = part_rule(part), .next = behind, .is_rule = true});
      return point;
    };
    if (expr.most == unbounded) {
      const std::uint32_t loop = add_point();
      raw_[loop].empty.push_back(next);
      const std::uint32_t body = expr.least == 0 ? compile(part, loop) : copy(loop);
      raw_[loop].empty.push_back(body);
      next = loop;
    } else {
      const std::uint32_t end = next;
      for (std::uint32_t i = expr.least; i < expr.most && !is_too_large_; ++i) {
        const std::uint32_t body = copy(next);
        next = add_point();
        raw_[next].empty = {body, end};
      }
    }
    for (std::uint32_t i = 0; i < expr.least && !is_too_large_; ++i) next = copy(next);
    return next;
  }

  bool is_lexeme(ExprId id) { return !has_rules(id) && try_small(id).has_value(); }

  // Whether the rule may be part of an automaton.
  bool is_regular(std::uint32_t rule) {
    return rules_.merges_rules ? !recursive_[rule] : !has_rules(rules_.rules()[rule].body);
  }

  void find_nullable();
  Result<void> flatten();

  Rules rules_;
  Budget budget_;
  Program program_;
  std::vector<bool> recursive_;  // also those that lead to such rules
  std::vector<Raw> raw_;
  std::vector<std::uint32_t> entry_;  // by rule
  std::vector<bool> nullable_;        // by rule
  std::unordered_map<ExprId, bool> has_rules_;
  std::unordered_map<std::uint32_t, ExprId> bodies_;
  std::unordered_map<ExprId, std::uint32_t> part_rules_;
  std::unordered_map<ExprId, std::optional<Dfa>> dfas_;
  std::unordered_map<ExprId, std::optional<Small>> small_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> lexemes_;
  std::vector<std::uint32_t> todo_;
  bool is_too_large_ = false;
};

void Compiler::find_recursive() {
  // Uses of rules, without what lies between.
  const std::size_t count = rules_.rules().size();
  std::vector<std::vector<std::uint32_t>> uses(count);
  std::vector<ExprId> todo;
  for (std::size_t r = 0; r < count; ++r) {
    todo = {rules_.rules()[r].body};
    while (!todo.empty()) {
      const Expr& expr = rules_[todo.back()];
      todo.pop_back();
      if (expr.kind == Expr::Kind::rule) uses[r].push_back(expr.index);
      todo.insert(todo.end(), expr.parts.begin(), expr.parts.end());
    }
  }
  // What is left when rules that use only rules which are known to end are taken away.
  std::vector<std::vector<std::uint32_t>> users(count);
  std::vector<std::size_t> left(count);
  std::vector<std::uint32_t> done;
  for (std::uint32_t r = 0; r < count; ++r) {
    left[r] = uses[r].size();
    for (const std::uint32_t used : uses[r]) users[used].push_back(r);
    if (left[r] == 0) done.push_back(r);
  }
  recursive_.assign(count, true);
  while (!done.empty()) {
    const std::uint32_t rule = done.back();
    done.pop_back();
    recursive_[rule] = false;
    for (const std::uint32_t user : users[rule]) {
      if (--left[user] == 0) done.push_back(user);
    }
  }
}

void Compiler::find_nullable() {
  const Marks marks = mark(
      raw_.size(), entry_,
      [&](std::uint32_t p, auto point, auto rule) {
        for (const std::uint32_t to : raw_[p].empty) point(to);
        for (const Step& step : raw_[p].steps) {
          if (!step.is_rule) continue;
          point(step.next);
          rule(step.what);
        }
      },
      [&](const Marks& nullable, std::uint32_t p) {
        const Raw& point = raw_[p];
        return point.may_end ||
               std::ranges::any_of(point.empty,
                                   [&](std::uint32_t to) { return nullable.points[to]; }) ||
               std::ranges::any_of(point.steps, [&](const Step& step) {
                 return step.is_rule && nullable.rules[step.what] && nullable.points[step.next];
               });
      });
  nullable_ = marks.rules;
}

// Takes out empty moves, and those over rules that may be empty: whoever enters a rule need not ask
// whether it ends where it begins.
Result<void> Compiler::flatten() {
  find_nullable();
  std::vector<std::uint32_t> seen(raw_.size(), none);
  std::vector<std::uint32_t> todo;
  for (std::uint32_t p = 0; p < raw_.size(); ++p) {
    Point point{.first_step = static_cast<std::uint32_t>(program_.steps_.size())};
    const auto visit = [&](std::uint32_t to) {
      if (seen[to] == p) return;
      seen[to] = p;
      todo.push_back(to);
    };
    visit(p);
    while (!todo.empty()) {
      const Raw& raw = raw_[todo.back()];
      todo.pop_back();
      point.may_end |= raw.may_end;
      for (auto to = raw.empty.rbegin(); to != raw.empty.rend(); ++to) visit(*to);
      for (const Step& step : raw.steps) {
        program_.steps_.push_back(step);
        if (step.is_rule && nullable_[step.what]) visit(step.next);
      }
    }
    const auto begin = program_.steps_.begin() + static_cast<std::ptrdiff_t>(point.first_step);
    std::stable_sort(begin, program_.steps_.end(), [](const Step& a, const Step& b) {
      return std::tie(a.is_rule, a.what, a.next) < std::tie(b.is_rule, b.what, b.next);
    });
    program_.steps_.erase(std::unique(begin, program_.steps_.end()), program_.steps_.end());
    point.steps = static_cast<std::uint32_t>(program_.steps_.size()) - point.first_step;
    if (program_.steps_.size() > most_steps) return too_large();
    program_.points_.push_back(point);
  }
  // Rules that nobody uses have no entry: they become rules without a text.
  for (const std::uint32_t entry : entry_) {
    if (entry == none) {
      program_.points_.emplace_back();
      program_.entries_.push_back(static_cast<std::uint32_t>(program_.points_.size() - 1));
    } else {
      program_.entries_.push_back(entry);
    }
  }
  program_.root_ = program_.entries_[0];
  program_.accepts_empty_ = nullable_[0];
  return {};
}

Result<Program> Program::compile(const Rules& rules) { return Compiler(rules).run(); }

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
