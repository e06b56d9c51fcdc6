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

std::size_t mix(std::initializer_list<std::uint32_t> parts) noexcept {
  std::uint64_t hash = 0;
  for (const std::uint32_t part : parts) {
    hash = (hash ^ part) * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 32U;
  }
  return static_cast<std::size_t>(hash);
}

// Goes through nodes `first` to `last` - 1 of a trie, whose uppermost have depth `top`, with the
// automaton of a lexeme. Of each node whose parent was reached, `meet(node, count, can_end)` is
// told how many texts of a counted lexeme are complete above it, and whether the lexeme may end
// there; of each node that is reached itself, `visit(node, count, is_inside)`, whether a text has
// begun that is not complete.
template <class Nodes, class Meet, class Visit>
void walk(const Nodes& nodes, std::uint32_t first, std::uint32_t last, std::uint32_t top,
          const Lexeme& lexeme, std::uint32_t state, const Meet& meet, const Visit& visit) {
  const Dfa& dfa = lexeme.dfa;
  struct Level {
    std::uint32_t state = 0, count = 0;
    bool can_end = false;
  };
  std::array<Level, TokenTrie::longest + 1> levels;
  levels[0] = {state, 0, false};
  for (std::uint32_t i = first; i < last;) {
    const auto& node = nodes[i];
    const Level& above = levels[node.depth - top];
    meet(i, above.count, above.can_end);
    std::uint32_t to = dfa.step(above.state, node.byte);
    if (to == Dfa::dead) {
      i = node.behind;
      continue;
    }
    Level& level = levels[node.depth - top + 1U];
    level = {to, above.count, dfa.accepts[to] != 0};
    if (lexeme.is_counted && level.can_end) {
      level.state = 0;
      ++level.count;
    }
    visit(i, level.count, level.state != 0);
    ++i;
  }
}

constexpr auto nothing = [](std::uint32_t, std::uint32_t, bool) {};

}  // namespace

MaskCache::MaskCache(std::shared_ptr<const Program> program, std::shared_ptr<const TokenTrie> trie,
                     Index vocab)
    : program_(std::move(program)), trie_(std::move(trie)), vocab_(vocab) {
  clear();
}

std::size_t MaskCache::Hash::operator()(const Item& item) const noexcept {
  return mix({item.suffixes, item.reading.state, item.reading.count, item.reading.next,
              item.reading.frame});
}

std::size_t MaskCache::Hash::operator()(const ExitKey& key) const noexcept {
  return mix({key.suffixes, key.state, key.bytes});
}

void MaskCache::clear() {
  bytes_ = 0;
  entries_.clear();
  exits_.clear();
  suffixes_.clear();
  suffixes_by_roots_.clear();
  bytes_by_state_.clear();
  ends_by_lexeme_.clear();
  byte_sets_.clear();
  byte_set_ids_.clear();
  find_suffixes({0});
}

void MaskCache::allow(const Recogniser& recogniser, std::vector<std::uint64_t>& words) {
  const std::lock_guard lock(mutex_);
  if (bytes_ > most_bytes) clear();
  Recogniser ahead = recogniser;
  SmallSet<Item, Hash> items;
  for (const Reading& reading : recogniser.readings()) items.insert({all, reading});
  // What is behind a lexeme does not depend on how much of a token is left.
  std::map<std::pair<std::uint32_t, std::uint32_t>, Behind> known;
  for (std::size_t i = 0; i < items.size(); ++i) {
    // Tokens of one byte are in the entries of the readings themselves, so a text can always go on.
    if (i >= recogniser.readings().size() && i >= most_items) break;
    const auto [suffixes, reading] = items[i];
    add_entry(find_entry(suffixes, reading.state), reading, words);
    const auto [place, is_new] = known.try_emplace({reading.next, reading.frame});
    if (is_new) place->second = find_behind(ahead, reading.next, reading.frame);
    const Behind& behind = place->second;
    if (behind.readings.empty()) continue;
    const std::uint32_t left = suffixes_behind(suffixes, reading, behind.bytes);
    if (left == none) continue;
    for (const Reading& next : behind.readings) items.insert({left, next});
  }
}

MaskCache::Behind MaskCache::find_behind(Recogniser& ahead, std::uint32_t point,
                                         std::uint32_t frame) {
  ahead.begin_at(*program_, point, frame);
  Behind behind{.readings = ahead.readings()};
  Bytes bytes;
  for (const Reading& reading : behind.readings) bytes |= bytes_of(reading.state);
  const auto [place, is_new] =
      byte_set_ids_.try_emplace(bytes, static_cast<std::uint32_t>(byte_sets_.size()));
  if (is_new) byte_sets_.push_back(bytes);
  behind.bytes = place->second;
  return behind;
}

const MaskCache::Bytes& MaskCache::bytes_of(std::uint32_t state) {
  const auto [place, is_new] = bytes_by_state_.try_emplace(state);
  if (is_new) {
    const Lexeme& lexeme = program_->lexeme_of(state);
    for (std::size_t byte = 0; byte < 256; ++byte) {
      place->second[byte] = lexeme.dfa.step(state - lexeme.first_state,
                                            static_cast<unsigned char>(byte)) != Dfa::dead;
    }
  }
  return place->second;
}

const MaskCache::Entry& MaskCache::find_entry(std::uint32_t suffixes, std::uint32_t state) {
  const auto [place, is_new] = entries_.try_emplace((std::uint64_t{suffixes} << 32U) | state);
  Entry& entry = place->second;
  if (is_new) {
    entry = make_entry(*suffixes_[suffixes], state);
    bytes_ += 200 + entry.words.size() * 8 + entry.tokens.size() * 4 + entry.needs.size() * 4;
  }
  return entry;
}

void MaskCache::sort_by_needs(Entry& entry) {
  std::array<std::uint32_t, TokenTrie::longest + 2> first = {};
  for (const std::uint32_t need : entry.needs) ++first[need + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  Entry sorted = entry;
  for (std::size_t i = 0; i < entry.tokens.size(); ++i) {
    const std::uint32_t place = first[entry.needs[i]]++;
    sorted.tokens[place] = entry.tokens[i];
    sorted.needs[place] = entry.needs[i];
  }
  entry = std::move(sorted);
}

MaskCache::Entry MaskCache::make_entry(const Suffixes& suffixes, std::uint32_t state) const {
  Entry entry;
  const Lexeme& lexeme = program_->lexeme_of(state);
  const std::uint32_t local = state - lexeme.first_state;
  const auto add = [&](std::uint32_t node, std::uint32_t count, bool is_inside) {
    for (const Token token : trie_->tokens(node)) {
      entry.tokens.push_back(token);
      if (lexeme.is_counted) entry.needs.push_back(count + (is_inside ? 1 : 0));
    }
  };
  if (suffixes.nodes.empty()) {
    const auto [first, last] = nodes_from(suffixes.roots[0]);
    walk(trie_->nodes(), first, last, (*trie_)[first].depth, lexeme, local, nothing, add);
  } else {
    walk(suffixes.nodes, 0, static_cast<std::uint32_t>(suffixes.nodes.size()), 0, lexeme, local,
         nothing, [&](std::uint32_t i, std::uint32_t count, bool is_inside) {
           for (std::uint32_t m = 0; m < suffixes.nodes[i].count; ++m) {
             add(suffixes.members[suffixes.nodes[i].first + m], count, is_inside);
           }
         });
  }
  if (lexeme.is_counted) sort_by_needs(entry);
  if (std::ssize(entry.tokens) > vocab_ / 64) {
    entry.words.resize(static_cast<std::size_t>(vocab_ + 63) / 64);
    for (const Token token : entry.tokens) set(entry.words, token);
    if (!lexeme.is_counted) entry.tokens = {};
  }
  return entry;
}

void MaskCache::add_entry(const Entry& entry, const Reading& reading,
                          std::vector<std::uint64_t>& words) const {
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
}

// What is left of tokens where the reading's lexeme ends within them and one of the bytes follows.
std::uint32_t MaskCache::suffixes_behind(std::uint32_t suffixes, const Reading& reading,
                                         std::uint32_t bytes) {
  const auto [place, is_new] = exits_.try_emplace({suffixes, reading.state, bytes});
  Exits& exits = place->second;
  if (is_new) {
    exits.places = find_exits(suffixes, reading.state, byte_sets_[bytes]);
    bytes_ += 200 + exits.places.size() * sizeof(Exit);
    std::vector<std::uint32_t> roots;
    for (const Exit& exit : exits.places) roots.push_back(exit.node);
    if (!roots.empty()) exits.suffixes = find_suffixes(std::move(roots));
  }
  const Lexeme& lexeme = program_->lexeme_of(reading.state);
  if (!lexeme.is_counted) return exits.suffixes;
  const std::uint32_t room = lexeme.most == unbounded ? unbounded : lexeme.most - reading.count;
  const auto fits = [&](const Exit& exit) {
    return reading.count + exit.count >= lexeme.least && exit.count <= room;
  };
  if (std::ranges::all_of(exits.places, fits)) return exits.suffixes;
  std::vector<std::uint32_t> roots;
  for (const Exit& exit : exits.places) {
    if (fits(exit)) roots.push_back(exit.node);
  }
  return roots.empty() ? none : find_suffixes(std::move(roots));
}

std::vector<MaskCache::Exit> MaskCache::find_exits(std::uint32_t suffixes, std::uint32_t state,
                                                   const Bytes& bytes) {
  std::vector<Exit> exits;
  const Lexeme& lexeme = program_->lexeme_of(state);
  const std::uint32_t local = state - lexeme.first_state;
  if (suffixes == all) {
    const auto count_nodes = [&](const Bytes& set) {
      std::size_t count = 0;
      for (std::size_t byte = 0; byte < 256; ++byte) {
        if (set[byte]) count += trie_->nodes_of(static_cast<std::uint8_t>(byte)).size();
      }
      return count;
    };
    // Where one of the bytes stands, or one that a lexeme ends with, is looked at from behind, if
    // those places are few.
    const Bytes& ends = ends_of(program_->state(state).lexeme);
    const std::size_t behind = count_nodes(bytes);
    const std::size_t before = count_nodes(ends);
    if (std::min(behind, before) < trie_->size() / 4) {
      find_exits_among(before < behind ? ends : bytes, before < behind, bytes, lexeme, local,
                       exits);
      return exits;
    }
  }
  const Suffixes& some = *suffixes_[suffixes];
  if (some.nodes.empty()) {
    const auto [first, last] = nodes_from(some.roots[0]);
    walk(
        trie_->nodes(), first, last, (*trie_)[first].depth, lexeme, local,
        [&](std::uint32_t node, std::uint32_t count, bool can_end) {
          if (can_end && bytes[(*trie_)[node].byte]) exits.push_back({count, node});
        },
        nothing);
    return exits;
  }
  walk(
      some.nodes, 0, static_cast<std::uint32_t>(some.nodes.size()), 0, lexeme, local,
      [&](std::uint32_t i, std::uint32_t count, bool can_end) {
        const Suffixes::Node& node = some.nodes[i];
        if (!can_end || !bytes[node.byte]) return;
        for (std::uint32_t m = 0; m < node.count; ++m) {
          exits.push_back({count, some.members[node.first + m]});
        }
      },
      nothing);
  return exits;
}

// Looks at the nodes of some bytes: those behind an exit, or those that end a lexeme.
void MaskCache::find_exits_among(const Bytes& some, bool are_ends, const Bytes& bytes,
                                 const Lexeme& lexeme, std::uint32_t state,
                                 std::vector<Exit>& exits) const {
  for (std::size_t byte = 0; byte < 256; ++byte) {
    if (!some[byte]) continue;
    for (const std::uint32_t node : trie_->nodes_of(static_cast<std::uint8_t>(byte))) {
      std::uint32_t count = 0;
      if (!are_ends) {
        if (reach((*trie_)[node].parent, lexeme, state, count)) exits.push_back({count, node});
        continue;
      }
      if (!trie_->has_children(node) || !reach(node, lexeme, state, count)) continue;
      for (std::uint32_t i = node + 1; i < (*trie_)[node].behind; i = (*trie_)[i].behind) {
        if (bytes[(*trie_)[i].byte]) exits.push_back({count, i});
      }
    }
  }
}

// The bytes that texts of a lexeme end with.
const MaskCache::Bytes& MaskCache::ends_of(std::uint32_t lexeme) {
  const auto [place, is_new] = ends_by_lexeme_.try_emplace(lexeme);
  const Dfa& dfa = program_->lexemes()[lexeme].dfa;
  for (std::uint32_t s = 0; is_new && s < dfa.states(); ++s) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t to = dfa.step(s, static_cast<unsigned char>(byte));
      if (to != Dfa::dead && dfa.accepts[to] != 0) place->second.set(byte);
    }
  }
  return place->second;
}

// A node and those below it; of the root, which has no byte, only those.
std::pair<std::uint32_t, std::uint32_t> MaskCache::nodes_from(std::uint32_t root) const noexcept {
  return {std::max<std::uint32_t>(root, 1), (*trie_)[root].behind};
}

// Whether the lexeme may end at a node, from the root.
bool MaskCache::reach(std::uint32_t node, const Lexeme& lexeme, std::uint32_t state,
                      std::uint32_t& count) const {
  std::array<std::uint8_t, TokenTrie::longest + 1> path;
  std::size_t depth = 0;
  for (; node != 0; node = (*trie_)[node].parent) path[depth++] = (*trie_)[node].byte;
  bool can_end = false;
  while (depth > 0) {
    state = lexeme.dfa.step(state, path[--depth]);
    if (state == Dfa::dead) return false;
    can_end = lexeme.dfa.accepts[state] != 0;
    if (lexeme.is_counted && can_end) {
      state = 0;
      ++count;
    }
  }
  return can_end;
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
  struct Level {
    std::vector<std::uint32_t> below;  // by their bytes
    std::size_t next = 0;
    std::uint32_t node = none;  // whose children they are
  };
  const auto by_bytes = [&](std::vector<std::uint32_t> nodes) {
    std::ranges::stable_sort(nodes, {}, [&](std::uint32_t node) { return (*trie_)[node].byte; });
    return nodes;
  };
  std::vector<Level> path;
  path.push_back({by_bytes(suffixes.roots)});
  while (!path.empty()) {
    Level& level = path.back();
    if (level.next == level.below.size()) {
      if (level.node != none) {
        suffixes.nodes[level.node].behind = static_cast<std::uint32_t>(suffixes.nodes.size());
      }
      path.pop_back();
      continue;
    }
    const auto index = static_cast<std::uint32_t>(suffixes.nodes.size());
    const std::uint8_t byte = (*trie_)[level.below[level.next]].byte;
    const auto first = static_cast<std::uint32_t>(suffixes.members.size());
    std::vector<std::uint32_t> children;
    for (; level.next < level.below.size() && (*trie_)[level.below[level.next]].byte == byte;
         ++level.next) {
      const std::uint32_t node = level.below[level.next];
      suffixes.members.push_back(node);
      for (std::uint32_t i = node + 1; i < (*trie_)[node].behind; i = (*trie_)[i].behind) {
        children.push_back(i);
      }
    }
    const auto count = static_cast<std::uint32_t>(suffixes.members.size()) - first;
    suffixes.nodes.push_back(
        {index + 1, first, count, static_cast<std::uint16_t>(path.size() - 1), byte});
    path.push_back({by_bytes(std::move(children)), 0, index});
  }
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
