#pragma once

/// \file
/// TokenTrie: the tokens of a vocabulary by their bytes.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Nodes in the order of a walk: below node i are those from i + 1 to `behind`.
struct TrieNode {
  std::uint32_t behind = 0;
  std::uint32_t parent = 0;
  std::uint32_t first_token = 0;  ///< its tokens are those before the first of node i + 1
  std::uint16_t depth = 0;        ///< bytes from the root
  std::uint8_t byte = 0;
};

class TokenTrie {
 public:
  /// Longer tokens are left out: what they spell can be written in shorter ones.
  static constexpr std::size_t longest = 255;

  /// Of all tokens that are text: none that is special, ends a text or has no bytes.
  TokenTrie(const Tokenizer& tokenizer, std::span<const Token> stop_tokens);

  /// Node 0 is the root; behind the last node is one more, for the end of its tokens.
  std::span<const TrieNode> nodes() const noexcept { return std::span(nodes_).first(size()); }
  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(nodes_.size() - 1); }
  const TrieNode& operator[](std::uint32_t node) const noexcept { return nodes_[node]; }
  std::span<const Token> tokens(std::uint32_t node) const noexcept {
    return tokens(node, node + 1);
  }
  /// Of all nodes from `first` to `last` - 1.
  std::span<const Token> tokens(std::uint32_t first, std::uint32_t last) const noexcept {
    return std::span(tokens_).subspan(nodes_[first].first_token,
                                      nodes_[last].first_token - nodes_[first].first_token);
  }
  bool has_children(std::uint32_t node) const noexcept { return nodes_[node].behind > node + 1; }
  /// All nodes of a byte.
  std::span<const std::uint32_t> nodes_of(std::uint8_t byte) const noexcept {
    return std::span(by_byte_).subspan(first_of_[byte], first_of_[byte + 1U] - first_of_[byte]);
  }

  /// Whether longer tokens begin with these bytes.
  bool is_prefix(std::string_view bytes) const noexcept;

  /// Which bytes are tokens.
  const std::array<bool, 256>& bytes() const noexcept { return bytes_; }

 private:
  std::vector<TrieNode> nodes_;
  std::vector<Token> tokens_;
  std::vector<std::uint32_t> by_byte_;
  std::array<std::uint32_t, 257> first_of_ = {};
  std::array<bool, 256> bytes_ = {};
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
