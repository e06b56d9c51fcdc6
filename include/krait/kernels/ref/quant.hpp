#pragma once

/// \file
/// Grouped weights and 8-bit activations: codes one by one, and the bit-exact scalar model.

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "krait/kernels/quant.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The integer q of a weight, read from the layout that GroupedWeights describes.
inline int code_at(const kernels::GroupedWeights& W, Index row, Index col) noexcept {
  const Index in_group = col % kernels::group_size;
  const Index lane = row % kernels::row_block;
  const std::uint8_t* block =
      W.codes +
      (row / kernels::row_block * W.groups() + col / kernels::group_size) * block_bytes(W.form);
  if (W.form == kernels::GroupedForm::q8) {
    return static_cast<std::int8_t>(block[in_group / 4 * 64 + lane * 4 + in_group % 4]);
  }
  const Index half = in_group % 16;
  const std::uint8_t both = block[half / 4 * 64 + lane * 4 + half % 4];
  return (in_group < 16 ? both & 15 : both >> 4) - 8;
}

/// The scale of a row's group.
inline float scale_at(const kernels::GroupedWeights& W, Index row, Index group) noexcept {
  return to_float(W.scales[(row / kernels::row_block * W.groups() + group) * kernels::row_block +
                           row % kernels::row_block]);
}

/// The bits of kernels::quantize_activations.
inline void quantize_activations(MatrixView<const float> x, Range tokens,
                                 const kernels::Int8Activations& out) noexcept {
  constexpr std::uint32_t infinity = 0x7F800000;
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    for (Index g = 0; g < out.groups; ++g) {
      const Index at = t * out.groups + g;
      const float* group = x.row_data(t) + g * kernels::group_size;
      const Index count = std::min(kernels::group_size, x.cols - g * kernels::group_size);
      std::uint32_t largest = 0;  // as bits: infinities and NaN are above all other numbers
      for (Index i = 0; i < count; ++i) {
        largest = std::max(largest, std::bit_cast<std::uint32_t>(group[i]) & 0x7FFFFFFFU);
      }
      const float scale = std::bit_cast<float>(largest) / 127.0F;
      const bool is_finite = largest < infinity;
      std::int32_t sum = 0;
      for (Index i = 0; i < kernels::group_size; ++i) {
        float q = 0.0F;
        if (i < count && is_finite && scale > 0.0F) {
          q = std::clamp(std::nearbyintf(group[i] / scale), -127.0F, 127.0F);
        }
        out.values[at * kernels::group_size + i] = static_cast<std::int8_t>(q);
        sum += static_cast<std::int32_t>(q);
      }
      out.scales[at] = is_finite ? scale : std::numeric_limits<float>::quiet_NaN();
      out.sums[at] = sum;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
