#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "decoding/exact_math.hpp"
#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr double ln2 = 0.6931471805599453;

// Keeps the surprise of the text, -log2 p of its tokens, near τ bits (Basu et al. 2020,
// arXiv:2007.14966; llama.cpp's mirostat). Version 1 keeps the k best, where k follows from μ by
// Zipf's law with the exponent of the best hundred; version 2 those of -log2 p ≤ μ. Then, with the
// surprise S of the token that was drawn, by the law behind that cut:
//
//   μ ← μ - η (S - τ), from 2 τ on.
//
// μ follows from what was drawn and from the logits, so it cannot be made again from the text. It
// changes when the text goes on: only then is it certain which token came of the last draw. So a
// draft that is thrown away leaves no trace, and drawing twice is drawing once. Tokens that were
// not drawn change nothing.
class Mirostat final : public NamedStep<Mirostat> {
 public:
  Mirostat(const SamplerOptions& o, Index vocab)
      : NamedStep(mirostat_step.name),
        version_(o.mirostat),
        tau_(o.mirostat_tau),
        eta_(o.mirostat_eta),
        vocab_(static_cast<double>(vocab)),
        mu_(2.0 * o.mirostat_tau) {
    law_.reserve(static_cast<std::size_t>(vocab));
  }
  Mirostat(const Mirostat& other)
      : NamedStep(other),
        version_(other.version_),
        tau_(other.tau_),
        eta_(other.eta_),
        vocab_(other.vocab_),
        mu_(other.mu_),
        sum_(other.sum_) {
    law_.reserve(other.law_.capacity());  // which a copied vector does not have
    law_.insert(law_.end(), other.law_.begin(), other.law_.end());
  }
  Mirostat& operator=(const Mirostat&) = delete;
  ~Mirostat() override = default;

  void observe(std::span<const Token> tokens) noexcept override {
    if (tokens.empty() || law_.empty()) return;
    const auto drawn = std::ranges::find(law_, tokens.front(), &Drawable::first);
    if (drawn != law_.end() && drawn->second > 0.0) {
      const double surprise = -log_positive(drawn->second / sum_) / ln2;
      mu_ -= eta_ * (surprise - tau_);
    }
    law_.clear();
  }

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    const double sum = candidates.total();
    candidates.keep_first(version_ == 1 ? count_by_zipf(candidates)
                                        : count_by_surprise(candidates, sum));
    law_.clear();
    sum_ = 0.0;
    for (const Candidate& c : candidates.span()) {
      law_.emplace_back(c.token, c.weight);
      sum_ += c.weight;
    }
  }

 private:
  using Drawable = std::pair<Token, double>;  // and its weight

  std::size_t count_by_surprise(Candidates& candidates, double sum) const noexcept {
    const double least = mu_ > 0.0 ? exp_nonpositive(-mu_ * ln2) * sum : sum;
    std::size_t count = 0;
    for (; count < candidates.size(); ++count) {
      candidates.sort_first(count + 1);
      if (candidates[count].weight < least) break;
    }
    return std::max<std::size_t>(1, count);
  }

  std::size_t count_by_zipf(Candidates& candidates) const noexcept {
    constexpr std::size_t most = 100;  // m of the paper and of llama.cpp
    double products = 0.0;
    double squares = 0.0;
    candidates.sort_first(std::min(most, candidates.size()));
    for (std::size_t i = 0; i + 1 < std::min(most, candidates.size()); ++i) {
      const double b = candidates[i].logit - candidates[i + 1].logit;
      if (!std::isfinite(b)) break;  // what follows is forbidden
      const double t = log_positive(static_cast<double>(i + 2) / static_cast<double>(i + 1));
      products += t * b;
      squares += t * t;
    }
    const double exponent = squares > 0.0 ? products / squares : 0.0;  // ŝ
    // ln k = (ln(ε / (1 - N^-ε)) + μ ln 2) / ŝ with ε = ŝ - 1; ε / (1 - N^-ε) is 1 / ln N at 0.
    const double epsilon = exponent - 1.0;
    const double log_vocab = log_positive(vocab_);
    double ratio = 1.0 / log_vocab;
    if (epsilon > 0.0) ratio = epsilon / (1.0 - exp_nonpositive(-epsilon * log_vocab));
    if (epsilon < 0.0) {  // numerator and denominator times N^ε
      const double power = exp_nonpositive(epsilon * log_vocab);
      ratio = epsilon * power / (power - 1.0);
    }
    const double log_base = log_positive(ratio) + mu_ * ln2;
    const double log_size = log_positive(static_cast<double>(candidates.size()));
    if (log_base <= 0.0) return 1;
    if (!(log_base < exponent * log_size)) return candidates.size();
    const double k = 1.0 / exp_nonpositive(-log_base / exponent);
    candidates.sort_first(static_cast<std::size_t>(k));
    return static_cast<std::size_t>(k);
  }

  int version_;
  double tau_;
  double eta_;
  double vocab_;
  double mu_;
  std::vector<Drawable> law_;  // behind the cut of the last draw; empty once the text went on
  double sum_ = 0.0;
};

bool mirostat_is_on(const SamplerOptions& o) { return o.mirostat != 0; }

// The name of another step that takes tokens out; empty if none is on.
std::string_view other_cut(const SamplerOptions& o) {
  for (const StepKind* kind :
       {&top_n_sigma_step, &top_k_step, &top_p_step, &min_p_step, &typical_p_step,
        &epsilon_cutoff_step, &eta_cutoff_step, &xtc_step}) {
    if (kind->is_on(o)) return kind->name;
  }
  return {};
}

Result<void> check_mirostat(const SamplerOptions& o, Index /*vocab*/) {
  if (o.mirostat < 0 || o.mirostat > 2) {
    return out_of_range("mirostat", "0, 1 or 2", o.mirostat);
  }
  if (!(o.mirostat_tau >= 0.0 && o.mirostat_tau <= 100.0)) {
    return out_of_range("mirostat tau", "a number from 0 to 100", o.mirostat_tau);
  }
  if (!(o.mirostat_eta >= 0.0 && o.mirostat_eta <= 1.0)) {
    return out_of_range("mirostat eta", "a number from 0 to 1", o.mirostat_eta);
  }
  const std::string_view other = o.mirostat != 0 ? other_cut(o) : std::string_view();
  if (other.empty()) return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[sampler] mirostat: expected no other step that takes tokens out, "
                           "found '{}'",
                           other)};
}

std::unique_ptr<SamplerStep> make_mirostat(const SamplerOptions& o, Index vocab) {
  return std::make_unique<Mirostat>(o, vocab);
}

}  // namespace

const StepKind mirostat_step = {"mirostat", mirostat_is_on, check_mirostat, make_mirostat};

}  // namespace v0_1
}  // namespace krait
