#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "decoding/steps/steps.hpp"
#include "decoding/steps/text_window.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using Breakers = std::vector<std::vector<Token>>;  // sorted

constexpr Index longest_window = Index{1} << 20;

double power(double base, std::size_t exponent) noexcept {
  double result = 1.0;
  for (; exponent > 0; exponent /= 2, base *= base) {
    if (exponent % 2 != 0) result *= base;
  }
  return result;
}

// "Don't repeat yourself": where the last n ≥ allowed_length tokens of the text stand in it
// already, the token that followed them there loses multiplier base^(n - allowed_length). The
// longest such n counts. A sequence breaker is never part of a repetition, and one of a single
// token loses nothing (p-e-w 2024, text-generation-webui#5677; llama.cpp's dry).
class Dry final : public NamedStep<Dry> {
 public:
  Dry(const SamplerOptions& o, Index vocab)
      : NamedStep(dry_step.name),
        multiplier_(o.dry_multiplier),
        base_(o.dry_base),
        allowed_(static_cast<std::size_t>(o.dry_allowed_length)),
        text_(static_cast<std::size_t>(o.dry_penalty_last_n)),
        same_(static_cast<std::size_t>(o.dry_penalty_last_n)),
        repeated_(static_cast<std::size_t>(vocab)) {
    Breakers breakers = o.dry_sequence_breakers;
    std::ranges::sort(breakers);
    breakers_ = std::make_shared<const Breakers>(std::move(breakers));
  }

  void observe(std::span<const Token> tokens) noexcept override { text_.observe(tokens); }

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    const std::size_t limit = unbroken();
    if (limit < allowed_) return;
    find_repetitions();
    for (std::size_t k = 1; k < text_.size(); ++k) {
      const std::size_t length = std::min(same_[k], limit);
      const auto next = static_cast<std::size_t>(text_.back(k - 1));
      if (length < allowed_ || next >= repeated_.size()) continue;
      repeated_[next] = std::max(repeated_[next], static_cast<std::uint32_t>(length));
    }
    for (std::size_t k = 1; k < text_.size(); ++k) {
      const Token next = text_.back(k - 1);
      if (static_cast<std::size_t>(next) >= repeated_.size()) continue;
      std::uint32_t& length = repeated_[static_cast<std::size_t>(next)];
      if (length > 0) penalise(candidates, next, length);
      length = 0;
    }
  }

 private:
  // The sequences that begin with a token; the shortest is the first.
  std::span<const std::vector<Token>> beginning_with(Token token) const noexcept {
    const auto first = std::lower_bound(
        breakers_->begin(), breakers_->end(), token,
        [](const std::vector<Token>& breaker, Token wanted) { return breaker.front() < wanted; });
    const auto last = std::upper_bound(
        first, breakers_->end(), token,
        [](Token wanted, const std::vector<Token>& breaker) { return wanted < breaker.front(); });
    return {first, last};
  }

  // How many tokens stand behind the last sequence breaker in the window.
  std::size_t unbroken() const noexcept {
    for (std::size_t i = 0; i < text_.size(); ++i) {
      std::size_t longest = 0;
      for (const std::vector<Token>& breaker : beginning_with(text_.back(i))) {
        if (breaker.size() > i + 1 || breaker.size() < longest) continue;
        bool is_here = true;
        for (std::size_t j = 1; j < breaker.size() && is_here; ++j) {
          is_here = breaker[j] == text_.back(i - j);
        }
        if (is_here) longest = breaker.size();
      }
      if (longest > 0) return i + 1 - longest;
    }
    return text_.size();
  }

  // same_[k]: how many tokens in front of, and with, the k-th last are the same as those in front
  // of, and with, the last. The Z algorithm on the window read backwards: linear in its size.
  void find_repetitions() noexcept {
    const std::size_t n = text_.size();
    std::size_t left = 0;
    std::size_t right = 0;  // [left, right) is the match that reaches furthest
    for (std::size_t k = 1; k < n; ++k) {
      std::size_t z = k < right ? std::min(same_[k - left], right - k) : 0;
      while (k + z < n && text_.back(z) == text_.back(k + z)) ++z;
      same_[k] = z;
      if (k + z <= right) continue;
      left = k;
      right = k + z;
    }
  }

  void penalise(Candidates& candidates, Token token, std::size_t length) const noexcept {
    constexpr double largest = std::numeric_limits<double>::max();
    const auto at = candidates.find(token);
    if (!at) return;
    for (const std::vector<Token>& breaker : beginning_with(token)) {
      if (breaker.size() == 1) return;
    }
    const double penalty = std::min(largest, multiplier_ * power(base_, length - allowed_));
    candidates.change_logit(*at, std::max(-largest, candidates[*at].logit - penalty));
  }

  double multiplier_;
  double base_;
  std::size_t allowed_;
  std::shared_ptr<const Breakers> breakers_;
  TextWindow text_;
  std::vector<std::size_t> same_;        // [window]
  std::vector<std::uint32_t> repeated_;  // [vocab], 0 between calls
};

bool dry_is_on(const SamplerOptions& o) { return o.dry_multiplier > 0.0; }

Result<void> check_dry(const SamplerOptions& o, Index vocab) {
  if (!std::isfinite(o.dry_multiplier) || o.dry_multiplier < 0.0) {
    return out_of_range("dry multiplier", "a number of at least 0", o.dry_multiplier);
  }
  if (!std::isfinite(o.dry_base) || o.dry_base < 1.0) {
    return out_of_range("dry base", "a number of at least 1", o.dry_base);
  }
  for (const auto& [what, value] : {std::pair("dry allowed length", o.dry_allowed_length),
                                    {"dry penalty last n", o.dry_penalty_last_n}}) {
    if (value >= 1 && value <= longest_window) continue;
    return out_of_range(what, fmt::format("a number from 1 to {}", longest_window),
                        static_cast<double>(value));
  }
  for (const std::vector<Token>& breaker : o.dry_sequence_breakers) {
    if (breaker.empty()) {
      return Error{ErrorCode::bad_argument,
                   "[sampler] dry sequence breakers: expected at least one token in each, found "
                   "none"};
    }
    for (const Token token : breaker) {
      if (token >= 0 && token < vocab) continue;
      return out_of_range("dry sequence breakers", fmt::format("tokens from 0 to {}", vocab - 1),
                          token);
    }
  }
  return {};
}

std::unique_ptr<SamplerStep> make_dry(const SamplerOptions& o, Index vocab) {
  return std::make_unique<Dry>(o, vocab);
}

}  // namespace

const StepKind dry_step = {"dry", dry_is_on, check_dry, make_dry};

}  // namespace v0_1
}  // namespace krait
