#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Keeps those of at least a part of the best one's probability.
class MinP final : public NamedStep<MinP> {
 public:
  explicit MinP(double p) : NamedStep(min_p_step.name), p_(p) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    candidates.weigh();
    candidates.sort_first(1);
    const double least = p_ * candidates[0].weight;
    std::size_t count = 1;
    while (count < candidates.size()) {
      candidates.sort_first(count + 1);
      if (candidates[count].weight < least) break;
      ++count;
    }
    candidates.keep_first(count);
  }

 private:
  double p_;
};

bool min_p_is_on(const SamplerOptions& o) { return o.min_p > 0.0; }

Result<void> check_min_p(const SamplerOptions& o, Index /*vocab*/) {
  if (!(o.min_p >= 0.0 && o.min_p <= 1.0)) {
    return out_of_range("min-p", "a number from 0 to 1", o.min_p);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_min_p(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<MinP>(o.min_p);
}

}  // namespace

const StepKind min_p_step = {"min_p", min_p_is_on, check_min_p, make_min_p};

}  // namespace v0_1
}  // namespace krait
