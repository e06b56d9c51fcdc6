#include <algorithm>

#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Keeps p ≥ epsilon, and always the best with those tied with it (Hewitt, Manning and Liang 2022,
// arXiv:2210.15191; transformers' EpsilonLogitsWarper).
class EpsilonCutoff final : public NamedStep<EpsilonCutoff> {
 public:
  explicit EpsilonCutoff(double epsilon) : NamedStep(epsilon_cutoff_step.name), epsilon_(epsilon) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    const double least =
        std::min(1.0, epsilon_ * candidates.total());  // the best one's weight is 1
    candidates.keep_if([&](const Candidate& c) { return c.weight >= least; });
  }

 private:
  double epsilon_;
};

bool epsilon_cutoff_is_on(const SamplerOptions& o) { return o.epsilon_cutoff > 0.0; }

Result<void> check_epsilon_cutoff(const SamplerOptions& o, Index /*vocab*/) {
  if (!(o.epsilon_cutoff >= 0.0 && o.epsilon_cutoff < 1.0)) {
    return out_of_range("epsilon cutoff", "a number of at least 0 and below 1", o.epsilon_cutoff);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_epsilon_cutoff(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<EpsilonCutoff>(o.epsilon_cutoff);
}

}  // namespace

const StepKind epsilon_cutoff_step = {"epsilon_cutoff", epsilon_cutoff_is_on, check_epsilon_cutoff,
                                      make_epsilon_cutoff};

}  // namespace v0_1
}  // namespace krait
