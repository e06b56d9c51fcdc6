#pragma once

/// \file
/// Weights of 8 and 4 bits in groups that share a scale, and the 8-bit activations of their
/// products.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/dtype.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// How a weight is stored: w ≈ scale · q, one scale (f16) for each row and group of 32 inputs.
enum class GroupedForm : std::uint8_t {
  q8,  ///< q in [-127, 127], 8.5 bits per weight in all
  q4,  ///< q in [-8, 7], 4.5 bits per weight in all
};

inline constexpr Index group_size = 32;  ///< inputs that share a scale
inline constexpr Index row_block = 16;   ///< rows that are interleaved: the lanes of a kernel

/// "q8", "q4".
constexpr std::string_view to_string(GroupedForm form) noexcept {
  return form == GroupedForm::q8 ? "q8" : "q4";
}

/// Bytes of the codes of 16 rows × 32 inputs.
constexpr Index block_bytes(GroupedForm form) noexcept {
  return row_block * group_size / (form == GroupedForm::q8 ? 1 : 2);
}

/// A matrix [rows, cols] in groups. The last block of rows and the last group of inputs are filled
/// up with zeros, so rows and cols may be any numbers.
///
/// The codes of a block of 16 rows and a group of 32 inputs are lines of 64 bytes: line j of q8 has
/// four neighbouring inputs of each row, byte 4 r + i being q of row r and input 4 j + i. Line j of
/// q4 has q + 8 of input 4 j + i in the low halves and of input 16 + 4 j + i in the high halves.
struct GroupedWeights {
  GroupedForm form = GroupedForm::q8;
  const std::uint8_t* codes = nullptr;  ///< [row_blocks, groups, block_bytes(form)]
  const f16* scales = nullptr;          ///< [row_blocks, groups, 16]
  Index rows = 0;
  Index cols = 0;

  Index row_blocks() const noexcept { return round_up(rows, row_block) / row_block; }
  Index groups() const noexcept { return round_up(cols, group_size) / group_size; }
  /// Of codes and scales.
  Index bytes() const noexcept {
    return row_blocks() * groups() * (block_bytes(form) + Index{sizeof(f16)} * row_block);
  }
};

/// The place of a weight that q8 and q4 cannot represent: it is not finite, or its scale would not
/// fit in f16.
struct BadWeight {
  Index row;
  Index col;
};

/// Rounds W [rows, cols] of f32, f16 or bf16, at any address, for the given blocks of 16 rows;
/// `codes` and `scales` are those of the whole GroupedWeights. In q8, scale = max|w| / 127. In q4,
/// the scale is the best of 19 candidates by the squared error of its group. Stops at a weight
/// that cannot be represented and returns its place.
KRAIT_API std::optional<BadWeight> quantize(GroupedForm form, const TensorView& W, Range blocks,
                                            std::uint8_t* codes, f16* scales) noexcept;

/// All blocks, shared between threads. Returns the first weight that cannot be represented.
KRAIT_API std::optional<BadWeight> quantize(Executor& executor, GroupedForm form,
                                            const TensorView& W, std::uint8_t* codes, f16* scales);

/// Row `row` of the matrix as floats [cols], exactly.
KRAIT_API void dequantize_row(const GroupedWeights& W, Index row, std::span<float> out) noexcept;

/// Activations of several tokens in 8 bits: x ≈ scale · q for each token and group of 32 inputs.
struct Int8Activations {
  std::int8_t* values = nullptr;  ///< [tokens, groups, 32]; zeros beyond the last input
  float* scales = nullptr;        ///< [tokens, groups]
  std::int32_t* sums = nullptr;   ///< [tokens, groups], the sum of the group's values
  Index groups = 0;

  /// Floats of memory for one token of `cols` inputs.
  static constexpr Index floats_per_token(Index cols) noexcept {
    return round_up(cols, group_size) / group_size * (group_size / 4 + 2);
  }

  /// Laid out in `memory`, which has floats_per_token(cols) floats for each token.
  Int8Activations(float* memory, Index tokens, Index cols) noexcept
      : groups(round_up(cols, group_size) / group_size) {
    values = reinterpret_cast<std::int8_t*>(memory);
    scales = memory + tokens * groups * (group_size / 4);
    sums = reinterpret_cast<std::int32_t*>(scales + tokens * groups);
  }
};

/// Rounds rows `tokens` of x [tokens, cols].
///
/// Bits     numeric contract, section 3: scale = max|x| / 127 (a division), q = x / scale (another)
///          rounded to nearest even and clamped to ±127; zeros where the scale is 0. A group that
///          is not finite has zeros and a scale that is NaN.
/// Oracle   ref::quantize_activations.
KRAIT_API void quantize_activations(MatrixView<const float> x, Range tokens,
                                    const Int8Activations& out) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
