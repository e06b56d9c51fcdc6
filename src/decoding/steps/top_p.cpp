#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Keeps the shortest descending prefix whose probability reaches p.
class TopP final : public NamedStep<TopP> {
 public:
  explicit TopP(double p) : NamedStep(top_p_step.name), p_(p) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    const double enough = p_ * candidates.total();
    double sum = 0.0;
    std::size_t count = 0;
    while (count < candidates.size() && sum < enough) {
      candidates.sort_first(count + 1);
      sum += candidates[count++].weight;
    }
    candidates.keep_first(count);
  }

 private:
  double p_;
};

bool top_p_is_on(const SamplerOptions& o) { return o.top_p < 1.0; }

Result<void> check_top_p(const SamplerOptions& o, Index /*vocab*/) {
  if (!(o.top_p > 0.0 && o.top_p <= 1.0)) {
    return out_of_range("top-p", "a number above 0 and at most 1", o.top_p);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_top_p(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<TopP>(o.top_p);
}

}  // namespace

const StepKind top_p_step = {"top_p", top_p_is_on, check_top_p, make_top_p};

}  // namespace v0_1
}  // namespace krait
