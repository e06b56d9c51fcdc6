#include "training/capacity.hpp"

#include <algorithm>
#include <cmath>

namespace krait {
inline namespace v0_1 {
namespace training {

void limit_experts(double factor, MatrixView<float> gates) noexcept {
  Index chosen = 0;
  for (Index t = 0; t < gates.rows; ++t) {
    chosen += std::ranges::count_if(gates.row(t), [](float gate) { return gate != 0.0F; });
  }
  const double most = std::max(
      1.0, std::floor(factor * static_cast<double>(chosen) / static_cast<double>(gates.cols)));
  for (Index e = 0; e < gates.cols; ++e) {
    double taken = 0.0;
    for (Index t = 0; t < gates.rows; ++t) {
      if (gates(t, e) == 0.0F) continue;
      taken += 1.0;
      if (taken > most) gates(t, e) = 0.0F;
    }
  }
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
