#include "krait/decoding/sampler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "decoding/exact_math.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/core/rng.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error out_of_range(std::string_view what, std::string_view expected, double found) {
  return {ErrorCode::bad_argument,
          fmt::format("[sampler] {}: expected {}, found {}", what, expected, found)};
}

constexpr double largest_number = std::numeric_limits<double>::max();

double saturate(double x) noexcept { return std::clamp(x, -largest_number, largest_number); }

}  // namespace

Result<void> validate(const SamplerOptions& o, Index vocab) {
  const auto finite = [](double x) { return std::isfinite(x); };
  if (!finite(o.repetition_penalty) || o.repetition_penalty <= 0.0) {
    return out_of_range("repetition penalty", "a number above 0", o.repetition_penalty);
  }
  if (!finite(o.presence_penalty)) {
    return out_of_range("presence penalty", "a finite number", o.presence_penalty);
  }
  if (!finite(o.frequency_penalty)) {
    return out_of_range("frequency penalty", "a finite number", o.frequency_penalty);
  }
  if (!finite(o.temperature) || o.temperature < 0.0) {
    return out_of_range("temperature", "a number of at least 0", o.temperature);
  }
  if (o.top_k < 0) {
    return out_of_range("top-k", "a number of at least 0", static_cast<double>(o.top_k));
  }
  if (!(o.top_p > 0.0 && o.top_p <= 1.0)) {
    return out_of_range("top-p", "a number above 0 and at most 1", o.top_p);
  }
  if (!(o.min_p >= 0.0 && o.min_p <= 1.0)) {
    return out_of_range("min-p", "a number from 0 to 1", o.min_p);
  }
  if (!(o.typical_p > 0.0 && o.typical_p <= 1.0)) {
    return out_of_range("typical-p", "a number above 0 and at most 1", o.typical_p);
  }
  for (const auto& [token, bias] : o.logit_bias) {
    if (token < 0 || token >= vocab) {
      return out_of_range("logit bias token", fmt::format("0 to {}", vocab - 1), token);
    }
    if (std::isnan(bias) || bias == std::numeric_limits<double>::infinity()) {
      return out_of_range("logit bias", "a number, or -infinity", bias);
    }
  }
  return {};
}

Result<Sampler> Sampler::make(const SamplerOptions& options, Index vocab) {
  if (vocab < 1) {
    return out_of_range("vocabulary", "at least 1 token", static_cast<double>(vocab));
  }
  KRAIT_RETURN_IF_ERROR(validate(options, vocab));
  Sampler sampler;
  sampler.options_ = options;
  sampler.candidates_.resize(static_cast<std::size_t>(vocab));
  if (options.repetition_penalty != 1.0 || options.presence_penalty != 0.0 ||
      options.frequency_penalty != 0.0) {
    sampler.counts_.resize(static_cast<std::size_t>(vocab));
  }
  return sampler;
}

void Sampler::observe(std::span<const Token> tokens) noexcept {
  for (const Token token : tokens) {
    if (token >= 0 && static_cast<std::size_t>(token) < counts_.size()) {
      ++counts_[static_cast<std::size_t>(token)];
    }
  }
}

// Penalties, bias and temperature. Leaves all candidates in order of their ids, with logits that
// are finite, or -infinity for tokens that are forbidden: those stay so, whatever is added.
void Sampler::adjust(std::span<const float> logits) noexcept {
  constexpr double forbidden = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    double x = std::isnan(logits[i]) ? forbidden : std::min<double>(logits[i], largest_number);
    if (!counts_.empty() && counts_[i] > 0 && x != forbidden) {
      x = saturate(x > 0.0 ? x / options_.repetition_penalty : x * options_.repetition_penalty);
      x = saturate(x - saturate(options_.presence_penalty +
                                saturate(options_.frequency_penalty * counts_[i])));
    }
    candidates_[i] = {x, 0.0, static_cast<Token>(i)};
  }
  for (const auto& [token, bias] : options_.logit_bias) {
    double& x = candidates_[static_cast<std::size_t>(token)].logit;
    x = x == forbidden || bias == forbidden ? forbidden : saturate(x + bias);
  }
  if (options_.temperature > 0.0) divide(options_.temperature);
  kept_ = candidates_.size();
  sorted_ = 0;
}

// Logits over the temperature. Where that leaves the range of numbers, over differences to the
// best: close to temperature 0 the others become impossible, instead of all being the largest
// number.
void Sampler::divide(double temperature) noexcept {
  double best = -largest_number;
  double size = 0.0;
  for (const Candidate& candidate : candidates_) {
    best = std::max(best, candidate.logit);
    if (std::isfinite(candidate.logit)) size = std::max(size, std::fabs(candidate.logit));
  }
  if (std::isfinite(size / temperature)) best = 0.0;
  for (Candidate& candidate : candidates_) {
    candidate.logit = (candidate.logit - best) / temperature;
  }
}

// Brings the `count` best to the front, in order. Only as much is sorted as is looked at: a draw
// usually needs a few dozen of a large vocabulary.
void Sampler::sort_first(std::size_t count) noexcept {
  count = std::min(count, kept_);
  if (count <= sorted_) return;
  count = std::min(kept_, std::max(count, 2 * sorted_));
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted_);
  const auto middle = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept_);
  if (middle != end) std::nth_element(begin, middle, end, before);
  std::sort(begin, middle, before);
  sorted_ = count;
}

void Sampler::keep_first(std::size_t count) noexcept {
  kept_ = std::max<std::size_t>(1, count);
  sorted_ = std::min(sorted_, kept_);
}

void Sampler::weigh() noexcept {
  double largest = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kept_; ++i) largest = std::max(largest, candidates_[i].logit);
  const bool is_all_forbidden = largest < -largest_number;  // then one is as good as another
  for (std::size_t i = 0; i < kept_; ++i) {
    if (is_all_forbidden) candidates_[i].logit = largest = 0.0;
    candidates_[i].weight = exp_nonpositive(candidates_[i].logit - largest);
  }
}

// Sum of the weights. Candidates are in the order of their ids as long as nothing was sorted, and
// afterwards completely sorted wherever a sum is taken; so the order is defined either way.
double Sampler::total() const noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < kept_; ++i) sum += candidates_[i].weight;
  return sum;
}

void Sampler::apply_top_k() noexcept {
  const auto k = static_cast<std::size_t>(options_.top_k);
  if (k == 0 || k >= kept_) return;
  sort_first(k);
  std::size_t count = k;
  for (;;) {  // those tied with the last stay, as in Hugging Face's filter
    sort_first(count + 1);
    if (count == kept_ || candidates_[count].logit < candidates_[k - 1].logit) break;
    ++count;
  }
  keep_first(count);
}

// Keeps the shortest descending prefix whose probability reaches p.
void Sampler::apply_top_p() noexcept {
  if (options_.top_p >= 1.0) return;
  const double enough = options_.top_p * total();
  double sum = 0.0;
  std::size_t count = 0;
  while (count < kept_ && sum < enough) {
    sort_first(count + 1);
    sum += candidates_[count++].weight;
  }
  keep_first(count);
}

void Sampler::apply_min_p() noexcept {
  if (options_.min_p <= 0.0) return;
  sort_first(1);
  const double least = options_.min_p * candidates_[0].weight;
  std::size_t count = 1;
  while (count < kept_) {
    sort_first(count + 1);
    if (candidates_[count].weight < least) break;
    ++count;
  }
  keep_first(count);
}

// Keeps the candidates whose information is closest to the entropy until they reach p, and those
// tied with the last of them.
void Sampler::apply_typical() noexcept {
  if (options_.typical_p >= 1.0) return;
  sort_first(kept_);
  const double sum = total();
  const double log_sum = log_positive(sum);
  const double largest = candidates_[0].logit;
  double entropy = 0.0;
  for (std::size_t i = 0; i < kept_; ++i) {
    if (candidates_[i].weight > 0.0) {
      entropy += candidates_[i].weight / sum * (log_sum - (candidates_[i].logit - largest));
    }
  }
  // `logit` makes room for the distance, negated so that `before` orders by it; the weights stay.
  const auto distance = [&](const Candidate& c) {
    return std::fabs(log_sum - (c.logit - largest) - entropy);
  };
  for (std::size_t i = 0; i < kept_; ++i) candidates_[i].logit = -distance(candidates_[i]);
  std::sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept_), before);
  double reached = 0.0;
  std::size_t count = 0;
  while (count < kept_ && reached < options_.typical_p * sum)
    reached += candidates_[count++].weight;
  while (count < kept_ && count > 0 && candidates_[count].logit == candidates_[count - 1].logit) {
    ++count;
  }
  keep_first(count);
  sorted_ = kept_;
}

Token Sampler::sample(std::span<const float> logits, Index position) noexcept {
  const FloatEnvironment environment;
  logits = logits.first(candidates_.size());
  if (options_.greedy) return static_cast<Token>(kernels::argmax(logits));
  adjust(logits);
  if (options_.temperature == 0.0) {
    return std::min_element(candidates_.begin(), candidates_.end(), before)->token;
  }
  apply_top_k();
  weigh();
  apply_top_p();
  apply_min_p();
  apply_typical();

  const double u = random_uniform({.seed = options_.seed,
                                   .sequence = options_.sequence,
                                   .position = static_cast<std::uint64_t>(position)});
  const double target = u * total();
  double sum = 0.0;
  Token last = candidates_[0].token;
  for (std::size_t i = 0; i < kept_; ++i) {
    sort_first(i + 1);
    if (candidates_[i].weight <= 0.0) break;
    last = candidates_[i].token;
    sum += candidates_[i].weight;
    if (sum > target) break;
  }
  return last;  // where rounding kept the sum below the target, the least probable token
}

}  // namespace v0_1
}  // namespace krait
