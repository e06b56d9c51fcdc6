#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// What a pair of neighbours becomes: lower ranks go first.
struct PairMerge {
  static constexpr std::uint32_t no_rank = ~std::uint32_t{0};
  std::uint32_t rank = no_rank;  ///< `no_rank`: they stay apart
  Token result = 0;
};

/// The symbols of one piece as a list, in which neighbours are joined in place.
struct PairSymbols {
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  static constexpr Token gone = -2;

  struct Symbol {
    Token token = 0;
    std::uint32_t previous = 0, next = 0;  // `none` at the ends
  };
  std::vector<Symbol> symbols;
  std::vector<std::uint64_t> queue;  // rank in the upper half, position in the lower
  std::size_t steps = 0;             // entries taken from queues so far

  /// Begins a list of `count` symbols, whose tokens are to be set.
  void start(std::size_t count) {
    symbols.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      symbols[i].previous = i > 0 ? static_cast<std::uint32_t>(i - 1) : none;
      symbols[i].next = i + 1 < count ? static_cast<std::uint32_t>(i + 1) : none;
    }
  }
};

/// Joins the neighbours with the lowest rank, leftmost first, until none can be: n log n steps.
/// `merge_at(i)` looks up the pair of symbol i and the one behind it, which exists.
template <class MergeAt>
void merge_pairs(PairSymbols& list, const MergeAt& merge_at) {
  auto& symbols = list.symbols;
  auto& queue = list.queue;
  const auto rank_at = [&](std::uint32_t i) {
    return symbols[i].next == PairSymbols::none ? PairMerge::no_rank : merge_at(i).rank;
  };
  const auto entry = [](std::uint32_t rank, std::uint32_t i) {
    return (std::uint64_t{rank} << 32) | i;
  };
  queue.clear();
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const std::uint32_t rank = rank_at(i); rank != PairMerge::no_rank) {
      queue.push_back(entry(rank, i));
    }
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  const auto enqueue = [&](std::uint32_t i) {
    if (const std::uint32_t rank = rank_at(i); rank != PairMerge::no_rank) {
      queue.push_back(entry(rank, i));
      std::push_heap(queue.begin(), queue.end(), std::greater<>());
    }
  };
  while (!queue.empty()) {
    const std::uint64_t top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    ++list.steps;
    const auto i = static_cast<std::uint32_t>(top);
    // Entries are not removed when their pair changes; they are recognised here.
    if (symbols[i].token == PairSymbols::gone || rank_at(i) != top >> 32) continue;
    const std::uint32_t next = symbols[i].next;
    symbols[i].token = merge_at(i).result;
    symbols[i].next = symbols[next].next;
    symbols[next].token = PairSymbols::gone;
    if (symbols[i].next != PairSymbols::none) symbols[symbols[i].next].previous = i;
    enqueue(i);
    if (symbols[i].previous != PairSymbols::none) enqueue(symbols[i].previous);
  }
}

}  // namespace v0_1
}  // namespace krait
