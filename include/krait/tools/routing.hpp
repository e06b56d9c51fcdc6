#pragma once

/// \file
/// How a model's experts are used.

#include <string>
#include <string_view>
#include <vector>

#include "krait/models/model.hpp"

namespace krait {
inline namespace v0_1 {

/// The use of the experts of one mixture, over the tokens that a session ran.
struct ExpertUse {
  std::string path;  ///< "layers.3.moe"
  Index tokens = 0;
  std::vector<Index> chosen;     ///< [n_expert] how many tokens each was chosen for
  std::vector<double> gate_sum;  ///< [n_expert] of those tokens' gates

  /// The expert's part of all choices; 0 before the first.
  double share(Index expert) const noexcept;
  /// The mean of the expert's gates over the tokens it was chosen for; 0 if there are none.
  double mean_gate(Index expert) const noexcept;
  /// Entropy of the shares over its maximum, ln n_expert: 1 where all experts are chosen equally
  /// often, 0 where only one is. 1 for a single expert.
  double balance() const noexcept;
};

/// Counts where a session sends its tokens: give it to `SessionOptions::hook`.
class RoutingStatistics final : public ActivationHook {
 public:
  explicit RoutingStatistics(const Model& model);

  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override;

  /// One entry per mixture of experts, in the model's order.
  const std::vector<ExpertUse>& layers() const noexcept { return layers_; }

 private:
  std::vector<ExpertUse> layers_;
};

}  // namespace v0_1
}  // namespace krait
