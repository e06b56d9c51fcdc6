#pragma once

/// \file
/// The model of `search_codewords`: the formula, one pair after another.

#include <cmath>

#include "krait/kernels/codeword_search.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// Puts a choice where it belongs among the `found` best; returns how many there are then.
inline Index insert_choice(const kernels::CodewordChoice& choice, Index keep, Index found,
                           kernels::CodewordChoice* best) noexcept {
  Index at = found < keep ? found : keep - 1;
  if (at < found && !(choice.cost < best[at].cost)) return found;
  for (; at > 0 && choice.cost < best[at - 1].cost; --at) best[at] = best[at - 1];
  best[at] = choice;
  return found < keep ? found + 1 : found;
}

/// kernels::search_codewords, bit for bit.
inline Index search_codewords(const kernels::CodewordSearchArgs& args,
                              kernels::CodewordChoice* best) noexcept {
  Index found = 0;
  for (Index h = 0; h < args.residuals.rows; ++h) {
    for (Index k = 0; k < args.codewords.cols; ++k) {
      float dot = 0.0F;
      for (Index d = 0; d < args.codewords.rows; ++d) {
        dot = std::fma(args.residuals(h, d), args.codewords(d, k), dot);
      }
      const float cost = std::fma(-2.0F, dot, args.costs[h] + args.norms[k]);
      if (!std::isfinite(cost)) continue;
      found = insert_choice({cost, static_cast<std::int32_t>(h), static_cast<std::int32_t>(k)},
                            args.keep, found, best);
    }
  }
  return found;
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
