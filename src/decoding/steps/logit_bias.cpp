#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class LogitBias final : public NamedStep<LogitBias> {
 public:
  explicit LogitBias(const std::vector<std::pair<Token, double>>& biases)
      : NamedStep(logit_bias_step.name), biases_(biases) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    for (const auto& [token, bias] : biases_) {
      if (const auto at = candidates.find(token)) {
        candidates.change_logit(*at, add(candidates[*at].logit, bias));
      }
    }
  }

 private:
  // A sum below the range of double is its lowest number: only an infinite bias forbids.
  static double add(double logit, double bias) noexcept {
    const double sum = logit + bias;
    return std::isfinite(bias) ? std::max(sum, -std::numeric_limits<double>::max()) : bias;
  }

  std::vector<std::pair<Token, double>> biases_;
};

bool logit_bias_is_on(const SamplerOptions& o) { return !o.logit_bias.empty(); }

Result<void> check_logit_bias(const SamplerOptions& o, Index vocab) {
  for (const auto& [token, bias] : o.logit_bias) {
    if (token < 0 || token >= vocab) {
      return out_of_range("logit bias token", fmt::format("0 to {}", vocab - 1), token);
    }
    if (std::isnan(bias) || bias == std::numeric_limits<double>::infinity()) {
      return out_of_range("logit bias", "a number, or -infinity", bias);
    }
  }
  return {};
}

std::unique_ptr<SamplerStep> make_logit_bias(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<LogitBias>(o.logit_bias);
}

}  // namespace

const StepKind logit_bias_step = {"logit_bias", logit_bias_is_on, check_logit_bias,
                                  make_logit_bias};

}  // namespace v0_1
}  // namespace krait
