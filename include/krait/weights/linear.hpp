#pragma once

/// \file
/// Linear: y = x Wᵀ + b, whatever form W is stored in.

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "krait/core/plan.hpp"
#include "krait/core/profile.hpp"
#include "krait/kernels/product.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// Extents of one matrix [out, in], or of `count` of them in one tensor [count, out, in].
struct MatrixShape {
  Index out = 0;
  Index in = 0;
  std::optional<Index> count = {};  ///< absent: one matrix, in a tensor of two axes

  Index matrices() const noexcept { return count.value_or(1); }
  /// The tensor's shape, its last two extents replaced by those given.
  Shape tensor(std::initializer_list<Index> extents) const {
    std::vector<Index> all(extents);
    if (count) all.insert(all.begin(), *count);
    return Shape::make(all).value_or(Shape());
  }
};

/// A matrix of f32, f16 or bf16, usually in place in the checkpoint's file.
struct DenseLinear {
  kernels::DenseWeights W;      ///< [out, in]
  const float* bias = nullptr;  ///< [out] or null

  static Result<std::vector<DenseLinear>> bind(const WeightScope& weights, Plan& plan,
                                               const MatrixShape& shape);

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index bytes() const noexcept { return W.rows * W.cols * bytes_of(W.dtype); }

  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    kernels::product(ctx, W, x, bias, y);
  }

  void row(Index r, std::span<float> out) const noexcept {
    const auto* data = static_cast<const std::byte*>(W.data) + r * W.cols * bytes_of(W.dtype);
    convert_floats({data, W.dtype, {W.cols}}, DType::f32, out.data());
  }
};

/// A matrix of bf16 multiplied with activations that are rounded to bf16.
struct Bf16Linear {
  kernels::DenseWeights W;      ///< [out, in], of bf16
  const float* bias = nullptr;  ///< [out] or null

  static Result<std::vector<Bf16Linear>> bind(const WeightScope& weights, Plan& plan,
                                              const MatrixShape& shape);

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index bytes() const noexcept { return W.rows * W.cols * bytes_of(W.dtype); }

  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    kernels::product_bf16(ctx, W, x, bias, y);
  }

  void row(Index r, std::span<float> out) const noexcept { DenseLinear{W, bias}.row(r, out); }
};

/// A matrix of 8 or 4 bits per weight, multiplied with activations of 8 bits.
struct GroupedLinear {
  kernels::GroupedWeights W;    ///< [out, in]
  const float* bias = nullptr;  ///< [out] or null

  static Result<std::vector<GroupedLinear>> bind(const WeightScope& weights, Plan& plan,
                                                 kernels::GroupedForm form,
                                                 const MatrixShape& shape);

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index bytes() const noexcept { return W.bytes(); }

  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    kernels::product(ctx, W, x, bias, y);
  }

  void row(Index r, std::span<float> out) const noexcept { kernels::dequantize_row(W, r, out); }
};

/// A linear map as modules see it: they never know the form of the weights. A new form is a new
/// alternative here with `out`, `in`, `bytes`, `apply` and `row`.
class Linear {
 public:
  using Form = std::variant<DenseLinear, Bf16Linear, GroupedLinear>;

  Linear() = default;
  explicit Linear(Form form) : form_(std::move(form)) {}

  /// Binds `weight` [out, in], and `bias` [out] if there is one, in the scope `weights`, in the
  /// form that the user asked for, or that the checkpoint has.
  static Result<Linear> bind(const WeightScope& weights, Plan& plan, Index out, Index in,
                             bool has_bias);

  /// The `count` matrices of one tensor `weight` [count, out, in], such as the experts of a layer.
  static Result<std::vector<Linear>> bind_stack(const WeightScope& weights, Plan& plan, Index count,
                                                Index out, Index in);

  Index out() const noexcept {
    return std::visit([](const auto& form) { return form.out(); }, form_);
  }
  Index in() const noexcept {
    return std::visit([](const auto& form) { return form.in(); }, form_);
  }

  /// y = x Wᵀ + b for every row of x [rows, in]; y [rows, out] must not overlap x.
  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    std::visit(
        [&](const auto& form) {
          profile::count(form.bytes(), 2 * form.out() * form.in() * x.rows);
          form.apply(ctx, x, y);
        },
        form_);
  }

  /// Row r of W as floats [in], exactly.
  void row(Index r, std::span<float> out) const noexcept {
    std::visit([&](const auto& form) { form.row(r, out); }, form_);
  }

  /// The same matrix with that bias [out], which must outlive it.
  Linear with_bias(const float* bias) const {
    Linear result = *this;
    std::visit([&](auto& form) { form.bias = bias; }, result.form_);
    return result;
  }

  const Form& form() const noexcept { return form_; }

 private:
  Form form_;
};

}  // namespace v0_1
}  // namespace krait
