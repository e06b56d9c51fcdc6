#include <algorithm>
#include <cmath>

#include "decoding/steps/entropy.hpp"
#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Keeps p ≥ min(epsilon, √epsilon exp(-H)), H the entropy, and always the best with those tied with
// it (Hewitt, Manning and Liang 2022, arXiv:2210.15191; transformers' EtaLogitsWarper).
class EtaCutoff final : public NamedStep<EtaCutoff> {
 public:
  explicit EtaCutoff(double epsilon) : NamedStep(eta_cutoff_step.name), epsilon_(epsilon) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    const double eta =
        std::min(epsilon_, std::sqrt(epsilon_) * exp_nonpositive(-entropy_of(candidates)));
    const double least = std::min(1.0, eta * candidates.total());  // the best one's weight is 1
    candidates.keep_if([&](const Candidate& c) { return c.weight >= least; });
  }

 private:
  double epsilon_;
};

bool eta_cutoff_is_on(const SamplerOptions& o) { return o.eta_cutoff > 0.0; }

Result<void> check_eta_cutoff(const SamplerOptions& o, Index /*vocab*/) {
  if (!(o.eta_cutoff >= 0.0 && o.eta_cutoff < 1.0)) {
    return out_of_range("eta cutoff", "a number of at least 0 and below 1", o.eta_cutoff);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_eta_cutoff(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<EtaCutoff>(o.eta_cutoff);
}

}  // namespace

const StepKind eta_cutoff_step = {"eta_cutoff", eta_cutoff_is_on, check_eta_cutoff,
                                  make_eta_cutoff};

}  // namespace v0_1
}  // namespace krait
