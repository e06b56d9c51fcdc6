#include "text/bpe/bpe.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>

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
  if (piece.size() <= short_piece) {
    encode_short(piece, tokens);
  } else {
    encode_long(piece, scratch, tokens);
  }
}

// Looks through all neighbours for each merge: quadratic, but for a word faster than a queue.
void BytePairs::encode_short(std::string_view piece, std::vector<Token>& tokens) const {
  std::array<Token, short_piece> symbols;
  std::array<std::uint32_t, short_piece> ranks;  // of the pair that begins here
  std::size_t count = piece.size();
  for (std::size_t i = 0; i < count; ++i) {
    symbols[i] = bytes_[static_cast<unsigned char>(piece[i])];
  }
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
    std::copy(symbols.data() + at + 2, symbols.data() + count, symbols.data() + at + 1);
    std::copy(ranks.data() + at + 2, ranks.data() + count, ranks.data() + at + 1);
    --count;
    ranks[at] = rank_at(at);
    if (at > 0) ranks[at - 1] = rank_at(at - 1);
  }
  tokens.insert(tokens.end(), symbols.data(), symbols.data() + count);
}

void BytePairs::encode_long(std::string_view piece, Scratch& scratch,
                            std::vector<Token>& tokens) const {
  constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  constexpr Token gone = -1;
  auto& symbols = scratch.symbols;
  auto& queue = scratch.queue;
  const auto count = static_cast<std::uint32_t>(piece.size());
  symbols.resize(count);  // more than a short piece has, so never empty
  queue.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols[i] = {bytes_[static_cast<unsigned char>(piece[i])], i > 0 ? i - 1 : none,
                  i + 1 < count ? i + 1 : none};
  }
  const auto rank_at = [&](std::uint32_t i) {
    const std::uint32_t next = symbols[i].next;
    return next == none ? no_rank : merge_of(symbols[i].token, symbols[next].token).rank;
  };
  const auto entry = [](std::uint32_t rank, std::uint32_t i) {
    return (std::uint64_t{rank} << 32) | i;
  };
  for (std::uint32_t i = 0; i + 1 < count; ++i) {
    if (const std::uint32_t rank = rank_at(i); rank != no_rank) {
      queue.push_back(entry(rank, i));
    }
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  const auto enqueue = [&](std::uint32_t i) {
    if (const std::uint32_t rank = rank_at(i); rank != no_rank) {
      queue.push_back(entry(rank, i));
      std::push_heap(queue.begin(), queue.end(), std::greater<>());
    }
  };
  while (!queue.empty()) {
    const std::uint64_t top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    ++scratch.steps;
    const auto i = static_cast<std::uint32_t>(top);
    // Entries are not removed when their pair changes; they are recognised here.
    if (symbols[i].token == gone || rank_at(i) != top >> 32) {
      continue;
    }
    const std::uint32_t next = symbols[i].next;
    symbols[i].token = merge_of(symbols[i].token, symbols[next].token).result;
    symbols[i].next = symbols[next].next;
    symbols[next].token = gone;
    if (symbols[i].next != none) {
      symbols[symbols[i].next].previous = i;
    }
    enqueue(i);
    if (symbols[i].previous != none) {
      enqueue(symbols[i].previous);
    }
  }
  for (std::uint32_t i = 0; i != none; i = symbols[i].next) {
    tokens.push_back(symbols[i].token);
  }
}

}  // namespace v0_1
}  // namespace krait
