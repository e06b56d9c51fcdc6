#include "krait/kernels/quant.hpp"

#include <cstring>

#include "core/parallel_first.hpp"
#include "krait/kernels/ref/quant.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

constexpr Index group_registers = group_size / vector_lanes;

// One group of `count` floats: its values, its scale and the sum of its values.
HWY_INLINE void quantize_group(const float* x, Index count, std::int8_t* values, float& scale,
                               std::int32_t& sum) {
  const DF d;
  const DI di;
  const hn::Rebind<std::int8_t, DI> d8;
  VF group[group_registers];
  auto largest = hn::Zero(di);  // as bits: infinities and NaN are above all other numbers
  for (Index i = 0; i < group_registers; ++i) {
    const Index rest = count - i * vector_lanes;
    group[i] =
        rest <= 0 ? hn::Zero(d) : load_count(x + i * vector_lanes, HWY_MIN(vector_lanes, rest));
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(group[i])));
  }
  const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(di, largest));
  const bool is_finite = bits < 0x7F800000;
  const VF divisor = hn::Div(hn::BitCast(d, hn::Set(di, bits)), hn::Set(d, 127.0F));
  scale = is_finite ? hn::GetLane(divisor) : VectorOps::quiet_nan();
  const bool is_zero = !is_finite || scale == 0.0F;
  auto sums = hn::Zero(di);
  for (Index i = 0; i < group_registers; ++i) {
    VF q = hn::Round(hn::Div(group[i], divisor));
    q = min_of(max_of(q, hn::Set(d, -127.0F)), hn::Set(d, 127.0F));
    if (is_zero) q = hn::Zero(d);
    const auto whole = hn::ConvertTo(di, q);
    sums = hn::Add(sums, whole);
    hn::StoreU(hn::DemoteTo(d8, whole), d8, values + i * vector_lanes);
  }
  sum = hn::GetLane(hn::SumOfLanes(di, sums));
}

}  // namespace

void quantize_activations(MatrixView<const float> x, Range tokens,
                          const Int8Activations& out) noexcept {
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    for (Index g = 0; g < out.groups; ++g) {
      const Index at = t * out.groups + g;
      const Index first = g * group_size;
      quantize_group(x.row_data(t) + first, HWY_MIN(group_size, x.cols - first),
                     out.values + at * group_size, out.scales[at], out.sums[at]);
    }
  }
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

// A block with its rows side by side: the compiler makes vectors of 16 rows.
struct Block {
  alignas(64) float w[group_size][row_block];
  alignas(64) float scale[row_block];
};

// x rounded to the nearest integer, ties to even, for |x| < 2^22: the sum has no bits for more.
float round_small(float x) noexcept {
  constexpr float shift = 0x1.8p23F;
  return (x + shift) - shift;
}

// The scale that suits each row's group best in 4 bits: the weight w of the largest magnitude gets
// a code near -8; for each of 19 places of it the other codes and the least-squares scale follow.
void search_scales_q4(Block& block) noexcept {
  alignas(64) float extreme[row_block] = {};
  for (const auto& line : block.w) {
    for (Index r = 0; r < row_block; ++r) {
      if (std::fabs(line[r]) > std::fabs(extreme[r])) extreme[r] = line[r];
    }
  }
  alignas(64) float best[row_block] = {};
  for (int step = -9; step <= 9; ++step) {
    alignas(64) float inverse[row_block];
    alignas(64) float wq[row_block] = {};
    alignas(64) float qq[row_block] = {};
    for (Index r = 0; r < row_block; ++r) {
      inverse[r] = -(8.0F + 0.1F * static_cast<float>(step)) / extreme[r];
    }
    for (const auto& line : block.w) {
      for (Index r = 0; r < row_block; ++r) {
        float q = round_small(line[r] * inverse[r]);
        q = q < -8.0F ? -8.0F : q;
        q = q > 7.0F ? 7.0F : q;
        wq[r] += line[r] * q;
        qq[r] += q * q;
      }
    }
    for (Index r = 0; r < row_block; ++r) {
      const float gain = wq[r] * wq[r] / qq[r];  // what the codes explain of Σ w²
      if (gain > best[r]) {
        best[r] = gain;
        block.scale[r] = wq[r] / qq[r];
      }
    }
  }
}

void search_scales_q8(Block& block) noexcept {
  for (const auto& line : block.w) {
    for (Index r = 0; r < row_block; ++r) {
      block.scale[r] = std::max(block.scale[r], std::fabs(line[r]));
    }
  }
  for (float& scale : block.scale) scale /= 127.0F;
}

int nearest_code(float w, float scale, float lowest, float highest) noexcept {
  if (scale == 0.0F) return 0;
  return static_cast<int>(std::clamp(round_small(w / scale), lowest, highest));
}

void write_q8(const Block& block, std::uint8_t* codes) noexcept {
  for (Index k = 0; k < group_size; ++k) {
    for (Index r = 0; r < row_block; ++r) {
      const int q = nearest_code(block.w[k][r], block.scale[r], -127.0F, 127.0F);
      codes[k / 4 * 64 + r * 4 + k % 4] = static_cast<std::uint8_t>(q);
    }
  }
}

void write_q4(const Block& block, std::uint8_t* codes) noexcept {
  for (Index k = 0; k < group_size / 2; ++k) {
    for (Index r = 0; r < row_block; ++r) {
      const int low = nearest_code(block.w[k][r], block.scale[r], -8.0F, 7.0F) + 8;
      const int high = nearest_code(block.w[k + 16][r], block.scale[r], -8.0F, 7.0F) + 8;
      codes[k / 4 * 64 + r * 4 + k % 4] = static_cast<std::uint8_t>(low | high << 4);
    }
  }
}

// Which of a row's weights has the largest magnitude.
Index largest(const Block& block, Index r) noexcept {
  Index found = 0;
  for (Index k = 1; k < group_size; ++k) {
    if (std::fabs(block.w[k][r]) > std::fabs(block.w[found][r])) found = k;
  }
  return found;
}

// Element `at` of a stored tensor, which may lie at any address.
float element(const TensorView& W, Index at) noexcept {
  const auto* p = static_cast<const std::byte*>(W.data) + at * bytes_of(W.dtype);
  const auto read = [p](auto value) {
    std::memcpy(&value, p, sizeof value);
    return to_float(value);
  };
  switch (W.dtype) {
    case DType::f16:
      return read(f16{});
    case DType::bf16:
      return read(bf16{});
    default:
      return read(0.0F);
  }
}

// One block of rows.
std::optional<BadWeight> quantize_block(GroupedForm form, const TensorView& W, Index first_row,
                                        std::uint8_t* codes, f16* scales) noexcept {
  const Index cols = W.shape[1];
  const Index rows = std::min(row_block, W.shape[0] - first_row);
  for (Index first = 0; first < cols; first += group_size) {
    const Index count = std::min(group_size, cols - first);
    Block block{};
    for (Index r = 0; r < rows; ++r) {
      for (Index k = 0; k < count; ++k) {
        block.w[k][r] = element(W, (first_row + r) * cols + first + k);
        if (!std::isfinite(block.w[k][r])) return BadWeight{first_row + r, first + k};
      }
    }
    if (form == GroupedForm::q8) {
      search_scales_q8(block);
    } else {
      search_scales_q4(block);
    }
    for (Index r = 0; r < row_block; ++r) {
      scales[r] = to_f16(block.scale[r]);
      block.scale[r] = to_float(scales[r]);
      if (!std::isfinite(block.scale[r]))
        return BadWeight{first_row + r, first + largest(block, r)};
    }
    if (form == GroupedForm::q8) {
      write_q8(block, codes);
    } else {
      write_q4(block, codes);
    }
    codes += block_bytes(form);
    scales += row_block;
  }
  return std::nullopt;
}

}  // namespace

std::optional<BadWeight> quantize(GroupedForm form, const TensorView& W, Range blocks,
                                  std::uint8_t* codes, f16* scales) noexcept {
  const Index groups = round_up(W.shape[1], group_size) / group_size;
  for (Index block = blocks.begin; block < blocks.end; ++block) {
    const Index at = block * groups;
    if (const auto bad = quantize_block(form, W, block * row_block, codes + at * block_bytes(form),
                                        scales + at * row_block)) {
      return bad;
    }
  }
  return std::nullopt;
}

std::optional<BadWeight> quantize(Executor& executor, GroupedForm form, const TensorView& W,
                                  std::uint8_t* codes, f16* scales) {
  const Index blocks = round_up(W.shape[0], row_block) / row_block;
  const auto bad_block = parallel_first(executor, blocks, 1, [&](Range range) {
    const auto bad = quantize(form, W, range, codes, scales);
    return bad ? std::optional(bad->row / row_block) : std::nullopt;
  });
  if (!bad_block) return std::nullopt;
  // The weight is found again in its block.
  return quantize(form, W, {*bad_block, *bad_block + 1}, codes, scales);
}

void dequantize_row(const GroupedWeights& W, Index row, std::span<float> out) noexcept {
  for (Index k = 0; k < W.cols; ++k) {
    const auto q = static_cast<float>(ref::code_at(W, row, k));
    out[static_cast<std::size_t>(k)] = q * ref::scale_at(W, row, k / group_size);
  }
}

void quantize_activations(MatrixView<const float> x, Range tokens,
                          const Int8Activations& out) noexcept {
  KRAIT_KERNEL(quantize_activations, ref::quantize_activations)(x, tokens, out);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
