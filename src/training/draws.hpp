#pragma once

#include <cmath>
#include <cstdint>

#include "krait/core/rng.hpp"
#include "krait/kernels/ref/elementary.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// Random numbers of one tensor: number `draw` at element i.
class Draws {
 public:
  Draws(std::uint64_t seed, std::uint32_t tensor) : at_{.seed = seed, .sequence = tensor} {}

  double uniform(Index i, std::uint32_t draw = 0) {
    at_.position = static_cast<std::uint64_t>(i);
    at_.draw = draw;
    return random_uniform(at_);
  }

  // By Marsaglia's polar method, with krait's own logarithm.
  double normal(Index i) {
    for (std::uint32_t draw = 0;; draw += 2) {
      const double x = 2.0 * uniform(i, draw) - 1.0;
      const double y = 2.0 * uniform(i, draw + 1) - 1.0;
      const double s = x * x + y * y;
      if (s >= 1.0 || s < 1e-30) continue;
      return x * std::sqrt(-2.0 * log(s) / s);
    }
  }

  static double log(double x) {
    return static_cast<double>(ref::log_of(ref::ScalarOps(), static_cast<float>(x)));
  }

 private:
  RandomCounter at_;
};

}  // namespace training
}  // namespace v0_1
}  // namespace krait
