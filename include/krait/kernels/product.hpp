#pragma once

/// \file
/// y = x Wᵀ + b: one entry for every kind of stored matrix. It chooses the kernel, how operands are
/// packed and how many threads share the work; none of that changes a bit.

#include <span>

#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/kernels/matvec.hpp"
#include "krait/kernels/quant.hpp"

namespace krait {
inline namespace v0_1 {

/// The threads and the working memory of products, which run one after another.
struct ProductContext {
  Executor& executor;
  std::span<float> workspace;  ///< as much as Bookings::workspace booked for the run's tokens
};

/// The operands of a product with a matrix W [out, in].
struct ProductArgs {
  MatrixView<const float> x;    ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; must not overlap x
};

namespace kernels {

/// Threads share the outputs of a product in multiples of this many: a cache line of y.
inline constexpr Index output_block = 16;

/// y = x Wᵀ + bias for every token.
///
/// Bits     those of `matvec` and `matmul`, for any number of tokens, threads, and any workspace.
KRAIT_API void product(const ProductContext& ctx, const DenseWeights& W,
                       const ProductArgs& args) noexcept;

/// The same with activations rounded to bf16; W of bf16.
///
/// Bits     those of `matmul_bf16`.
KRAIT_API void product_bf16(const ProductContext& ctx, const DenseWeights& W,
                            const ProductArgs& args) noexcept;

/// The same with activations rounded to 8 bits in groups.
///
/// Bits     those of `matmul_grouped`.
KRAIT_API void product(const ProductContext& ctx, const GroupedWeights& W,
                       const ProductArgs& args) noexcept;

/// Floats of workspace per token to book for products with matrices of `in` columns. `product` with
/// dense weights is slower without it; the other two need it.
KRAIT_API Index product_workspace(Index in) noexcept;
KRAIT_API Index product_bf16_workspace(Index in) noexcept;
KRAIT_API Index product_grouped_workspace(Index in) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
