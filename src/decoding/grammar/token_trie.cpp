#include "decoding/grammar/token_trie.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace krait {
inline namespace v0_1 {
namespace grammar {

TokenTrie::TokenTrie(const Tokenizer& tokenizer, std::span<const Token> stop_tokens) {
  const std::unordered_set<Token> stops(stop_tokens.begin(), stop_tokens.end());
  std::vector<std::pair<std::string_view, Token>> sorted;
  for (Token token = 0; token < tokenizer.vocab(); ++token) {
    const std::string_view bytes = tokenizer.bytes(token);
    if (bytes.empty() || bytes.size() > longest || tokenizer.is_special(token)) continue;
    if (stops.contains(token)) continue;
    sorted.emplace_back(bytes, token);
    if (bytes.size() == 1) bytes_[static_cast<unsigned char>(bytes[0])] = true;
  }
  std::ranges::sort(sorted);  // string_view compares bytes as unsigned
  nodes_.push_back({});
  std::vector<std::uint32_t> path = {0};  // nodes from the root to the last token
  std::string_view last;
  const auto close = [&](std::size_t depth) {
    for (; path.size() > depth + 1; path.pop_back()) {
      nodes_[path.back()].behind = static_cast<std::uint32_t>(nodes_.size());
    }
  };
  for (const auto& [bytes, token] : sorted) {
    std::size_t shared = 0;
    while (shared < last.size() && shared < bytes.size() && last[shared] == bytes[shared]) ++shared;
    close(shared);
    for (std::size_t i = shared; i < bytes.size(); ++i) {
      const std::uint32_t parent = path.back();
      path.push_back(static_cast<std::uint32_t>(nodes_.size()));
      nodes_.push_back({.parent = parent,
                        .first_token = static_cast<std::uint32_t>(tokens_.size()),
                        .depth = static_cast<std::uint16_t>(i + 1),
                        .byte = static_cast<std::uint8_t>(bytes[i])});
    }
    tokens_.push_back(token);
    last = bytes;
  }
  close(0);
  nodes_[0].behind = static_cast<std::uint32_t>(nodes_.size());
  nodes_.push_back({.first_token = static_cast<std::uint32_t>(tokens_.size())});
  for (std::uint32_t i = 1; i < size(); ++i) ++first_of_[nodes_[i].byte + 1U];
  for (std::size_t byte = 0; byte < 256; ++byte) first_of_[byte + 1] += first_of_[byte];
  by_byte_.resize(first_of_[256]);
  auto next = first_of_;
  for (std::uint32_t i = 1; i < size(); ++i) by_byte_[next[nodes_[i].byte]++] = i;
}

bool TokenTrie::is_prefix(std::string_view bytes) const noexcept {
  std::uint32_t node = 0;
  for (const char byte : bytes) {
    std::uint32_t child = node + 1;
    const std::uint32_t behind = nodes_[node].behind;
    while (child < behind && nodes_[child].byte != static_cast<std::uint8_t>(byte)) {
      child = nodes_[child].behind;
    }
    if (child >= behind) return false;
    node = child;
  }
  return has_children(node);
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
