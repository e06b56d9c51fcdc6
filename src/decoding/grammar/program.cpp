#include "decoding/grammar/program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "decoding/grammar/marks.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
Error Program::nothing_left(std::string_view why) const {
  return {
      ErrorCode::bad_argument,
      fmt::format("[constraint] texts: expected at least one that is allowed, found none{}", why)};
}

// Removes steps that lead to no end: those over rules that derive no text, and to points that do
// not lead to the end of their rule. Whether the root has a text.
bool Program::trim() {
  const auto is_good = [&](const Marks& ends, const Step& step) {
    return ends.points[step.next] &&
           (step.is_rule ? ends.rules[step.what] : !lexemes_[step.what].dfa.is_empty());
  };
  const Marks ends = mark(
      points_.size(), entries_,
      [&](std::uint32_t p, auto point, auto rule) {
        for (const Step& step : steps(p)) {
          point(step.next);
          if (step.is_rule) rule(step.what);
        }
      },
      [&](const Marks& marks, std::uint32_t p) {
        return points_[p].may_end || std::ranges::any_of(steps(p), [&](const Step& step) {
                 return is_good(marks, step);
               });
      });
  std::vector<Step> kept;
  for (std::uint32_t p = 0; p < points_.size(); ++p) {
    const auto first = static_cast<std::uint32_t>(kept.size());
    for (const Step& step : steps(p)) {
      if (is_good(ends, step)) kept.push_back(step);
    }
    points_[p].first_step = first;
    points_[p].steps = static_cast<std::uint32_t>(kept.size()) - first;
  }
  steps_ = std::move(kept);
  return ends.points[root_];
}

void Program::number_states() {
  states_.clear();
  for (std::uint32_t i = 0; i < lexemes_.size(); ++i) {
    const Dfa& dfa = lexemes_[i].dfa;
    lexemes_[i].first_state = static_cast<std::uint32_t>(states_.size());
    for (std::uint32_t s = 0; s < dfa.states(); ++s) {
      StateInfo info{.lexeme = i, .accepts = dfa.accepts[s] != 0};
      int ways = 0;
      for (int byte = 0; byte < 256 && ways < 2; ++byte) {
        if (dfa.step(s, static_cast<unsigned char>(byte)) == Dfa::dead) continue;
        info.only_byte = static_cast<std::int16_t>(++ways == 1 ? byte : -1);
      }
      info.can_go_on = ways > 0;
      states_.push_back(info);
    }
  }
}

// A rule that can begin with itself before anything is read would be entered without end.
Result<void> Program::refuse_left_recursion() const {
  enum class Mark : std::uint8_t { none, open, done };
  std::vector<Mark> marks(rules(), Mark::none);
  std::vector<std::pair<std::uint32_t, std::size_t>> path;  // rule, and which step is next
  for (std::uint32_t first = 0; first < rules(); ++first) {
    if (marks[first] != Mark::none) continue;
    path.emplace_back(first, 0);
    marks[first] = Mark::open;
    while (!path.empty()) {
      const std::uint32_t rule = path.back().first;
      const auto steps = this->steps(entry(rule));
      if (path.back().second == steps.size()) {
        marks[rule] = Mark::done;
        path.pop_back();
        continue;
      }
      const Step step = steps[path.back().second++];
      if (!step.is_rule || marks[step.what] == Mark::done) continue;
      if (marks[step.what] == Mark::none) {
        marks[step.what] = Mark::open;
        path.emplace_back(step.what, 0);
        continue;
      }
      std::string circle;
      std::string name = names_[step.what];
      auto place =
          std::ranges::find(path, step.what, [](const auto& entry) { return entry.first; });
      for (; place != path.end(); ++place) {
        if (name.empty()) name = names_[place->first];
        if (!names_[place->first].empty()) circle += names_[place->first] + " -> ";
      }
      return Error{ErrorCode::bad_format,
                   fmt::format("[grammar] rule '{}': expected no left recursion, found {}{}", name,
                               circle, name)};
    }
  }
  return {};
}

Result<void> Program::finish() {
  number_states();
  if (!trim()) return nothing_left("");
  return refuse_left_recursion();
}

Result<Program> Program::restricted_to(const std::array<bool, 256>& bytes) const {
  if (std::ranges::all_of(bytes, [](bool b) { return b; })) return *this;
  Program program = *this;
  for (Lexeme& lexeme : program.lexemes_) lexeme.dfa = restricted(lexeme.dfa, bytes);
  program.number_states();
  if (!program.trim()) {
    return nothing_left(" that can be written in the bytes for which the vocabulary has tokens");
  }
  return program;
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
