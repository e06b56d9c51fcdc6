#pragma once

/// \file
/// The norms in front of blocks and of the head.

#include <cstdio>
#include <string>
#include <string_view>
#include <variant>

#include "krait/kernels/norm.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// Root-mean-square norm, without bias. `kernels::rms_norm`.
struct RmsNormSpec {
  float eps = 1e-5F;  ///< added to the mean square
  friend bool operator==(const RmsNormSpec&, const RmsNormSpec&) = default;
};

/// Layer norm, with weight and bias. `kernels::layer_norm`.
struct LayerNormSpec {
  float eps = 1e-5F;  ///< added to the variance
  friend bool operator==(const LayerNormSpec&, const LayerNormSpec&) = default;
};

using NormSpec = std::variant<RmsNormSpec, LayerNormSpec>;

/// A bound norm over rows of d floats: tensors `<name>.weight` and, for a layer norm,
/// `<name>.bias`.
class Norm {
 public:
  static Result<Norm> bind(const NormSpec& spec, const WeightScope& weights, Index d) {
    Norm norm;
    norm.is_rms_ = std::holds_alternative<RmsNormSpec>(spec);
    norm.eps_ = std::visit([](const auto& s) { return s.eps; }, spec);
    KRAIT_ASSIGN_OR_RETURN(const auto weight, weights.get<float>("weight", {d}));
    norm.weight_ = weight.data();
    if (!norm.is_rms_) {
      KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {d}));
      norm.bias_ = bias.data();
    }
    return norm;
  }

  /// y = norm(x), row by row; y may be x.
  void apply(MatrixView<const float> x, MatrixView<float> y) const noexcept {
    const kernels::NormArgs args{.x = x, .weight = weight_, .bias = bias_, .eps = eps_, .y = y};
    is_rms_ ? kernels::rms_norm(args) : kernels::layer_norm(args);
  }

  std::string description() const {
    char text[48];
    std::snprintf(text, sizeof text, "%s, eps %g", is_rms_ ? "RmsNorm" : "LayerNorm",
                  static_cast<double>(eps_));
    return text;
  }

 private:
  bool is_rms_ = true;
  float eps_ = 0.0F;
  const float* weight_ = nullptr;  // [d]
  const float* bias_ = nullptr;    // [d], layer norm only
};

}  // namespace v0_1
}  // namespace krait
