#pragma once

/// \file
/// The rotary position embedding (RoPE).

#include <span>
#include <vector>

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Radians per position of the `rotary_dim` / 2 pairs of a head, theta^(-2i / rotary_dim) / factor.
/// rotary_dim is even, theta > 0 and finite; `factor` > 1 divides the positions (linear scaling).
/// Computed once, when a block is bound. Bits: numeric contract, section 10.
inline std::vector<double> rotary_frequencies(double theta, Index rotary_dim, double factor = 1.0);

/// The same into memory of rotary_dim / 2 elements.
KRAIT_API void rotary_frequencies(double theta, double factor,
                                  std::span<double> frequencies) noexcept;

inline std::vector<double> rotary_frequencies(double theta, Index rotary_dim, double factor) {
  std::vector<double> frequencies(static_cast<std::size_t>(rotary_dim / 2));
  rotary_frequencies(theta, factor, frequencies);
  return frequencies;
}

/// ln x of a positive, normal x, with the bits that frequencies are computed from.
KRAIT_API double rotary_log(double x) noexcept;

/// Arguments of `rotary`.
struct RotaryArgs {
  MatrixView<float> x;  ///< [tokens, heads * d_head], in/out
  Index position = 0;   ///< of row 0, ≥ 0; rows are at consecutive positions
  Index d_head = 0;
  std::span<const double> frequencies;  ///< of at most d_head / 2 pairs; other elements stay
  bool interleaved = false;  ///< pairs are (2i, 2i + 1) as in GPT-J, not (i, i + pairs) as in NeoX
};

/// For every token, head and pair i, with a = position · frequencies[i]:
///
///   (x0, x1) = (x0 cos a - x1 sin a, x1 cos a + x0 sin a)
///
/// Paper    Su et al. 2021, arXiv:2104.09864, 3.2.
/// Bits     numeric contract, section 10.
/// Threads  rows and heads are independent.
/// Cost     a sine and a cosine in double per token and pair, whatever the number of heads.
/// Oracle   ref::rotary.
KRAIT_API void rotary(const RotaryArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
