#pragma once

/// \file
/// y = W x: one token (decode). Bound by reading W.

#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// A row-major matrix of stored weights, [rows, cols], rows contiguous: one row per output.
struct DenseWeights {
  const void* data = nullptr;
  DType dtype = DType::f32;  ///< f32, f16 or bf16
  Index rows = 0;
  Index cols = 0;
};

/// Arguments of `matvec`.
struct MatvecArgs {
  DenseWeights W;               ///< [out, in]
  const float* x = nullptr;     ///< [in]
  const float* bias = nullptr;  ///< [out] or null
  float* y = nullptr;           ///< [out] out; only the outputs in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
};

/// y[r] = Σ_k W[r,k] x[k] (+ bias[r]) for r in `outputs`.
///
/// Bits     numeric contract, section 2: 16 lanes, one chain of fma each, fixed tree, then bias.
///          Weights are widened exactly, so the storage type changes no bit for equal values.
/// Aliasing none.
/// Cost     reads each weight once.
/// Oracle   ref::matvec.
KRAIT_API void matvec(const MatvecArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
