#pragma once

/// \file
/// Exact rejection: a token that was drawn from one law becomes one of another.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "krait/core/rng.hpp"
#include "krait/decoding/draft.hpp"
#include "krait/decoding/sampler.hpp"

namespace krait {
inline namespace v0_1 {

/// What became of a guess.
template <class Law>
struct Reviewed {
  Token token = 0;  ///< the guess, or what stands in its place
  Law law;          ///< the law of `token`: p, if the review was not lenient
  bool is_accepted = false;
};

/// Reviews a guess that was drawn from q, for a text whose next token has the law p, with a
/// lenience of at least 1 (1: exact; never anything else where p is the target's law).
///
/// The choices are those of `oracle`: accepts(a, b) is true with probability min(1, a / b), and
/// never for a = 0; pick(weights) is one of the tokens, with a probability in proportion to its
/// weight. So a test can go through all choices, with numbers that are exact. `Law` is like
/// TokenLaw.
template <class Law, class Oracle>
Reviewed<Law> review_guess(const Law& p, Token guess, const Law& q,
                           const typename Law::Number& lenience, Oracle& oracle) {
  using Number = typename Law::Number;
  const Number zero(0);
  const Number one(1);
  // What p, taken for `lenience` times as much, has more than q: all that is missing where a guess
  // is refused.
  std::vector<std::pair<Token, Number>> missing;
  Number missing_sum = zero;
  p.for_each([&](Token token, const Number& probability) {
    const Number more = lenience * probability - q(token);
    if (!(more > zero)) return;
    missing.emplace_back(token, more);
    missing_sum = missing_sum + more;
  });
  Reviewed<Law> reviewed;
  reviewed.is_accepted = oracle.accepts(lenience * p(guess), q(guess));
  if (reviewed.is_accepted) {
    reviewed.token = guess;
  } else {
    // Nothing is missing only where rounding made it so: p and q are the same then.
    if (missing.empty()) {
      p.for_each([&](Token token, const Number& probability) {
        if (probability > zero) missing.emplace_back(token, probability);
      });
    }
    reviewed.token = oracle.pick(missing);
  }
  if (lenience == one) {
    reviewed.law = p;
    return reviewed;
  }
  Number accepted_sum = zero;
  q.for_each([&](Token token, const Number& probability) {
    accepted_sum = accepted_sum + std::min(probability, lenience * p(token));
  });
  std::vector<std::pair<Token, Number>> law;
  p.for_each([&](Token token, const Number& probability) {
    const Number kept = std::min(q(token), lenience * probability);
    const Number more = lenience * probability - q(token);
    Number total = kept;
    if (more > zero && missing_sum > zero) {
      total = total + (one - accepted_sum) * (more / missing_sum);
    }
    if (total > zero) law.emplace_back(token, total);
  });
  reviewed.law = Law::sparse(std::move(law));
  return reviewed;
}

/// The choices of a keyed sampler: a pure function of seed, sequence, position and level. What one
/// level draws is independent of what another does, and of the sampler's own draw.
class KeyedOracle {
 public:
  /// Level 0 is the target.
  KeyedOracle(const SamplerOptions& sampler, Index position, Index level) noexcept
      : at_{.seed = sampler.seed,
            .sequence = sampler.sequence,
            .position = static_cast<std::uint64_t>(position),
            .draw = static_cast<std::uint32_t>(2 * level + 1)} {}

  bool accepts(double p, double q) const noexcept { return random_uniform(at_) * q < p; }

  Token pick(const std::vector<std::pair<Token, double>>& weights) const noexcept {
    RandomCounter at = at_;
    at.draw += 1;
    double sum = 0.0;
    for (const auto& weight : weights) sum += weight.second;
    const double target = random_uniform(at) * sum;
    sum = 0.0;
    for (const auto& weight : weights) {
      sum += weight.second;
      if (sum > target) return weight.first;
    }
    return weights.back().first;  // where rounding kept the sum below the target
  }

  Token pick(const TokenLaw& law) const {
    std::vector<std::pair<Token, double>> weights;
    law.for_each([&](Token token, double probability) {
      if (probability > 0.0) weights.emplace_back(token, probability);
    });
    return pick(weights);
  }

 private:
  RandomCounter at_;
};

}  // namespace v0_1
}  // namespace krait
