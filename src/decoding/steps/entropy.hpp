#pragma once

#include <algorithm>
#include <limits>

#include "decoding/exact_math.hpp"
#include "krait/decoding/candidates.hpp"

namespace krait {
inline namespace v0_1 {

/// -Σ p ln p of the candidates, in nats. Summed as they stand, in the order that `total` leaves.
inline double entropy_of(Candidates& candidates) noexcept {
  const double sum = candidates.total();
  const double log_sum = log_positive(sum);
  double largest = -std::numeric_limits<double>::infinity();
  for (const Candidate& c : candidates.span()) largest = std::max(largest, c.logit);
  double entropy = 0.0;
  for (const Candidate& c : candidates.span()) {
    if (c.weight > 0.0) entropy += c.weight / sum * (log_sum - (c.logit - largest));
  }
  return std::max(0.0, entropy);  // which rounding may leave below 0
}

}  // namespace v0_1
}  // namespace krait
