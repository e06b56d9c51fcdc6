#include "krait/modules/norms.hpp"

#include <cstdio>
#include <string>
#include <variant>

namespace krait {
inline namespace v0_1 {

Result<Norm> Norm::bind(const NormSpec& spec, const WeightScope& weights, Index d) {
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

std::string Norm::description() const {
  char text[48];
  std::snprintf(text, sizeof text, "%s, eps %g", is_rms_ ? "RmsNorm" : "LayerNorm",
                static_cast<double>(eps_));
  return text;
}

}  // namespace v0_1
}  // namespace krait
