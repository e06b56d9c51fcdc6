#pragma once

/// \file
/// Linear: y = x Wᵀ + b, whatever form W is stored in.

#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "krait/io/weight_scope.hpp"
#include "krait/kernels/matmul.hpp"
#include "krait/kernels/matvec.hpp"
#include "krait/modules/block.hpp"

namespace krait::inline v0_1 {

/// A matrix of f32, f16 or bf16, usually in place in the checkpoint's file.
struct DenseLinear {
  kernels::DenseWeights W;      ///< [out, in]
  const float* bias = nullptr;  ///< [out] or null

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }

  void apply(const BlockContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    if (x.rows == 1) {
      parallel_for(ctx.executor, W.rows, 32, [&](Range outputs) {
        kernels::matvec({.W = W, .x = x.data, .bias = bias, .y = y.data, .outputs = outputs});
      });
    } else {
      parallel_for(ctx.executor, W.rows, 48, [&](Range outputs) {
        kernels::matmul({.W = W, .x = x, .bias = bias, .y = y, .outputs = outputs});
      });
    }
  }
};

/// A linear map as modules see it: they never know the form of the weights. A new form is a new
/// alternative here with `out`, `in` and `apply`.
class Linear {
 public:
  using Form = std::variant<DenseLinear>;

  Linear() = default;
  explicit Linear(Form form) : form_(std::move(form)) {}

  /// Binds `weight` [out, in], and `bias` [out] if there is one, in the scope `weights`.
  static Result<Linear> bind(const WeightScope& weights, Plan& /*plan*/, Index out, Index in,
                             bool has_bias) {
    DenseLinear dense;
    KRAIT_ASSIGN_OR_RETURN(const TensorView W, weights.matrix("weight", out, in));
    dense.W = {W.data, W.dtype, out, in};
    if (has_bias) {
      KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {out}));
      dense.bias = bias.data();
    }
    return Linear(dense);
  }

  Index out() const noexcept {
    return std::visit([](const auto& form) { return form.out(); }, form_);
  }
  Index in() const noexcept {
    return std::visit([](const auto& form) { return form.in(); }, form_);
  }

  /// y = x Wᵀ + b for every row of x [rows, in]; y [rows, out] must not overlap x.
  void apply(const BlockContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    std::visit([&](const auto& form) { form.apply(ctx, x, y); }, form_);
  }

  const Form& form() const noexcept { return form_; }

 private:
  Form form_;
};

}  // namespace krait::inline v0_1
