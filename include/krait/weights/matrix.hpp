#pragma once

/// \file
/// WeightMatrix: a bound weight matrix, in any form.

#include <span>

#include "krait/core/tensor_view.hpp"
#include "krait/kernels/product.hpp"

namespace krait {
inline namespace v0_1 {

/// A matrix W [out, in] over tensors that the model keeps alive. Immutable; several threads use it.
class KRAIT_API WeightMatrix {
 public:
  /// `bytes`: size of the weights, all of which a product reads.
  WeightMatrix(Index out, Index in, Index bytes) noexcept : out_(out), in_(in), bytes_(bytes) {}
  WeightMatrix(const WeightMatrix&) = delete;
  WeightMatrix& operator=(const WeightMatrix&) = delete;
  virtual ~WeightMatrix();

  Index out() const noexcept { return out_; }
  Index in() const noexcept { return in_; }
  Index bytes() const noexcept { return bytes_; }

  /// y = x Wᵀ + bias for every row of x [tokens, in]; bias [out] may be null, y [tokens, out] does
  /// not overlap x. A token's bits must not depend on the other tokens or on the executor. Never
  /// fails or allocates; its working memory is what the form booked.
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
