#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// "Exclude top choices": with a probability, takes out all tokens of p ≥ threshold but the least
// probable of them, so that a sensible but less obvious token is drawn (p-e-w 2024,
// text-generation-webui#6335; llama.cpp's xtc). Above a threshold of 1/2 there is nothing to take
// out.
class Xtc final : public NamedStep<Xtc> {
 public:
  Xtc(double probability, double threshold)
      : NamedStep(xtc_step.name), probability_(probability), threshold_(threshold) {}

  void apply(Candidates& candidates, const SamplerContext& context) noexcept override {
    if (context.uniform(number) >= probability_) return;
    const double least = threshold_ * candidates.total();
    std::size_t top = 0;
    for (; top < candidates.size(); ++top) {
      candidates.sort_first(top + 1);
      if (candidates[top].weight < least) break;
    }
    if (top < 2) return;
    std::size_t i = 0;
    candidates.keep_if([&](const Candidate&) { return ++i >= top; });
  }

 private:
  static constexpr std::uint32_t number = 0x7FFF;  // far from those that applications count up from

  double probability_;
  double threshold_;
};

bool xtc_is_on(const SamplerOptions& o) { return o.xtc_probability > 0.0; }

Result<void> check_xtc(const SamplerOptions& o, Index /*vocab*/) {
  if (!(o.xtc_probability >= 0.0 && o.xtc_probability <= 1.0)) {
    return out_of_range("xtc probability", "a number from 0 to 1", o.xtc_probability);
  }
  if (!(o.xtc_threshold > 0.0 && o.xtc_threshold <= 1.0)) {
    return out_of_range("xtc threshold", "a number above 0 and at most 1", o.xtc_threshold);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_xtc(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<Xtc>(o.xtc_probability, o.xtc_threshold);
}

}  // namespace

const StepKind xtc_step = {"xtc", xtc_is_on, check_xtc, make_xtc};

}  // namespace v0_1
}  // namespace krait
