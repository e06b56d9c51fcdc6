#include <algorithm>
#include <cmath>
#include <limits>

#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class Temperature final : public NamedStep<Temperature> {
 public:
  explicit Temperature(double temperature)
      : NamedStep(temperature_step.name), temperature_(temperature) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    if (temperature_ == 0.0) return candidates.keep_best();
    // Where the quotients leave the range of numbers, differences to the best are divided: close
    // to temperature 0 the others become impossible, instead of all being the largest number.
    double best = -std::numeric_limits<double>::max();
    double size = 0.0;
    for (const Candidate& candidate : candidates.span()) {
      best = std::max(best, candidate.logit);
      if (std::isfinite(candidate.logit)) size = std::max(size, std::fabs(candidate.logit));
    }
    if (std::isfinite(size / temperature_)) best = 0.0;
    candidates.change_logits([&](const Candidate& c) { return (c.logit - best) / temperature_; });
  }

 private:
  double temperature_;
};

bool is_on(const SamplerOptions& o) { return o.temperature != 1.0; }

Result<void> check(const SamplerOptions& o, Index /*vocab*/) {
  if (!std::isfinite(o.temperature) || o.temperature < 0.0) {
    return out_of_range("temperature", "a number of at least 0", o.temperature);
  }
  return {};
}

std::unique_ptr<SamplerStep> make(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<Temperature>(o.temperature);
}

}  // namespace

const StepKind temperature_step = {"temperature", is_on, check, make};

}  // namespace v0_1
}  // namespace krait
