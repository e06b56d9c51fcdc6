#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class TopK final : public NamedStep<TopK> {
 public:
  explicit TopK(Index k) : NamedStep(top_k_step.name), k_(static_cast<std::size_t>(k)) {}

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    if (k_ >= candidates.size()) return;
    std::size_t count = k_;
    for (;; ++count) {  // those tied with the last stay, as in Hugging Face's filter
      candidates.sort_first(count + 1);
      if (count == candidates.size()) break;
      if (candidates[count].logit < candidates[k_ - 1].logit) break;
    }
    candidates.keep_first(count);
  }

 private:
  std::size_t k_;
};

bool top_k_is_on(const SamplerOptions& o) { return o.top_k != 0; }

Result<void> check_top_k(const SamplerOptions& o, Index /*vocab*/) {
  if (o.top_k < 0) {
    return out_of_range("top-k", "a number of at least 0", static_cast<double>(o.top_k));
  }
  return {};
}

std::unique_ptr<SamplerStep> make_top_k(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<TopK>(o.top_k);
}

}  // namespace

const StepKind top_k_step = {"top_k", top_k_is_on, check_top_k, make_top_k};

}  // namespace v0_1
}  // namespace krait
