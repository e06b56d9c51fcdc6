#pragma once

/// \file
/// WeightMatrix: a matrix that a model multiplies with, whatever form it is held in.

#include <span>

#include "krait/core/tensor_view.hpp"
#include "krait/kernels/product.hpp"

namespace krait {
inline namespace v0_1 {

/// A matrix W [out, in] over tensors that somebody else keeps. Immutable; used by several threads.
class KRAIT_API WeightMatrix {
 public:
  /// `bytes`: what one product reads of the weights.
  WeightMatrix(Index out, Index in, Index bytes) noexcept : out_(out), in_(in), bytes_(bytes) {}
  WeightMatrix(const WeightMatrix&) = delete;
  WeightMatrix& operator=(const WeightMatrix&) = delete;
  virtual ~WeightMatrix();

  Index out() const noexcept { return out_; }
  Index in() const noexcept { return in_; }
  Index bytes() const noexcept { return bytes_; }

  /// y = x Wᵀ + bias for every row of x [tokens, in]; bias [out] may be null, y [tokens, out] does
  /// not overlap x. Must give the same bits for a token whichever tokens come with it, and for any
  /// executor. Never fails or allocates; its working memory is what was booked.
  virtual void product(const ProductContext& ctx, const ProductArgs& args) const noexcept = 0;

  /// Row r of W as floats [in], exactly.
  virtual void row(Index r, std::span<float> out) const noexcept = 0;

 private:
  Index out_;
  Index in_;
  Index bytes_;
};

}  // namespace v0_1
}  // namespace krait
