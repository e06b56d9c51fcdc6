#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

double saturate(double x) noexcept {
  constexpr double largest = std::numeric_limits<double>::max();
  return std::clamp(x, -largest, largest);
}

class Penalties final : public NamedStep<Penalties> {
 public:
  Penalties(const SamplerOptions& o, Index vocab)
      : NamedStep(penalties_step.name),
        repetition_(o.repetition_penalty),
        presence_(o.presence_penalty),
        frequency_(o.frequency_penalty),
        counts_(static_cast<std::size_t>(vocab)) {}

  void observe(std::span<const Token> tokens) noexcept override {
    for (const Token token : tokens) {
      if (token >= 0 && static_cast<std::size_t>(token) < counts_.size()) {
        ++counts_[static_cast<std::size_t>(token)];
      }
    }
  }

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const std::uint32_t count = counts_[static_cast<std::size_t>(candidates[i].token)];
      if (count == 0) continue;
      double x = candidates[i].logit;
      x = saturate(x > 0.0 ? x / repetition_ : x * repetition_);
      x = saturate(x - saturate(presence_ + saturate(frequency_ * count)));
      candidates.change_logit(i, x);
    }
  }

 private:
  double repetition_;
  double presence_;
  double frequency_;
  std::vector<std::uint32_t> counts_;  // [vocab] occurrences in the text
};

bool penalties_is_on(const SamplerOptions& o) {
  return o.repetition_penalty != 1.0 || o.presence_penalty != 0.0 || o.frequency_penalty != 0.0;
}

Result<void> check_penalties(const SamplerOptions& o, Index /*vocab*/) {
  if (!std::isfinite(o.repetition_penalty) || o.repetition_penalty <= 0.0) {
    return out_of_range("repetition penalty", "a number above 0", o.repetition_penalty);
  }
  if (!std::isfinite(o.presence_penalty)) {
    return out_of_range("presence penalty", "a finite number", o.presence_penalty);
  }
  if (!std::isfinite(o.frequency_penalty)) {
    return out_of_range("frequency penalty", "a finite number", o.frequency_penalty);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_penalties(const SamplerOptions& o, Index vocab) {
  return std::make_unique<Penalties>(o, vocab);
}

}  // namespace

const StepKind penalties_step = {"penalties", penalties_is_on, check_penalties, make_penalties};

}  // namespace v0_1
}  // namespace krait
