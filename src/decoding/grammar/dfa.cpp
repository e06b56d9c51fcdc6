#include "decoding/grammar/dfa.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/utf8.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

using States = std::vector<std::uint32_t>;

struct HashStates {
  std::size_t operator()(const States& states) const noexcept {
    std::uint64_t hash = 1469598103934665603U;
    for (const std::uint32_t state : states) hash = (hash ^ state) * 1099511628211U;
    return static_cast<std::size_t>(hash ^ (hash >> 29U));
  }
};

// States from which an accepting one can be reached.
std::vector<bool> live_states(const Dfa& dfa) {
  std::vector<States> before(dfa.states());
  for (std::uint32_t s = 0; s < dfa.states(); ++s) {
    for (std::uint32_t c = 0; c < dfa.classes; ++c) {
      const std::uint32_t to = dfa.next[static_cast<std::size_t>(s) * dfa.classes + c];
      if (to != Dfa::dead && (before[to].empty() || before[to].back() != s)) {
        before[to].push_back(s);
      }
    }
  }
  std::vector<bool> is_live(dfa.states());
  States todo;
  for (std::uint32_t s = 0; s < dfa.states(); ++s) {
    if (dfa.accepts[s] == 0) continue;
    is_live[s] = true;
    todo.push_back(s);
  }
  while (!todo.empty()) {
    const std::uint32_t s = todo.back();
    todo.pop_back();
    for (const std::uint32_t from : before[s]) {
      if (!is_live[from]) todo.push_back(from);
      is_live[from] = true;
    }
  }
  return is_live;
}

// Groups of states that accept the same, by refining until nothing changes (Moore). A long chain
// takes as many rounds as it has states, so large automata are left as they are.
States groups_of(const Dfa& dfa, const std::vector<bool>& is_live) {
  constexpr std::uint32_t most = 2000;
  States group(dfa.states());
  for (std::uint32_t s = 0; s < dfa.states(); ++s) {
    group[s] = !is_live[s] ? Dfa::dead : dfa.states() > most ? s : dfa.accepts[s];
  }
  if (dfa.states() > most) return group;
  std::size_t count = 0;
  for (;;) {
    std::unordered_map<States, std::uint32_t, HashStates> found;
    States refined(dfa.states(), Dfa::dead);
    States key(dfa.classes + 1);
    for (std::uint32_t s = 0; s < dfa.states(); ++s) {
      if (!is_live[s]) continue;
      key[dfa.classes] = group[s];
      for (std::uint32_t c = 0; c < dfa.classes; ++c) {
        const std::uint32_t to = dfa.next[static_cast<std::size_t>(s) * dfa.classes + c];
        key[c] = to == Dfa::dead ? Dfa::dead : group[to];
      }
      refined[s] = found.emplace(key, static_cast<std::uint32_t>(found.size())).first->second;
    }
    group = std::move(refined);
    if (found.size() == count) return group;
    count = found.size();
  }
}

// One automaton for one language where it is small: states in the order in which they are reached,
// classes in the order of their bytes.
Dfa normalise(const Dfa& dfa, std::uint32_t start) {
  Dfa result;
  const std::vector<bool> is_live = live_states(dfa);
  if (dfa.states() == 0 || !is_live[start]) return result;
  const States group = groups_of(dfa, is_live);
  States number(dfa.states(), Dfa::dead);  // of a group
  States order = {start};                  // a state of each
  number[group[start]] = 0;
  States rows;
  for (std::size_t i = 0; i < order.size(); ++i) {
    for (std::uint32_t c = 0; c < dfa.classes; ++c) {
      const std::uint32_t to = dfa.next[static_cast<std::size_t>(order[i]) * dfa.classes + c];
      if (to == Dfa::dead || !is_live[to]) {
        rows.push_back(Dfa::dead);
        continue;
      }
      std::uint32_t& known = number[group[to]];
      if (known == Dfa::dead) {
        known = static_cast<std::uint32_t>(order.size());
        order.push_back(to);
      }
      rows.push_back(known);
    }
  }
  // Classes that have become alike.
  std::map<States, std::uint8_t> columns;
  States first_of;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const std::uint32_t c = dfa.class_of[byte];
    States column(order.size());
    for (std::size_t s = 0; s < order.size(); ++s) column[s] = rows[s * dfa.classes + c];
    const auto [place, is_new] =
        columns.emplace(std::move(column), static_cast<std::uint8_t>(columns.size()));
    if (is_new) first_of.push_back(c);
    result.class_of[byte] = place->second;
  }
  result.classes = static_cast<std::uint32_t>(first_of.size());
  for (std::size_t s = 0; s < order.size(); ++s) {
    for (const std::uint32_t c : first_of) result.next.push_back(rows[s * dfa.classes + c]);
    result.accepts.push_back(dfa.accepts[order[s]]);
  }
  return result;
}

// Bytes between two borders are of one class.
void set_classes(Dfa& dfa, const std::array<bool, 257>& is_border) {
  std::uint32_t last = 0;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    if (byte > 0 && is_border[byte]) ++last;
    dfa.class_of[byte] = static_cast<std::uint8_t>(last);
  }
  dfa.classes = last + 1;
}

class SubsetConstruction {
 public:
  SubsetConstruction(const Nfa& nfa, std::uint32_t end, std::uint32_t most, Budget& budget)
      : nfa_(nfa), end_(end), most_(most), budget_(budget), seen_(nfa.states().size()) {
    std::array<bool, 257> is_border = {};
    for (const Nfa::State& state : nfa.states()) {
      for (const Nfa::Edge& edge : state.edges) {
        is_border[edge.first] = true;
        is_border[edge.last + 1U] = true;
      }
    }
    set_classes(dfa_, is_border);
  }

  std::optional<Dfa> run(std::uint32_t start) {
    if (!find(closure({start}))) return std::nullopt;
    std::vector<States> targets(dfa_.classes);
    for (std::uint32_t s = 0; s < dfa_.states(); ++s) {
      for (States& target : targets) target.clear();
      for (const std::uint32_t state : *sets_[s]) {
        for (const Nfa::Edge& edge : nfa_.states()[state].edges) {
          for (std::uint32_t c = dfa_.class_of[edge.first]; c <= dfa_.class_of[edge.last]; ++c) {
            targets[c].push_back(edge.to);
          }
        }
      }
      for (std::uint32_t c = 0; c < dfa_.classes; ++c) {
        if (!budget_.spend(1 + targets[c].size())) return std::nullopt;
        if (targets[c].empty()) continue;
        const auto to = find(closure(targets[c]));
        if (!to) return std::nullopt;
        dfa_.next[static_cast<std::size_t>(s) * dfa_.classes + c] = *to;
      }
    }
    if (!budget_.spend(std::uint64_t{8} * dfa_.next.size())) return std::nullopt;
    return normalise(dfa_, 0);
  }

 private:
  // The states that empty moves lead to, of those that matter.
  States closure(const States& from) {
    ++round_;
    States todo;
    States result;
    const auto visit = [&](std::uint32_t state) {
      if (seen_[state] == round_) return;
      seen_[state] = round_;
      todo.push_back(state);
    };
    for (const std::uint32_t state : from) visit(state);
    while (!todo.empty()) {
      const std::uint32_t state = todo.back();
      todo.pop_back();
      if (!nfa_.states()[state].edges.empty() || state == end_) result.push_back(state);
      for (const std::uint32_t to : nfa_.states()[state].empty) visit(to);
      steps_ += 1 + nfa_.states()[state].empty.size();
    }
    std::ranges::sort(result);
    return result;
  }

  std::optional<std::uint32_t> find(States states) {
    if (!budget_.spend(std::exchange(steps_, 0) + states.size())) return std::nullopt;
    const auto [place, is_new] = numbers_.emplace(std::move(states), dfa_.states());
    if (!is_new) return place->second;
    if (dfa_.states() >= most_) return std::nullopt;
    sets_.push_back(&place->first);
    dfa_.accepts.push_back(std::ranges::binary_search(place->first, end_) ? 1 : 0);
    dfa_.next.resize(dfa_.next.size() + dfa_.classes, Dfa::dead);
    return place->second;
  }

  const Nfa& nfa_;
  std::uint32_t end_;
  std::uint32_t most_;
  Budget& budget_;
  std::vector<std::uint32_t> seen_;
  std::uint32_t round_ = 0;
  std::uint64_t steps_ = 0;
  Dfa dfa_;
  std::unordered_map<States, std::uint32_t, HashStates> numbers_;
  std::vector<const States*> sets_;
};

// Characters from `first` to `last` as sequences of ranges of bytes: the range is cut until all of
// its characters have as many bytes, and each byte may be chosen by itself.
void connect_range(Nfa& nfa, std::uint32_t from, std::uint32_t to, std::uint32_t first,
                   std::uint32_t last) {
  const auto cut = [&](std::uint32_t end) {
    connect_range(nfa, from, to, first, end);
    connect_range(nfa, from, to, end + 1, last);
  };
  for (const std::uint32_t end : {0x7FU, 0x7FFU, 0xD7FFU, 0xDFFFU, 0xFFFFU}) {
    if (first <= end && end < last) return cut(end);
  }
  if (first >= 0xD800 && last <= 0xDFFF) return;
  const std::uint32_t bytes = last < 0x80 ? 1 : last < 0x800 ? 2 : last < 0x10000 ? 3 : 4;
  for (std::uint32_t i = 1; i < bytes; ++i) {
    const std::uint32_t low = (1U << (6 * i)) - 1;
    if ((first & ~low) == (last & ~low)) continue;
    if ((first & low) != 0) return cut(first | low);
    if ((last & low) != low) return cut((last & ~low) - 1);
  }
  std::string a;
  std::string b;
  utf8::append(a, first);
  utf8::append(b, last);
  for (std::size_t i = 0; i < a.size(); ++i) {
    const std::uint32_t next = i + 1 < a.size() ? nfa.add() : to;
    nfa.connect(from, next, static_cast<std::uint8_t>(a[i]), static_cast<std::uint8_t>(b[i]));
    from = next;
  }
}

}  // namespace

bool Dfa::matches(std::string_view text) const noexcept {
  std::uint32_t state = 0;
  for (const char c : text) {
    if (state >= states()) return false;
    state = step(state, static_cast<unsigned char>(c));
  }
  return state < states() && accepts[state] != 0;
}

void Nfa::connect(std::uint32_t from, std::uint32_t to, std::span<const unicode::CodeRange> chars) {
  for (const auto& range : chars) connect_range(*this, from, to, range.first, range.last);
}

void Nfa::connect(std::uint32_t from, std::uint32_t to, const Dfa& dfa) {
  if (dfa.is_empty()) return;
  const auto first = static_cast<std::uint32_t>(states_.size());
  for (std::uint32_t s = 0; s < dfa.states(); ++s) add();
  connect(from, first);
  for (std::uint32_t s = 0; s < dfa.states(); ++s) {
    if (dfa.accepts[s] != 0) connect(first + s, to);
    for (std::uint32_t byte = 0; byte < 256;) {
      const std::uint32_t next = dfa.step(s, static_cast<unsigned char>(byte));
      const std::uint32_t begin = byte;
      while (byte < 256 && dfa.step(s, static_cast<unsigned char>(byte)) == next) ++byte;
      if (next == Dfa::dead) continue;
      connect(first + s, first + next, static_cast<std::uint8_t>(begin),
              static_cast<std::uint8_t>(byte - 1));
    }
  }
}

std::optional<Dfa> determinise(const Nfa& nfa, std::uint32_t start, std::uint32_t end,
                               std::uint32_t most, Budget& budget) {
  return SubsetConstruction(nfa, end, most, budget).run(start);
}

std::optional<Dfa> combine(const Dfa& a, const Dfa& b, Product kind, std::uint32_t most,
                           Budget& budget) {
  Dfa dfa;
  if (a.is_empty() || (b.is_empty() && kind == Product::both)) return dfa;
  std::array<bool, 257> is_border = {};
  for (std::size_t byte = 1; byte < 256; ++byte) {
    is_border[byte] =
        a.class_of[byte] != a.class_of[byte - 1] || b.class_of[byte] != b.class_of[byte - 1];
  }
  set_classes(dfa, is_border);
  std::array<unsigned char, 256> byte_of = {};
  for (std::size_t byte = 256; byte-- > 0;) {
    byte_of[dfa.class_of[byte]] = static_cast<unsigned char>(byte);
  }
  using Pair = std::pair<std::uint32_t, std::uint32_t>;
  std::map<Pair, std::uint32_t> numbers;
  std::vector<Pair> pairs;
  const auto find = [&](const Pair& pair) {
    const auto [place, is_new] = numbers.emplace(pair, dfa.states());
    if (is_new) {
      const bool in_b = pair.second != Dfa::dead && b.accepts[pair.second] != 0;
      pairs.push_back(pair);
      dfa.accepts.push_back(a.accepts[pair.first] != 0 && in_b == (kind == Product::both) ? 1 : 0);
    }
    return place->second;
  };
  find({0, b.is_empty() ? Dfa::dead : 0});
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (dfa.states() > most || !budget.spend(std::uint64_t{8} * dfa.classes)) return std::nullopt;
    const auto [s, t] = pairs[i];
    for (std::uint32_t c = 0; c < dfa.classes; ++c) {
      const std::uint32_t next_s = a.step(s, byte_of[c]);
      const std::uint32_t next_t = t == Dfa::dead ? t : b.step(t, byte_of[c]);
      const bool is_dead = next_s == Dfa::dead || (next_t == Dfa::dead && kind == Product::both);
      dfa.next.push_back(is_dead ? Dfa::dead : find({next_s, next_t}));
    }
  }
  return normalise(dfa, 0);
}

Dfa without_empty(const Dfa& dfa) {
  if (!dfa.accepts_empty_text()) return dfa;
  Dfa result = dfa;
  const States row(dfa.next.begin(), dfa.next.begin() + static_cast<std::ptrdiff_t>(dfa.classes));
  result.next.insert(result.next.end(), row.begin(), row.end());
  result.accepts.push_back(0);
  return normalise(result, dfa.states());
}

Dfa restricted(const Dfa& dfa, const std::array<bool, 256>& bytes) {
  Dfa result;
  result.accepts = dfa.accepts;
  result.classes = 256;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    result.class_of[byte] = static_cast<std::uint8_t>(byte);
  }
  result.next.resize(std::size_t{256} * dfa.states());
  for (std::uint32_t s = 0; s < dfa.states(); ++s) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      result.next[256 * static_cast<std::size_t>(s) + byte] =
          bytes[byte] ? dfa.step(s, static_cast<unsigned char>(byte)) : Dfa::dead;
    }
  }
  return normalise(result, 0);
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
