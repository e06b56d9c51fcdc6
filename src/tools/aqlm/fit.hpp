#pragma once

/// \file
/// A matrix while it is being encoded, and the three things that make it better in turns: codes,
/// codebooks, scales. None depends on the executor: sums have a fixed order.

#include <cstdint>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/executor.hpp"
#include "krait/tools/aqlm.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// The second moments H of the inputs, in the form in which they are used.
class Metric {
 public:
  /// Scaled so that the mean of the diagonal is 1, with a ridge of 1e-6 so that H has an inverse.
  Metric(const SecondMoments& moments, Index in);

  Index in() const noexcept { return in_; }
  bool is_diagonal() const noexcept { return full_.size() == 0; }
  float diagonal(Index i) const noexcept { return diagonal_[i]; }
  float at(Index i, Index k) const noexcept {
    if (!is_diagonal()) return full_[i * in_ + k];
    return i == k ? diagonal_[i] : 0.0F;
  }

  /// Y = X H for X [rows, in].
  void apply(Executor& executor, MatrixView<const float> X, MatrixView<float> Y) const;
  /// Columns `inputs` of X H: Y [rows, inputs].
  void apply(Executor& executor, MatrixView<const float> X, std::span<const Index> inputs,
             MatrixView<float> Y) const;

 private:
  Index in_;
  AlignedBuffer<float> diagonal_;  // [in]
  AlignedBuffer<float> full_;      // [in, in], unless H is diagonal
};

/// W ≈ Ŵ, with Ŵ[i, j·g + d] = scales[i] · Σ_m codebooks[m, codes[i,j,m], d].
struct Fit {
  AqlmScheme scheme;
  MatrixView<const float> W;  // [out, in]
  const Metric* H = nullptr;
  Executor* executor = nullptr;
  std::vector<std::uint16_t> codes;  // [out, groups, M]
  std::vector<float> codebooks;      // [M, K, g]
  std::vector<float> scales;         // [out]; 0 for rows of zeros, whose codes do not matter
  AlignedBuffer<float> error;        // [out, in]: W − Ŵ, kept up to date

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index groups() const noexcept { return W.cols / scheme.in_group; }
  MatrixView<float> E() noexcept { return {error.data(), out(), in()}; }

  std::uint16_t* codes_of(Index row, Index group) noexcept {
    return codes.data() + (row * groups() + group) * scheme.codebooks;
  }
  const std::uint16_t* codes_of(Index row, Index group) const noexcept {
    return codes.data() + (row * groups() + group) * scheme.codebooks;
  }
  const float* codeword(Index m, Index code) const noexcept {
    return codebooks.data() + (m * scheme.codewords() + code) * scheme.in_group;
  }
};

/// U[i, j·g + d] = Σ_m codebooks[m, codes[i,j,m], d]: Ŵ without its scales.
void expand(const Fit& fit, MatrixView<float> U);

/// Makes `error` of the codes, codebooks and scales.
void update_error(Fit& fit);

/// tr(EHEᵀ) for any E of the matrix's shape.
double squared_error(const Fit& fit, MatrixView<const float> E);

/// Scales from the rows' norms, codebooks and codes by k-means, one codebook on what those before
/// it left.
void start(Fit& fit, Index kmeans_rounds, std::uint64_t seed);

/// New codes for every group in turn, all of a group at once; none that is worse. `beam` hypotheses
/// are kept.
void improve_codes(Fit& fit, Index beam, std::uint64_t seed, std::uint64_t sweep);

/// Codebooks that are best for these codes and scales, or `steps` of conjugate gradients nearer.
void improve_codebooks(Fit& fit, Index steps);

/// Scales that are best for these codes and codebooks.
void improve_scales(Fit& fit);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
