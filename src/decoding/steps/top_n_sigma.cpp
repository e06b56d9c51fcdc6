#include <algorithm>
#include <cmath>
#include <limits>

#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Keeps the tokens whose logit is at least max - n σ, where σ is the standard deviation of all
// logits (Tang et al. 2024, arXiv:2411.07641; llama.cpp's top_n_sigma). Dividing the logits by a
// temperature changes nothing in what is kept.
class TopNSigma final : public NamedStep<TopNSigma> {
 public:
  explicit TopNSigma(double n) : NamedStep(top_n_sigma_step.name), n_(n) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    candidates.total();  // which settles the order in which the sums run
    double largest = -std::numeric_limits<double>::infinity();
    double sum = 0.0;
    double count = 0.0;
    for (const Candidate& c : candidates.span()) {
      if (!std::isfinite(c.logit)) continue;  // forbidden
      largest = std::max(largest, c.logit);
      sum += c.logit;
      count += 1.0;
    }
    const double mean = sum / count;
    double squares = 0.0;
    for (const Candidate& c : candidates.span()) {
      if (std::isfinite(c.logit)) squares += (c.logit - mean) * (c.logit - mean);
    }
    // Beyond the range of double the deviation is no number, and nothing is taken out.
    const double least = largest - n_ * std::sqrt(squares / count);
    candidates.keep_if([&](const Candidate& c) { return !(c.logit < least); });
  }

 private:
  double n_;
};

bool top_n_sigma_is_on(const SamplerOptions& o) { return o.top_n_sigma > 0.0; }

Result<void> check_top_n_sigma(const SamplerOptions& o, Index /*vocab*/) {
  if (!std::isfinite(o.top_n_sigma) || o.top_n_sigma < 0.0) {
    return out_of_range("top-n-sigma", "a number of at least 0", o.top_n_sigma);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_top_n_sigma(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<TopNSigma>(o.top_n_sigma);
}

}  // namespace

const StepKind top_n_sigma_step = {"top_n_sigma", top_n_sigma_is_on, check_top_n_sigma,
                                   make_top_n_sigma};

}  // namespace v0_1
}  // namespace krait
