#pragma once

/// \file
/// Linear: y = x Wᵀ + b, for every form of W.

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

/// A linear map as modules use it. They do not know the form of the weights (weights/form.hpp).
class KRAIT_API Linear {
 public:
  Linear() = default;
  explicit Linear(std::shared_ptr<const WeightMatrix> matrix, const float* bias = nullptr)
      : matrix_(std::move(matrix)), bias_(bias) {}

  /// A matrix of floats W [out, in] and a bias [out] (may be null), which must outlive the map.
  Linear(const kernels::DenseWeights& W, const float* bias, Bookings& bookings);

  /// Binds the matrix [out, in] of the scope `weights`, and `bias` [out] if has_bias, in the form
  /// that the user asked for (by default the one that the checkpoint has).
  static Result<Linear> bind(const WeightScope& weights, Bookings& bookings, Index out, Index in,
                             bool has_bias);

  /// Binds `count` matrices that are stacked in one tensor [count, out, in], such as the experts of
  /// a layer.
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

  /// The same matrix with another bias [out], which must outlive the map.
  Linear with_bias(const float* bias) const { return Linear(matrix_, bias); }

  const WeightMatrix& matrix() const noexcept { return *matrix_; }
  const float* bias() const noexcept { return bias_; }

 private:
  std::shared_ptr<const WeightMatrix> matrix_;
  const float* bias_ = nullptr;
};

}  // namespace v0_1
}  // namespace krait
