#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

namespace krait {
inline namespace v0_1 {

// ln Σ exp(x)
inline double log_sum_exp(std::span<const float> x) noexcept {
  const double largest = static_cast<double>(*std::max_element(x.begin(), x.end()));
  double sum = 0.0;
  for (const float value : x) sum += std::exp(static_cast<double>(value) - largest);
  return largest + std::log(sum);
}

// Σ p (ln p − ln q) of two rows of logits.
inline double divergence(std::span<const float> p_logits,
                         std::span<const float> q_logits) noexcept {
  const double p_sum = log_sum_exp(p_logits);
  const double q_sum = log_sum_exp(q_logits);
  double result = 0.0;
  for (std::size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = static_cast<double>(p_logits[i]) - p_sum;
    const double log_q = static_cast<double>(q_logits[i]) - q_sum;
    const double p = std::exp(log_p);
    if (p > 0.0) result += p * (log_p - log_q);
  }
  return result;
}

inline bool is_same_top(std::span<const float> a, std::span<const float> b) noexcept {
  return std::max_element(a.begin(), a.end()) - a.begin() ==
         std::max_element(b.begin(), b.end()) - b.begin();
}

}  // namespace v0_1
}  // namespace krait
