#pragma once

// What the backward passes share: products, sums over tokens, derivatives of single elements. Their
// bits are those of the numeric contract, section 12.

#include "krait/training/parameters.hpp"
#include "krait/training/workspace.hpp"
#include "krait/weights/adapter.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

/// y = x Wᵀ + bias as in inference; W [out, in] lies row after row.
void multiply(const Work& work, const float* W, Index out, Index in, MatrixView<const float> x,
              const float* bias, MatrixView<float> y);

/// y = x M, where M [rows, cols] lies row after row.
void multiply_transposed(const Work& work, MatrixView<const float> M, MatrixView<const float> x,
                         MatrixView<float> y);

/// to [cols, rows] = fromᵀ.
void transpose(const Work& work, MatrixView<const float> from, MatrixView<float> to);

/// to += from.
void add_to(const Work& work, const float* from, Index count, float* to);
/// y += x, row by row.
void add_to(const Work& work, MatrixView<const float> x, MatrixView<float> y);
void copy_rows(const Work& work, MatrixView<const float> from, MatrixView<float> to);

/// The matrix of y = x Wᵀ + b, and where its gradients go; null where none is wanted.
struct LinearWeights {
  const float* W = nullptr;        // [out, in], or
  const Linear* frozen = nullptr;  // one that stays as it is, in whatever form
  Index workspace = 0;             // floats per token that products with that need
  const float* bias = nullptr;     // [out]
  float* dW = nullptr;             // [out, in] += dyᵀ x
  float* db = nullptr;             // [out] += Σ dy
  LowRankAdapter own = {};         // that the block has beside W; rank 0: none
  float* dA = nullptr;             // [rank, in], of the adapter of `frozen`, or of that one
  float* dB = nullptr;             // [out, rank]

  /// For gradients with respect to inputs alone.
  LinearWeights without_gradients() const;
};
/// `weight` and, if it exists, `bias` of the scope; of a stack of matrices, number `i`, each of
/// which has `size` floats.
LinearWeights linear_weights(const ParameterScope& linear, Index i = 0, Index size = 0);
/// The same with an adapter of the block's own, whose factors are `0.weight` and `1.weight` of
/// `adapter`.
LinearWeights with_adapter(LinearWeights weights, const ParameterScope& adapter, Index rank);

void linear(const Work& work, const LinearWeights& weights, Index out, Index in,
            MatrixView<const float> x, MatrixView<float> y);
/// The same with the names of a scope.
void linear(const Work& work, const ParameterScope& linear, Index out, Index in,
            MatrixView<const float> x, MatrixView<float> y);

/// The backward pass of that.
struct LinearBackward {
  LinearWeights weights;
  Index out = 0;
  Index in = 0;
  MatrixView<const float> x;   // [T, in]
  MatrixView<const float> dy;  // [T, out]
  MatrixView<float> dx;        // [T, in] = dy W; data null: not wanted
};
void linear_backward(const Work& work, const LinearBackward& args);
/// The same with the names of a scope.
void linear_backward(const Work& work, const ParameterScope& linear, Index out, Index in,
                     MatrixView<const float> x, MatrixView<const float> dy, MatrixView<float> dx);

/// sum[c] += Σ_t a[t,c] b[t,c], or Σ_t a[t,c] where b has no data.
void add_column_sums(const Work& work, MatrixView<const float> a, MatrixView<const float> b,
                     float* sum);

/// Σ a[k] b[k], numeric contract, section 2.
float dot(const float* a, const float* b, Index n) noexcept;

/// dx = dy · silu'(x), for one row; dx may be dy.
void silu_backward(std::span<const float> x, std::span<const float> dy,
                   std::span<float> dx) noexcept;

/// The backward pass of a norm.
struct NormBackward {
  bool is_rms = true;
  float eps = 0.0F;
  const float* weight = nullptr;  // [d] or null: ones
  MatrixView<const float> x;      // [T, d]
  MatrixView<const float> dy;     // [T, d]
  MatrixView<float> dx;           // [T, d] out; may be dy
  float* dweight = nullptr;       // [d] +=; null: not wanted
  float* dbias = nullptr;         // [d] +=; null: not wanted
};
void norm_backward(const Work& work, const NormBackward& args);
/// The same for a norm of a spec, with its names.
void norm_backward(const Work& work, const NormSpec& spec, const ParameterScope& norm,
                   MatrixView<const float> x, MatrixView<const float> dy, MatrixView<float> dx);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
