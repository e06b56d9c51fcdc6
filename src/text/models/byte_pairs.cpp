#include "text/models/byte_pairs.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace krait {
inline namespace v0_1 {

BytePairs::BytePairs(std::size_t count) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(2 * count, 16));
  merges_.resize(slots);
  shift_ = 64 - std::countr_zero(slots);
}

std::size_t BytePairs::slot_of(std::uint64_t pair) const noexcept {
  // Fibonacci hashing after folding the halves, so that both ids reach the upper bits.
  const std::uint64_t folded = pair ^ (pair >> 29);
  std::size_t slot = static_cast<std::size_t>((folded * 0x9E3779B97F4A7C15U) >> shift_);
  while (merges_[slot].pair != pair && merges_[slot].pair != no_pair) {
    slot = (slot + 1) & (merges_.size() - 1);
  }
  return slot;
}

void BytePairs::add_merge(Token left, Token right, std::uint32_t rank, Token result) noexcept {
  const std::uint64_t pair = pair_of(left, right);
  merges_[slot_of(pair)] = {pair, rank, result};
}

void BytePairs::encode(std::string_view piece, Scratch& scratch, std::vector<Token>& tokens) const {
  const std::size_t first = tokens.size();
  tokens.resize(first + piece.size());
  for (std::size_t i = 0; i < piece.size(); ++i) {
    tokens[first + i] = bytes_[static_cast<unsigned char>(piece[i])];
  }
  if (has_gaps_) {
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(first);
    tokens.erase(std::remove(begin, tokens.end(), no_token), tokens.end());
  }
  merge(first, scratch, tokens);
}

void BytePairs::merge(std::size_t first, Scratch& scratch, std::vector<Token>& tokens) const {
  const std::size_t count = tokens.size() - first;
  if (count == 0) return;
  if (count <= short_piece) {
    tokens.resize(first + merge_few(tokens.data() + first, count));
    return;
  }
  scratch.start(count);
  for (std::size_t i = 0; i < count; ++i) scratch.symbols[i].token = tokens[first + i];
  merge_pairs(scratch, [&](std::uint32_t i) {
    const Merge& found =
        merge_of(scratch.symbols[i].token, scratch.symbols[scratch.symbols[i].next].token);
    return PairMerge{found.rank, found.result};
  });
  tokens.resize(first);
  for (std::uint32_t i = 0; i != PairSymbols::none; i = scratch.symbols[i].next) {
    tokens.push_back(scratch.symbols[i].token);
  }
}

// Looks through all neighbours for each merge: quadratic, but for a word faster than a queue.
// Gives back how many symbols are left.
std::size_t BytePairs::merge_few(Token* symbols, std::size_t count) const noexcept {
  std::array<std::uint32_t, short_piece> ranks;  // of the pair that begins here
  const auto rank_at = [&](std::size_t i) {
    return i + 1 < count ? merge_of(symbols[i], symbols[i + 1]).rank : no_rank;
  };
  for (std::size_t i = 0; i < count; ++i) {
    ranks[i] = rank_at(i);
  }
  while (count > 1) {
    const auto* const lowest = std::min_element(ranks.data(), ranks.data() + count);
    if (*lowest == no_rank) {
      break;
    }
    const auto at = static_cast<std::size_t>(lowest - ranks.data());
    symbols[at] = merge_of(symbols[at], symbols[at + 1]).result;
    std::copy(symbols + at + 2, symbols + count, symbols + at + 1);
    std::copy(ranks.data() + at + 2, ranks.data() + count, ranks.data() + at + 1);
    --count;
    ranks[at] = rank_at(at);
    if (at > 0) ranks[at - 1] = rank_at(at - 1);
  }
  return count;
}

}  // namespace v0_1
}  // namespace krait
