#include "krait/training/initial_weights.hpp"

#include <algorithm>
#include <cmath>

#include "krait/core/float_environment.hpp"
#include "training/draws.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using training::Draws;

// The inverse of softplus at a time step that is log-uniform in [0.001, 0.1].
double dt_bias(double u) {
  constexpr double ln_least = -6.907755278982137;
  constexpr double ln_ratio = 4.605170185988092;  // ln 100
  const auto exponent = static_cast<float>(ln_least + u * ln_ratio);
  const auto dt = static_cast<double>(ref::exp_of(ref::ScalarOps(), exponent));
  // ln(e^dt - 1) = ln dt + ln((e^dt - 1) / dt); the series suffices for dt ≤ 0.1
  const double tail = dt / 2.0 * (1.0 + dt / 3.0 * (1.0 + dt / 4.0 * (1.0 + dt / 5.0)));
  return static_cast<double>(exponent) + Draws::log(1.0 + tail);
}

// `taps_bound`: of a convolution's bias, whose size its number of taps decides.
float initial_value(const ModelSpec& spec, const Parameter& parameter, double taps_bound,
                    Draws& draws, Index i) {
  const std::string& path = parameter.path;
  const Shape& shape = parameter.shape;
  const Index in = shape.rank() > 0 ? shape[shape.rank() - 1] : 1;
  const auto within = [&](double bound) {
    return static_cast<float>(bound * (2.0 * draws.uniform(i) - 1.0));
  };
  if (taps_bound > 0.0) return within(taps_bound);
  if (path == spec.embedding_name + ".weight") return static_cast<float>(0.02 * draws.normal(i));
  if (path.ends_with(".A_log")) {
    const double A =
        shape.rank() == 2 ? static_cast<double>(i % in + 1) : 1.0 + 15.0 * draws.uniform(i);
    return static_cast<float>(Draws::log(A));
  }
  if (path.ends_with(".D")) return 1.0F;
  if (path.ends_with(".dt_proj.bias") || path.ends_with(".dt_bias")) {
    return static_cast<float>(dt_bias(draws.uniform(i)));
  }
  if (shape.rank() == 1) return path.ends_with(".weight") ? 1.0F : 0.0F;
  double bound = 1.0 / std::sqrt(static_cast<double>(in));
  if (path.ends_with(".out_proj.weight")) {
    bound /= std::sqrt(static_cast<double>(std::max(std::size_t{1}, spec.layers.size())));
  }
  return within(bound);
}

}  // namespace

void initial_weights(const ModelSpec& spec, const Parameters& parameters, std::uint64_t seed,
                     std::span<float> values) {
  const FloatEnvironment environment;
  std::uint32_t tensor = 0;
  for (const Parameter& parameter : parameters.all()) {
    Draws draws(seed, tensor++);
    float* to = values.data() + parameter.offset;
    double taps_bound = 0.0;
    if (parameter.path.ends_with(".conv1d.bias")) {
      const std::string conv = parameter.path.substr(0, parameter.path.size() - 4) + "weight";
      const Shape& taps = parameters.find(conv)->shape;
      taps_bound = 1.0 / std::sqrt(static_cast<double>(taps[taps.rank() - 1]));
    }
    for (Index i = 0; i < parameter.shape.size(); ++i) {
      to[i] = initial_value(spec, parameter, taps_bound, draws, i);
    }
  }
}

}  // namespace v0_1
}  // namespace krait
