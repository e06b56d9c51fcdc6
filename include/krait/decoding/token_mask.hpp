#pragma once

/// \file
/// TokenMask: which tokens may come next, one bit each.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// A set of tokens from 0 to size - 1. Tokens beyond are never in it.
class TokenMask {
 public:
  /// Allows all of `size` tokens.
  explicit TokenMask(Index size = 0)
      : size_(size), words_(static_cast<std::size_t>(size + 63) / 64) {
    allow_all();
  }

  Index size() const noexcept { return size_; }

  void allow_all() noexcept {
    std::ranges::fill(words_, ~std::uint64_t{0});
    if (size_ % 64 != 0) words_.back() >>= static_cast<unsigned>(64 - size_ % 64);
  }
  void forbid_all() noexcept { std::ranges::fill(words_, std::uint64_t{0}); }

  /// What is not in [0, size) is ignored.
  void allow(Token token) noexcept {
    if (has(token)) words_[word(token)] |= bit(token);
  }
  void forbid(Token token) noexcept {
    if (has(token)) words_[word(token)] &= ~bit(token);
  }

  bool allows(Token token) const noexcept {
    return has(token) && (words_[word(token)] & bit(token)) != 0;
  }
  bool allows_any() const noexcept {
    return std::ranges::any_of(words_, [](std::uint64_t w) { return w != 0; });
  }

  /// Bit t % 64 of word t / 64 belongs to token t; those behind the last token are 0. For those who
  /// combine masks: whoever sets a bit behind the last token breaks the class.
  std::span<std::uint64_t> words() noexcept { return words_; }
  std::span<const std::uint64_t> words() const noexcept { return words_; }

 private:
  static std::size_t word(Token token) noexcept { return static_cast<std::size_t>(token) / 64; }
  static std::uint64_t bit(Token token) noexcept {
    return std::uint64_t{1} << (static_cast<unsigned>(token) % 64U);
  }
  bool has(Token token) const noexcept { return token >= 0 && token < size_; }

  Index size_ = 0;
  std::vector<std::uint64_t> words_;
};

}  // namespace v0_1
}  // namespace krait
