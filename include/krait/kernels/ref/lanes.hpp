#pragma once

/// \file
/// The 16 virtual lanes and their reduction (numeric contract, section 2), in scalar form.

#include <array>
#include <cmath>

#include "krait/core/dtype.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// Accumulators of one output element.
using Lanes = std::array<float, 16>;

/// s[i] = acc[i] + acc[i+8], then + 4, + 2, + 1.
inline float reduce(Lanes acc) noexcept {
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) acc[i] += acc[i + half];
  }
  return acc[0];
}

/// Σ w[k] x[k]: element k belongs to lane k mod 16, one chain of fma per lane.
template <class W>
float dot(const W* w, const float* x, Index n) noexcept {
  Lanes acc{};
  for (Index k = 0; k < n; ++k) {
    float& lane = acc[static_cast<std::size_t>(k % 16)];
    lane = std::fma(to_float(w[k]), x[k], lane);
  }
  return reduce(acc);
}

/// Σ x[k], lanes as in `dot`.
inline float sum(const float* x, Index n) noexcept {
  Lanes acc{};
  for (Index k = 0; k < n; ++k) acc[static_cast<std::size_t>(k % 16)] += x[k];
  return reduce(acc);
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
