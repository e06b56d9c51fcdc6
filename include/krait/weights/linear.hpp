#pragma once

/// \file
/// Linear: y = x Wᵀ + b, whatever form W is stored in.

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "krait/core/bookings.hpp"
#include "krait/core/profile.hpp"
#include "krait/weights/matrix.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// A linear map as modules see it: they never know the form of the weights (weights/form.hpp).
class KRAIT_API Linear {
 public:
  Linear() = default;
  explicit Linear(std::shared_ptr<const WeightMatrix> matrix, const float* bias = nullptr)
      : matrix_(std::move(matrix)), bias_(bias) {}

  /// Floats W and bias [out] (may be null) that outlive the map.
  Linear(const kernels::DenseWeights& W, const float* bias, Bookings& bookings);

  /// Binds `weight` [out, in], and `bias` [out] if there is one, in the scope `weights`, in the
  /// form that the user asked for, or that the checkpoint has.
  static Result<Linear> bind(const WeightScope& weights, Bookings& bookings, Index out, Index in,
                             bool has_bias);

  /// The `count` matrices of one tensor `weight` [count, out, in], such as the experts of a layer.
  static Result<std::vector<Linear>> bind_stack(const WeightScope& weights, Bookings& bookings,
                                                Index count, Index out, Index in);

  Index out() const noexcept { return matrix_->out(); }
  Index in() const noexcept { return matrix_->in(); }

  /// y = x Wᵀ + b for every row of x [rows, in]; y [rows, out] must not overlap x.
  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    profile::count(matrix_->bytes(), 2 * out() * in() * x.rows);
    matrix_->product(ctx, {.x = x, .bias = bias_, .y = y});
  }

  /// Row r of W as floats [in], exactly.
  void row(Index r, std::span<float> out) const noexcept { matrix_->row(r, out); }

  /// The same matrix with that bias [out], which must outlive it.
  Linear with_bias(const float* bias) const { return Linear(matrix_, bias); }

  const WeightMatrix& matrix() const noexcept { return *matrix_; }

 private:
  std::shared_ptr<const WeightMatrix> matrix_;
  const float* bias_ = nullptr;
};

}  // namespace v0_1
}  // namespace krait
