#pragma once

/// \file
/// Several tokens times a matrix: the oracle in double and the bit-exact scalar model.

#include "krait/kernels/matmul.hpp"
#include "krait/kernels/ref/matvec.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The arguments of `matvec` for one token of a `matmul`.
inline kernels::MatvecArgs token_of(const kernels::MatmulArgs& args, Index t) noexcept {
  return {.W = args.W,
          .x = args.x.row_data(t),
          .bias = args.bias,
          .y = args.y.row_data(t),
          .outputs = args.outputs};
}

/// Y = X Wᵀ in double precision; writes y(t, r) for r in the outputs.
inline void matmul_oracle(const kernels::MatmulArgs& args, MatrixView<double> y) {
  for (Index t = 0; t < args.x.rows; ++t) ref::matvec_oracle(token_of(args, t), y.row(t));
}

/// The bits of kernels::matmul.
inline void matmul(const kernels::MatmulArgs& args) noexcept {
  for (Index t = 0; t < args.x.rows; ++t) ref::matvec(token_of(args, t));
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
