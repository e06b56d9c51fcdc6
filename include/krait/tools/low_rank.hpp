#pragma once

/// \file
/// Matrices of lower rank: singular value decompositions and what is cut from them.
///
/// Paper   Sharma, Ash, Misra, "The Truth is in There: Improving Reasoning in Language Models with
///         Layer-Selective Rank Reduction", 2023 (arXiv:2312.13558).

#include <cstdint>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// W [rows, cols] = U diag(s) Vᵀ with orthonormal columns and s descending; n of them.
struct SingularValues {
  Index rows = 0;
  Index cols = 0;
  std::vector<float> U;  ///< [rows, n]
  std::vector<float> s;  ///< [n]
  std::vector<float> V;  ///< [cols, n]

  Index count() const noexcept { return static_cast<Index>(s.size()); }
};

/// The decomposition of W, all min(rows, cols) singular values. Errors: bad_argument (no rows or
/// columns), not_finite.
KRAIT_API Result<SingularValues> decompose(MatrixView<const float> W);

/// The first `rank` of them, nearly: by a random range finder with two power steps and half as many
/// vectors more as are wanted and 10 (Halko, Martinsson, Tropp 2011, algorithm 4.4). Faster
/// where the rank is below a quarter of the sizes. The approximation of that rank loses at most
/// about a hundredth more (Frobenius norm) than the best one; singular values that lie close
/// together mix. The bits depend on W, rank and seed alone. Errors as above, and bad_argument for a
/// rank that is not from 1 to min(rows, cols).
KRAIT_API Result<SingularValues> decompose_randomly(MatrixView<const float> W, Index rank,
                                                    std::uint64_t seed);

/// W ≈ u v of rank r: u [rows, r], v [r, cols].
struct LowRankFactors {
  Index rank = 0;
  std::vector<float> u;
  std::vector<float> v;
};

/// The best approximation of that rank (Eckart and Young 1936): its squared error is the sum of the
/// squares of the singular values that are left out. Both factors get √s, so that neither has the
/// larger numbers where they are rounded. `rank` from 1 to the number of singular values.
KRAIT_API LowRankFactors cut(const SingularValues& values, Index rank);

/// u v, [rows, cols], the sizes of the decomposed matrix.
KRAIT_API std::vector<float> multiply(const LowRankFactors& factors, Index rows, Index cols);

/// The rank that laserRMT keeps: singular values above σ (1 + √β), with β the ratio of the smaller
/// to the larger size and σ the interquartile range of the singular values over 1.349. At least 1.
KRAIT_API Index marchenko_pastur_rank(const SingularValues& values);

}  // namespace v0_1
}  // namespace krait
