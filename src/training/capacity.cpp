#include "training/capacity.hpp"

#include <algorithm>
#include <cmath>

namespace krait {
inline namespace v0_1 {
namespace training {

Result<void> check_capacity(double factor, bool has_experts) {
  if (factor == 0.0 || has_experts) return {};
  return Error{ErrorCode::bad_argument,
               "[training] capacity: expected a model with experts, found one without"};
}

void limit_experts(double factor, Index top_k, MatrixView<float> gates) noexcept {
  const auto chosen = static_cast<double>(gates.rows * top_k);
  const double most = std::max(1.0, std::floor(factor * chosen / static_cast<double>(gates.cols)));
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
