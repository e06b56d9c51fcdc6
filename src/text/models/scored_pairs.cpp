#include "text/models/scored_pairs.hpp"

#include <algorithm>
#include <functional>
#include <map>

#include "core/utf8.hpp"

namespace krait {
inline namespace v0_1 {

ScoredPairs::ScoredPairs(const ScoredPairsParts& parts)
    : unknown_(parts.unknown), bytes_(parts.bytes), joins_unknown_(parts.joins_unknown) {
  std::vector<float> scores;
  for (const auto& piece : parts.pieces) scores.push_back(piece.score);
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  std::vector<std::pair<std::string_view, Token>> texts;
  std::vector<std::pair<std::string_view, Token>> whole;
  for (const auto& piece : parts.pieces) {
    texts.emplace_back(piece.text, static_cast<Token>(entries_.size()));
    if (piece.is_whole) whole.emplace_back(piece.text, piece.token);
    const auto rank = std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>());
    entries_.push_back({piece.token, static_cast<std::uint32_t>(rank - scores.begin()),
                        piece.is_whole, piece.is_unused});
    has_unused_ = has_unused_ || piece.is_unused;
  }
  trie_ = TokenTrie(std::move(texts));
  symbols_ = TokenTrie(std::move(whole));
}

// Symbols: characters, and the texts that stand for themselves.
void ScoredPairs::start(std::string_view piece, ModelScratch& scratch) const {
  auto& begins = scratch.begins;
  begins.clear();
  std::vector<std::uint32_t> whole;
  for (std::size_t position = 0; position < piece.size();) {
    begins.push_back(static_cast<std::uint32_t>(position));
    const TokenTrie::Match match = symbols_.longest(piece.substr(position));
    if (match.token != TokenTrie::no_token) {
      whole.push_back(static_cast<std::uint32_t>(begins.size() - 1));
      position += match.size;
    } else {
      utf8::next(piece, position);
    }
  }
  scratch.pairs.start(begins.size());
  for (auto& symbol : scratch.pairs.symbols) symbol.token = 0;
  for (const std::uint32_t i : whole) scratch.pairs.symbols[i].token = frozen;
}

void ScoredPairs::append(std::string_view text, bool& was_unknown,
                         std::vector<Token>& tokens) const {
  const Token place = trie_.find(text);
  if (place != TokenTrie::no_token) {
    tokens.push_back(entries_[static_cast<std::size_t>(place)].token);
    was_unknown = false;
  } else if (bytes_ && append_bytes(*bytes_, text, tokens)) {
    was_unknown = false;
  } else if (unknown_) {
    if (!was_unknown || !joins_unknown_) tokens.push_back(*unknown_);
    was_unknown = true;
  }
}

Result<void> ScoredPairs::encode(std::string_view piece, bool /*is_plain*/, ModelScratch& scratch,
                                 std::vector<Token>& tokens) const {
  start(piece, scratch);
  const auto& begins = scratch.begins;
  const auto& symbols = scratch.pairs.symbols;
  const auto end_of = [&](std::uint32_t i) {
    const std::uint32_t next = symbols[i].next;
    return next == PairSymbols::none ? piece.size() : std::size_t{begins[next]};
  };
  // Where tokens that are not used were joined, by the text of both: the last such place counts.
  std::map<std::string_view, std::size_t> halves;
  merge_pairs(scratch.pairs, [&](std::uint32_t i) {
    const std::uint32_t next = symbols[i].next;
    if (symbols[i].token == frozen || symbols[next].token == frozen) return PairMerge{};
    const std::string_view text = piece.substr(begins[i], end_of(next) - begins[i]);
    const Token place = trie_.find(text);
    if (place == TokenTrie::no_token) return PairMerge{};
    const Entry& entry = entries_[static_cast<std::size_t>(place)];
    if (entry.is_unused) halves[text] = begins[next] - begins[i];
    return PairMerge{entry.rank, 0};
  });
  bool was_unknown = false;
  std::vector<std::string_view> rest;
  for (std::uint32_t i = 0; i != PairSymbols::none; i = symbols[i].next) {
    rest.push_back(piece.substr(begins[i], end_of(i) - begins[i]));
    while (!rest.empty()) {
      const std::string_view text = rest.back();
      rest.pop_back();
      const auto half = has_unused_ ? halves.find(text) : halves.end();
      if (half != halves.end()) {
        rest.push_back(text.substr(half->second));
        rest.push_back(text.substr(0, half->second));
      } else {
        append(text, was_unknown, tokens);
      }
    }
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
