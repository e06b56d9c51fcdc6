#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// The texts of tokens as a tree of bytes: finds those that a text begins with.
class TokenTrie {
 public:
  using Node = std::uint32_t;
  static constexpr Node root = 0;
  static constexpr Node none = ~Node{0};
  static constexpr Token no_token = -1;

  TokenTrie() : TokenTrie(std::vector<std::pair<std::string_view, Token>>()) {}

  /// Of equal texts the last one counts; empty ones are left out.
  explicit TokenTrie(std::vector<std::pair<std::string_view, Token>> tokens);

  /// The node behind `byte`, or `none`.
  Node next(Node node, char byte) const noexcept {
    const auto value = static_cast<unsigned char>(byte);
    if (node == root) return of_root_[value];
    const Node begin = first_child_[node];
    const Node end = first_child_[node + 1];
    if (end - begin > 8) return among_many(begin, end, value);
    for (Node child = begin; child < end; ++child) {
      if (labels_[child] == value) return child;
    }
    return none;
  }

  Token token(Node node) const noexcept { return tokens_[node]; }

  /// The token of exactly this text.
  Token find(std::string_view text) const noexcept;

  struct Match {
    Token token = no_token;
    std::size_t size = 0;
  };
  /// The longest token that `text` begins with.
  Match longest(std::string_view text) const noexcept;

 private:
  Node among_many(Node begin, Node end, unsigned char value) const noexcept;

  // In breadth-first order, so that the children of a node are neighbours.
  std::vector<Node> first_child_;
  std::vector<unsigned char> labels_;
  std::vector<Token> tokens_;
  std::array<Node, 256> of_root_;
};

}  // namespace v0_1
}  // namespace krait
