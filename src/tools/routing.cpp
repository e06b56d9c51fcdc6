#include "krait/tools/routing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <variant>

namespace krait {
inline namespace v0_1 {
namespace {

double total(const std::vector<Index>& counts) noexcept {
  return static_cast<double>(std::accumulate(counts.begin(), counts.end(), Index{0}));
}

}  // namespace

double ExpertUse::share(Index expert) const noexcept {
  const double all = total(chosen);
  return all > 0.0 ? static_cast<double>(chosen[static_cast<std::size_t>(expert)]) / all : 0.0;
}

double ExpertUse::mean_gate(Index expert) const noexcept {
  const auto e = static_cast<std::size_t>(expert);
  return chosen[e] > 0 ? gate_sum[e] / static_cast<double>(chosen[e]) : 0.0;
}

double ExpertUse::balance() const noexcept {
  if (chosen.size() < 2) return 1.0;
  double entropy = 0.0;
  for (Index e = 0; e < std::ssize(chosen); ++e) {
    const double p = share(e);
    if (p > 0.0) entropy -= p * std::log(p);
  }
  return entropy / std::log(static_cast<double>(chosen.size()));
}

RoutingStatistics::RoutingStatistics(const Model& model) {
  const ModelSpec& spec = model.spec();
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    for (const ResidualSpec& residual : spec.layers[i].residuals) {
      const auto n_expert = static_cast<std::size_t>(
          std::visit([](const auto& block) { return expert_count(block); }, residual.block));
      if (n_expert == 0) continue;
      layers_.push_back({.path = fmt::format("{}.{}.{}", spec.layers_name, i, residual.block_name),
                         .chosen = std::vector<Index>(n_expert),
                         .gate_sum = std::vector<double>(n_expert)});
    }
  }
}

void RoutingStatistics::at(const ActivationPlace& place, MatrixView<float> gates) noexcept {
  if (place.site != Site::routing || place.again) return;
  const auto layer = std::ranges::find(layers_, place.path, &ExpertUse::path);
  if (layer == layers_.end() || gates.cols != std::ssize(layer->chosen)) return;
  layer->tokens += gates.rows;
  for (Index t = 0; t < gates.rows; ++t) {
    for (Index e = 0; e < gates.cols; ++e) {
      if (gates(t, e) == 0.0F) continue;
      ++layer->chosen[static_cast<std::size_t>(e)];
      layer->gate_sum[static_cast<std::size_t>(e)] += static_cast<double>(gates(t, e));
    }
  }
}

}  // namespace v0_1
}  // namespace krait
