#pragma once

/// \file
/// How many tokens of a row an expert takes in training (Fedus et al. 2021, arXiv:2101.03961,
/// section 2.2).

#include "krait/core/error.hpp"
#include "krait/modules/hook.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

/// That a factor above 0 is one of a model with experts.
Result<void> check_capacity(double factor, bool has_experts);

/// Lets every expert keep the first max(1, ⌊factor · (T · top_k) / n_expert⌋) of the tokens that
/// are sent to it and sets the gates of those behind to 0. `gates` [T, n_expert] are 0 where a
/// token is not sent: to experts that it did not choose, and to those whose gate is too small for
/// f32.
void limit_experts(double factor, Index top_k, MatrixView<float> gates) noexcept;

/// The same in a forward pass over whole rows; `top_k` is that of the block that runs.
class CapacityHook final : public ActivationHook {
 public:
  explicit CapacityHook(double factor) : factor_(factor) {}
  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    if (place.site == Site::routing) limit_experts(factor_, top_k, values);
  }

  Index top_k = 0;

 private:
  double factor_;
};

}  // namespace training
}  // namespace v0_1
}  // namespace krait
