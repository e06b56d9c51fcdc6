#include <algorithm>
#include <cmath>
#include <limits>

#include "decoding/steps/entropy.hpp"
#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

void divide(Candidates& candidates, double temperature) noexcept {
  if (temperature == 0.0) return candidates.keep_best();
  // Where the quotients leave the range of numbers, differences to the best are divided: close
  // to temperature 0 the others become impossible, instead of all being the largest number.
  double best = -std::numeric_limits<double>::max();
  double size = 0.0;
  for (const Candidate& candidate : candidates.span()) {
    best = std::max(best, candidate.logit);
    if (std::isfinite(candidate.logit)) size = std::max(size, std::fabs(candidate.logit));
  }
  if (std::isfinite(size / temperature)) best = 0.0;
  candidates.change_logits([&](const Candidate& c) { return (c.logit - best) / temperature; });
}

class Temperature final : public NamedStep<Temperature> {
 public:
  explicit Temperature(double temperature)
      : NamedStep(temperature_step.name), temperature_(temperature) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    divide(candidates, temperature_);
  }

 private:
  double temperature_;
};

// Dynamic temperature: from max(0, t - range) where one token is certain to t + range where all are
// alike, by (H / ln n)^exponent, H the entropy of the n candidates (kalomaze 2023,
// koboldcpp "DynaTemp"; llama.cpp's dynatemp_range and dynatemp_exponent).
class DynamicTemperature final : public NamedStep<DynamicTemperature> {
 public:
  DynamicTemperature(double temperature, double range, double exponent)
      : NamedStep(temperature_step.name),
        least_(std::max(0.0, temperature - range)),
        most_(std::min(std::numeric_limits<double>::max(), temperature + range)),
        exponent_(exponent) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    if (candidates.size() < 2) return;
    const double part = std::min(
        1.0, entropy_of(candidates) / log_positive(static_cast<double>(candidates.size())));
    divide(candidates, least_ + (most_ - least_) * power(part));
  }

 private:
  double power(double x) const noexcept {
    if (exponent_ == 0.0) return 1.0;
    return x < std::numeric_limits<double>::min() ? 0.0
                                                  : exp_nonpositive(exponent_ * log_positive(x));
  }

  double least_;
  double most_;
  double exponent_;
};

bool temperature_is_on(const SamplerOptions& o) {
  return o.temperature != 1.0 || o.dynatemp_range != 0.0;
}

Result<void> check_temperature(const SamplerOptions& o, Index /*vocab*/) {
  if (!std::isfinite(o.temperature) || o.temperature < 0.0) {
    return out_of_range("temperature", "a number of at least 0", o.temperature);
  }
  if (!std::isfinite(o.dynatemp_range) || o.dynatemp_range < 0.0) {
    return out_of_range("dynatemp range", "a number of at least 0", o.dynatemp_range);
  }
  if (!std::isfinite(o.dynatemp_exponent) || o.dynatemp_exponent < 0.0) {
    return out_of_range("dynatemp exponent", "a number of at least 0", o.dynatemp_exponent);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_temperature(const SamplerOptions& o, Index /*vocab*/) {
  if (o.dynatemp_range == 0.0) return std::make_unique<Temperature>(o.temperature);
  return std::make_unique<DynamicTemperature>(o.temperature, o.dynatemp_range, o.dynatemp_exponent);
}

}  // namespace

const StepKind temperature_step = {"temperature", temperature_is_on, check_temperature,
                                   make_temperature};

}  // namespace v0_1
}  // namespace krait
