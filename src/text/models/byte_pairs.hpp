#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"
#include "text/models/merge_pairs.hpp"

namespace krait {
inline namespace v0_1 {

/// Byte-pair encoding of one piece of text: starting from single bytes or characters, the
/// neighbours with the lowest rank are joined, leftmost first, until none can be.
class BytePairs {
 public:
  /// Room for `count` merges.
  explicit BytePairs(std::size_t count = 0);

  static constexpr Token no_token = -1;

  /// `no_token`: the byte is left out of pieces.
  void set_byte(unsigned char byte, Token token) noexcept {
    bytes_[byte] = token;
    has_gaps_ = has_gaps_ || token == no_token;
  }

  /// `left` and `right` become `result`; lower ranks go first. A later merge of the same pair
  /// replaces an earlier one. At most `count` calls.
  void add_merge(Token left, Token right, std::uint32_t rank, Token result) noexcept;

  /// What `encode` works on. Keep it between calls and it stops allocating.
  using Scratch = PairSymbols;

  /// Appends the tokens of `piece` (shorter than 2^32 bytes). Time is n log n.
  void encode(std::string_view piece, Scratch& scratch, std::vector<Token>& tokens) const;

  /// Joins the tokens from `first` on, in place. Time is n log n.
  void merge(std::size_t first, Scratch& scratch, std::vector<Token>& tokens) const;

 private:
  struct Merge {
    std::uint64_t pair = no_pair;
    std::uint32_t rank = no_rank;
    Token result = 0;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};
  static constexpr std::uint32_t no_rank = PairMerge::no_rank;
  static constexpr std::size_t short_piece = 24;

  static std::uint64_t pair_of(Token left, Token right) noexcept {
    return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) |
           static_cast<std::uint32_t>(right);
  }
  std::size_t slot_of(std::uint64_t pair) const noexcept;
  const Merge& merge_of(Token left, Token right) const noexcept {
    return merges_[slot_of(pair_of(left, right))];
  }
  std::size_t merge_few(Token* symbols, std::size_t count) const noexcept;

  std::vector<Merge> merges_;  // open addressing, a power of two, at most half full
  int shift_ = 0;
  bool has_gaps_ = false;
  Token bytes_[256] = {};
};

}  // namespace v0_1
}  // namespace krait
