#include "krait/modules/norms.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <variant>

#include "krait/modules/block_spec.hpp"

namespace krait {
inline namespace v0_1 {

Result<void> validate(std::string_view what, const NormSpec& spec) {
  const float eps = std::visit([](const auto& kind) { return kind.eps; }, spec);
  if (!std::isfinite(eps) || eps < 0.0F) {
    return bad_spec(fmt::format("{} eps", what), "a finite number of at least 0",
                    fmt::to_string(eps));
  }
  return {};
}

std::string to_string(const NormSpec& spec) {
  const bool is_rms = std::holds_alternative<RmsNormSpec>(spec);
  const float eps = std::visit([](const auto& kind) { return kind.eps; }, spec);
  return fmt::format("{} eps {}", is_rms ? "RmsNorm" : "LayerNorm", eps);
}

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
