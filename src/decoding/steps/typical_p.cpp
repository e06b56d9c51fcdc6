#include <algorithm>
#include <cmath>

#include "decoding/exact_math.hpp"
#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Keeps the candidates whose information is closest to the entropy until they reach p, and those
// tied with the last of them.
class TypicalP final : public NamedStep<TypicalP> {
 public:
  explicit TypicalP(double p) : NamedStep(typical_p_step.name), p_(p) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    candidates.weigh();
    candidates.sort_first(candidates.size());
    const double sum = candidates.total();
    const double log_sum = log_positive(sum);
    const double largest = candidates[0].logit;
    double entropy = 0.0;
    for (const Candidate& c : candidates.span()) {
      if (c.weight > 0.0) entropy += c.weight / sum * (log_sum - (c.logit - largest));
    }
    const auto distance = [&](const Candidate& c) {
      return std::fabs(log_sum - (c.logit - largest) - entropy);
    };
    const auto closer = [&](const Candidate& a, const Candidate& b) {
      const double da = distance(a);
      const double db = distance(b);
      return da < db || (da == db && a.token < b.token);
    };
    std::size_t sorted = 0;  // as for the logits, no more is sorted than is looked at
    const auto nth_closest = [&](std::size_t n) -> const Candidate& {
      if (n >= sorted) {
        const std::size_t more = std::max<std::size_t>(64, 3 * sorted);
        candidates.sort_from(sorted, more, closer);
        sorted += more;
      }
      return candidates[n];
    };
    double reached = 0.0;
    std::size_t count = 0;
    while (count < candidates.size() && reached < p_ * sum) reached += nth_closest(count++).weight;
    while (count < candidates.size() && count > 0 &&
           distance(nth_closest(count)) == distance(candidates[count - 1])) {
      ++count;
    }
    candidates.keep_first(count);
  }

 private:
  double p_;
};

bool typical_p_is_on(const SamplerOptions& o) { return o.typical_p < 1.0; }

Result<void> check_typical_p(const SamplerOptions& o, Index /*vocab*/) {
  if (!(o.typical_p > 0.0 && o.typical_p <= 1.0)) {
    return out_of_range("typical-p", "a number above 0 and at most 1", o.typical_p);
  }
  return {};
}

std::unique_ptr<SamplerStep> make_typical_p(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<TypicalP>(o.typical_p);
}

}  // namespace

const StepKind typical_p_step = {"typical_p", typical_p_is_on, check_typical_p, make_typical_p};

}  // namespace v0_1
}  // namespace krait
