#pragma once

/// \file
/// Marks: the least set of points and rules that agrees with itself.

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

struct Marks {
  std::vector<bool> points, rules;
};

/// Marks points until no more can be, and the rules that begin at them (`entries`, of which those
/// beyond the points begin nowhere). `holds(marks, p)` says whether point p is marked, given what
/// is marked so far; it looks at what `ask(p, point, rule)` calls `point` and `rule` with. Time is
/// that of all it looks at.
template <class Ask, class Holds>
Marks mark(std::size_t points, std::span<const std::uint32_t> entries, Ask ask, Holds holds) {
  std::vector<std::vector<std::uint32_t>> of_point(points);  // who asks about it
  std::vector<std::vector<std::uint32_t>> of_rule(entries.size());
  std::vector<std::vector<std::uint32_t>> begun(points);
  for (std::uint32_t p = 0; p < points; ++p) {
    ask(
        p, [&](std::uint32_t to) { of_point[to].push_back(p); },
        [&](std::uint32_t rule) { of_rule[rule].push_back(p); });
  }
  for (std::uint32_t r = 0; r < entries.size(); ++r) {
    if (entries[r] < points) begun[entries[r]].push_back(r);
  }
  Marks marks{std::vector<bool>(points), std::vector<bool>(entries.size())};
  std::vector<std::uint32_t> todo(points);
  std::iota(todo.rbegin(), todo.rend(), std::uint32_t{0});
  while (!todo.empty()) {
    const std::uint32_t p = todo.back();
    todo.pop_back();
    if (marks.points[p] || !holds(marks, p)) continue;
    marks.points[p] = true;
    todo.insert(todo.end(), of_point[p].begin(), of_point[p].end());
    for (const std::uint32_t r : begun[p]) {
      marks.rules[r] = true;
      todo.insert(todo.end(), of_rule[r].begin(), of_rule[r].end());
    }
  }
  return marks;
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
