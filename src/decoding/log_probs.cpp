#include "krait/decoding/log_probs.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {

TokenLogProbs log_probs_of(std::span<const float> logits, Token token, Index top) {
  const FloatEnvironment environment;
  const float sum = kernels::log_sum_exp(logits);
  const auto logit = [&](Token t) {
    const float x = logits[static_cast<std::size_t>(t)];
    return std::isnan(x) ? -std::numeric_limits<float>::infinity() : x;
  };
  TokenLogProbs result{.token = token, .log_prob = logit(token) - sum, .top = {}};
  if (top < 1) return result;
  std::vector<Token> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min(top, std::ssize(order));
  std::partial_sort(order.begin(), end, order.end(), [&](Token a, Token b) {
    return logit(a) > logit(b) || (logit(a) == logit(b) && a < b);
  });
  for (auto it = order.begin(); it != end; ++it) result.top.push_back({*it, logit(*it) - sum});
  return result;
}

}  // namespace v0_1
}  // namespace krait
