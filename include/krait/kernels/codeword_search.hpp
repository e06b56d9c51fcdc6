#pragma once

/// \file
/// The inner step of the beam search that encodes weights as sums of codewords (AQLM).

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Arguments of `search_codewords`.
struct CodewordSearchArgs {
  MatrixView<const float> residuals;  ///< [hypotheses, group] what is left of the vector to encode
  const float* costs = nullptr;       ///< [hypotheses] squared norms of the residuals
  MatrixView<const float> codewords;  ///< [group, count]: a codeword is a column; count % 16 = 0
  const float* norms = nullptr;       ///< [count] squared norms of the codewords; infinity: no code
  Index keep = 1;                     ///< how many choices are wanted, at least 1
};

/// A codeword behind a hypothesis, and the squared norm of what would be left.
struct CodewordChoice {
  float cost = 0.0F;
  std::int32_t hypothesis = 0;
  std::int32_t code = 0;
  friend bool operator==(const CodewordChoice&, const CodewordChoice&) = default;
};

/// The `keep` cheapest pairs (hypothesis h, code k) by
///
///     cost = fma(−2, Σ_d residuals[h,d] · codewords[d,k], costs[h] + norms[k]),
///
/// the sum a chain of fma with d ascending; in `best` [keep], cheapest first. Of equal costs the
/// lower h, then the lower k comes first. Returns how many there are: fewer where there are not as
/// many pairs of finite cost.
///
/// Bits     those of the formula, on every instruction set.
/// Aliasing none.
/// Oracle   ref::search_codewords.
KRAIT_API Index search_codewords(const CodewordSearchArgs& args, CodewordChoice* best) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
