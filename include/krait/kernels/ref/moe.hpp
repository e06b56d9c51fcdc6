#pragma once

/// \file
/// Routers of mixtures of experts: the oracle in double and the bit-exact scalar model.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "krait/kernels/moe.hpp"
#include "krait/kernels/ref/elementwise.hpp"
#include "krait/kernels/ref/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// Indices of the top_k largest keys: ties go to the lowest index, NaN counts as -inf.
template <class T>
std::vector<std::size_t> top_k_indices(const std::vector<T>& keys, Index top_k) {
  const auto rank = [&](std::size_t e) {
    return std::isnan(keys[e]) ? -std::numeric_limits<T>::infinity() : keys[e];
  };
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rank(a) > rank(b); });
  order.resize(static_cast<std::size_t>(top_k));
  return order;
}

/// The bits of kernels::route.
inline void route(const kernels::RouteArgs& args) {
  using kernels::RouterScore;
  const auto n_expert = static_cast<std::size_t>(args.logits.cols);
  for (Index t = 0; t < args.logits.rows; ++t) {
    const std::span<const float> logits = args.logits.row(t);
    std::vector<float> score(logits.begin(), logits.end());
    if (args.score == RouterScore::softmax) ref::softmax(logits, score);
    if (args.score == RouterScore::sigmoid) ref::sigmoid(logits, score);
    std::vector<float> key = score;
    for (std::size_t e = 0; args.selection_bias != nullptr && e < n_expert; ++e) {
      key[e] = score[e] + args.selection_bias[e];
    }
    const bool of_chosen = args.score == RouterScore::softmax_of_chosen;
    std::vector<float> gate(n_expert, of_chosen ? -std::numeric_limits<float>::infinity() : 0.0F);
    for (const std::size_t e : top_k_indices(key, args.top_k)) gate[e] = score[e];
    if (of_chosen) ref::softmax(gate, gate);
    if (args.normalize) {
      Lanes acc{};
      for (std::size_t e = 0; e < n_expert; ++e) acc[e % 16] += gate[e];
      const float sum = reduce(acc) + 1e-20F;
      for (float& value : gate) value /= sum;
    }
    for (std::size_t e = 0; e < n_expert; ++e) {
      args.gates(t, static_cast<Index>(e)) = gate[e] * args.scale;
    }
  }
}

/// The gates of one token in double precision.
inline std::vector<double> route_oracle(const kernels::RouteArgs& args, Index t) {
  using kernels::RouterScore;
  const auto n_expert = static_cast<std::size_t>(args.logits.cols);
  std::vector<double> score(n_expert);
  double total = 0.0;
  for (std::size_t e = 0; e < n_expert; ++e) {
    score[e] = static_cast<double>(args.logits(t, static_cast<Index>(e)));
    total += std::exp(score[e]);
  }
  std::vector<double> key = score;
  for (std::size_t e = 0; e < n_expert; ++e) {
    if (args.score == RouterScore::softmax) score[e] = std::exp(score[e]) / total;
    if (args.score == RouterScore::sigmoid) score[e] = sigmoid_oracle(score[e]);
    key[e] = score[e];
    if (args.selection_bias != nullptr) key[e] += static_cast<double>(args.selection_bias[e]);
  }
  std::vector<double> gate(n_expert, 0.0);
  double sum = 0.0;
  for (const std::size_t e : top_k_indices(key, args.top_k)) {
    gate[e] = args.score == RouterScore::softmax_of_chosen ? std::exp(score[e]) : score[e];
    sum += gate[e];
  }
  const bool divide = args.normalize || args.score == RouterScore::softmax_of_chosen;
  for (double& value : gate) value = value / (divide ? sum : 1.0) * static_cast<double>(args.scale);
  return gate;
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
