#include "decoding/grammar/mask_cache.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

void set(std::vector<std::uint64_t>& words, Token token) noexcept {
  words[static_cast<std::size_t>(token) / 64] |= std::uint64_t{1}
                                                 << (static_cast<unsigned>(token) % 64U);
}

// Goes through a trie with the automaton of a lexeme. `visit(node, count, is_inside, is_exit)` is
// called for nodes that the automaton can reach: texts of a counted lexeme so far, whether another
// one has begun, and whether the lexeme may end there.
template <class Nodes, class Visit>
void walk(const Nodes& nodes, std::uint32_t first, std::uint32_t last, std::uint32_t root_depth,
          const Lexeme& lexeme, std::uint32_t state, const Visit& visit) {
  const Dfa& dfa = lexeme.dfa;
  std::array<std::uint32_t, TokenTrie::longest + 1> states;
  std::array<std::uint32_t, TokenTrie::longest + 1> counts;
  states[0] = state;
  counts[0] = 0;
  for (std::uint32_t i = first; i < last;) {
    const auto& node = nodes[i];
    const std::size_t depth = node.depth - root_depth;
    std::uint32_t to = dfa.step(states[depth - 1], node.byte);
    if (to == Dfa::dead) {
      i = node.behind;
      continue;
    }
    const bool is_exit = dfa.accepts[to] != 0;
    counts[depth] = counts[depth - 1];
    if (lexeme.is_counted && is_exit) {
      to = 0;
      ++counts[depth];
    }
    states[depth] = to;
    visit(i, counts[depth], to != 0, is_exit);
    ++i;
  }
}

}  // namespace

MaskCache::MaskCache(std::shared_ptr<const Program> program, std::shared_ptr<const TokenTrie> trie,
                     Index vocab)
    : program_(std::move(program)), trie_(std::move(trie)), vocab_(vocab) {
  clear();
}

std::size_t MaskCache::HashItem::operator()(const Item& item) const noexcept {
  std::uint64_t hash = item.suffixes;
  for (const std::uint32_t part :
       {item.reading.state, item.reading.count, item.reading.next, item.reading.frame}) {
    hash = (hash ^ part) * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 32U;
  }
  return static_cast<std::size_t>(hash);
}

void MaskCache::clear() {
  bytes_ = 0;
  entries_.clear();
  suffixes_.clear();
  suffixes_by_roots_.clear();
  find_suffixes({0});
}

void MaskCache::allow(const Recogniser& recogniser, std::vector<std::uint64_t>& words) {
  const std::lock_guard lock(mutex_);
  if (bytes_ > most_bytes) clear();
  Recogniser ahead = recogniser;
  SmallSet<Item, HashItem> items;
  for (const Reading& reading : recogniser.readings()) items.insert({0, reading});
  // The readings behind a lexeme do not depend on how much of a token is left.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<Reading>> behind;
  for (std::size_t i = 0; i < items.size(); ++i) {
    // Tokens of one byte are in the entries of the readings themselves, so a text can always go on.
    if (i >= recogniser.readings().size() && i >= most_items) break;
    const Item item = items[i];
    const std::uint32_t left =
        apply(find_entry(item.suffixes, item.reading.state), item.reading, words);
    if (left == none) continue;
    const auto [place, is_new] = behind.try_emplace({item.reading.next, item.reading.frame});
    if (is_new) {
      ahead.begin_at(*program_, item.reading.next, item.reading.frame);
      place->second = ahead.readings();
    }
    for (const Reading& reading : place->second) items.insert({left, reading});
  }
}

// Sets the entry's tokens; what is left of others behind its exits.
std::uint32_t MaskCache::apply(const Entry& entry, const Reading& reading,
                               std::vector<std::uint64_t>& words) {
  const Lexeme& lexeme = program_->lexeme_of(reading.state);
  const std::uint32_t room = lexeme.most == unbounded ? unbounded : lexeme.most - reading.count;
  if (lexeme.is_counted && !entry.needs.empty() && entry.needs.back() > room) {
    const auto fitting = std::ranges::upper_bound(entry.needs, room) - entry.needs.begin();
    for (std::ptrdiff_t i = 0; i < fitting; ++i) {
      set(words, entry.tokens[static_cast<std::size_t>(i)]);
    }
  } else if (!entry.words.empty()) {
    for (std::size_t w = 0; w < words.size(); ++w) words[w] |= entry.words[w];
  } else {
    for (const Token token : entry.tokens) set(words, token);
  }
  if (entry.exits.empty()) return entry.suffixes;
  const auto fits = [&](const Exit& exit) {
    return reading.count + exit.count >= lexeme.least && exit.count <= room;
  };
  if (std::ranges::all_of(entry.exits, fits)) return entry.suffixes;
  std::vector<std::uint32_t> roots;
  for (const Exit& exit : entry.exits) {
    if (fits(exit)) roots.push_back(exit.node);
  }
  return roots.empty() ? none : find_suffixes(std::move(roots));
}

const MaskCache::Entry& MaskCache::find_entry(std::uint32_t suffixes, std::uint32_t state) {
  const std::uint64_t key = (std::uint64_t{suffixes} << 32U) | state;
  const auto known = entries_.find(key);
  if (known != entries_.end()) return known->second;
  Entry& entry = entries_[key];
  entry = make_entry(*suffixes_[suffixes], state);
  bytes_ += 200 + entry.words.size() * 8 + entry.tokens.size() * 4 + entry.needs.size() * 4 +
            entry.exits.size() * 8;
  return entry;
}

MaskCache::Entry MaskCache::make_entry(const Suffixes& suffixes, std::uint32_t state) {
  Entry entry;
  const Lexeme& lexeme = program_->lexeme_of(state);
  const std::uint32_t local = state - lexeme.first_state;
  std::vector<std::uint32_t> exits;
  const auto visit_members = [&](std::span<const std::uint32_t> members, bool has_children,
                                 std::uint32_t count, bool is_inside, bool is_exit) {
    for (const std::uint32_t node : members) {
      for (const Token token : trie_->tokens(node)) {
        entry.tokens.push_back(token);
        if (lexeme.is_counted) entry.needs.push_back(count + (is_inside ? 1 : 0));
      }
      if (!is_exit || !has_children) continue;
      if (!trie_->has_children(node)) continue;
      exits.push_back(node);
      if (lexeme.is_counted) entry.exits.push_back({count, node});
    }
  };
  if (suffixes.nodes.empty()) {
    const std::uint32_t root = suffixes.roots[0];
    walk(trie_->nodes(), root + 1, (*trie_)[root].behind, (*trie_)[root].depth, lexeme, local,
         [&](std::uint32_t node, std::uint32_t count, bool is_inside, bool is_exit) {
           visit_members({&node, 1}, trie_->has_children(node), count, is_inside, is_exit);
         });
  } else {
    walk(suffixes.nodes, 0, static_cast<std::uint32_t>(suffixes.nodes.size()), 0, lexeme, local,
         [&](std::uint32_t i, std::uint32_t count, bool is_inside, bool is_exit) {
           const Suffixes::Node& node = suffixes.nodes[i];
           visit_members(std::span(suffixes.members).subspan(node.first, node.count),
                         node.behind > i + 1, count, is_inside, is_exit);
         });
  }
  if (!exits.empty()) entry.suffixes = find_suffixes(std::move(exits));
  if (lexeme.is_counted) {
    std::vector<std::size_t> order(entry.tokens.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, {}, [&](std::size_t i) { return entry.needs[i]; });
    Entry sorted = entry;
    for (std::size_t i = 0; i < order.size(); ++i) {
      sorted.tokens[i] = entry.tokens[order[i]];
      sorted.needs[i] = entry.needs[order[i]];
    }
    entry = std::move(sorted);
  }
  if (std::ssize(entry.tokens) > vocab_ / 64) {
    entry.words.resize(static_cast<std::size_t>(vocab_ + 63) / 64);
    for (const Token token : entry.tokens) set(entry.words, token);
    if (!lexeme.is_counted) entry.tokens = {};
  }
  return entry;
}

std::uint32_t MaskCache::find_suffixes(std::vector<std::uint32_t> roots) {
  std::ranges::sort(roots);
  roots.erase(std::unique(roots.begin(), roots.end()), roots.end());
  const auto [place, is_new] = suffixes_by_roots_.try_emplace(
      std::move(roots), static_cast<std::uint32_t>(suffixes_.size()));
  if (is_new) {
    auto suffixes = std::make_unique<Suffixes>();
    suffixes->roots = place->first;
    if (suffixes->roots.size() > 1) merge(*suffixes);
    bytes_ += 200 + suffixes->roots.size() * 8 + suffixes->nodes.size() * sizeof(Suffixes::Node) +
              suffixes->members.size() * 4;
    suffixes_.push_back(std::move(suffixes));
  }
  return place->second;
}

// Nodes with the same bytes above them become one.
void MaskCache::merge(Suffixes& suffixes) const {
  struct Child {
    std::uint8_t byte;
    std::uint32_t node;
  };
  const auto children_of = [&](std::span<const std::uint32_t> nodes) {
    std::vector<Child> children;
    for (const std::uint32_t node : nodes) {
      for (std::uint32_t i = node + 1; i < (*trie_)[node].behind; i = (*trie_)[i].behind) {
        children.push_back({(*trie_)[i].byte, i});
      }
    }
    std::ranges::stable_sort(children, {}, &Child::byte);
    return children;
  };
  struct Level {
    std::vector<Child> children;
    std::size_t next = 0;
    std::uint32_t node = none;  // whose children they are
  };
  std::vector<Level> path;
  path.push_back({children_of(suffixes.roots)});
  while (!path.empty()) {
    Level& level = path.back();
    if (level.next == level.children.size()) {
      if (level.node != none) {
        suffixes.nodes[level.node].behind = static_cast<std::uint32_t>(suffixes.nodes.size());
      }
      path.pop_back();
      continue;
    }
    const auto index = static_cast<std::uint32_t>(suffixes.nodes.size());
    const std::uint8_t byte = level.children[level.next].byte;
    const auto first = static_cast<std::uint32_t>(suffixes.members.size());
    for (; level.next < level.children.size() && level.children[level.next].byte == byte;
         ++level.next) {
      suffixes.members.push_back(level.children[level.next].node);
    }
    const auto count = static_cast<std::uint32_t>(suffixes.members.size()) - first;
    suffixes.nodes.push_back(
        {index + 1, first, count, static_cast<std::uint16_t>(path.size()), byte});
    path.push_back({children_of(std::span(suffixes.members).subspan(first, count)), 0, index});
  }
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
