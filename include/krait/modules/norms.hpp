#pragma once

/// \file
/// The norms in front of blocks and of the head.

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

/// Whether eps is finite and at least 0. Errors: bad_config, naming the norm by `what`.
KRAIT_API Result<void> validate(std::string_view what, const NormSpec& spec);

/// "RmsNorm eps 1e-05". Fingerprints of models contain it.
KRAIT_API std::string to_string(const NormSpec& spec);

/// A bound norm over rows of d floats: tensors `<name>.weight` and, for a layer norm,
/// `<name>.bias`.
class Norm {
 public:
  KRAIT_API static Result<Norm> bind(const NormSpec& spec, const WeightScope& weights, Index d);

  /// y = norm(x), row by row; y may be x.
  void apply(MatrixView<const float> x, MatrixView<float> y) const noexcept {
    const kernels::NormArgs args{.x = x, .weight = weight_, .bias = bias_, .eps = eps_, .y = y};
    is_rms_ ? kernels::rms_norm(args) : kernels::layer_norm(args);
  }

  KRAIT_API std::string description() const;

 private:
  bool is_rms_ = true;
  float eps_ = 0.0F;
  const float* weight_ = nullptr;  // [d]
  const float* bias_ = nullptr;    // [d], layer norm only
};

}  // namespace v0_1
}  // namespace krait
