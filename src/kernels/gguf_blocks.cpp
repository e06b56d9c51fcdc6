#include "kernels/gguf_blocks.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <utility>

#include "krait/kernels/ref/lanes.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gguf_blocks.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

#ifndef KRAIT_GGUF_BLOCKS_ONCE
#  define KRAIT_GGUF_BLOCKS_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

// What the 16 codes of iq4_nl and iq4_xs stand for.
constexpr std::int8_t uneven_codes[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

// Twice the floats of 4 bits (OCP microscaling formats 1.0, E2M1).
constexpr std::int8_t float4_codes[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// f16 at any address, widened exactly and without branches: by a product with 2^112, which no
// subnormal number escapes. Infinity and NaN get the exponent that they need.
inline float half_at(const std::uint8_t* bytes) {
  const auto bits = static_cast<std::uint32_t>(bytes[0] | bytes[1] << 8);
  const std::uint32_t magnitude = bits & 0x7FFFU;
  const std::uint32_t special = magnitude >= 0x7C00U ? 0x7F800000U : 0U;
  const float scaled = std::bit_cast<float>(magnitude << 13U) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special |
                              (bits & 0x8000U) << 16U);
}

// Half of the power of two that the exponent means: the codes stand doubled in the table.
inline float mxfp4_scale(std::uint32_t exponent) {
  return std::bit_cast<float>(exponent < 2 ? 0x00200000U << exponent : (exponent - 1) << 23U);
}

constexpr Index most_tokens = 8;

}  // namespace
}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif

#include "kernels/unpack_blocks-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

constexpr Index chunk = unpacked;

// Outputs at a time, each with its chain in every register part.
constexpr int tile_rows = static_cast<int>(8 / vector_parts);

// acc[r] continues the 16 lanes of output r over `n` inputs, a multiple of 16.
HWY_INLINE void continue_lanes(const float* w, const float* x, Index n, float* acc) {
  constexpr int parts = static_cast<int>(vector_parts);
  const DF d;
  Array<VF, tile_rows * parts> sum;
  KRAIT_UNROLL
  for (int i = 0; i < tile_rows * parts; ++i) sum[i] = hn::Load(d, acc + i * vector_lanes);
  for (Index k = 0; k < n; k += virtual_lanes) {
    KRAIT_UNROLL
    for (int p = 0; p < parts; ++p) {
      const VF xs = load(x + k + p * vector_lanes);
      KRAIT_UNROLL
      for (int r = 0; r < tile_rows; ++r) {
        sum[r * parts + p] =
            fma(load(w + r * chunk + k + p * vector_lanes), xs, sum[r * parts + p]);
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < tile_rows * parts; ++i) hn::Store(sum[i], d, acc + i * vector_lanes);
}

template <BlockFormat format>
void decode_row(const std::byte* blocks, Index n, float* out) noexcept {
  constexpr BlockFormatInfo info = info_of(format);
  Codes codes;
  for (Index k = 0; k < n; k += chunk) {
    const Index count = std::min(chunk, n - k);
    unpack<format>(reinterpret_cast<const std::uint8_t*>(blocks) + k / info.elements * info.bytes,
                   count, codes);
    widen<format>(codes, count, out + k);
  }
}

// One token: the weights meet it in registers.
template <BlockFormat format, int rows>
HWY_INLINE void multiply_one(const MatmulBlocksArgs& args, Index r0) {
  constexpr BlockFormatInfo info = info_of(format);
  const BlockWeights& W = args.W;
  const auto* data = reinterpret_cast<const std::uint8_t*>(W.data) + r0 * W.row_bytes();
  HWY_ALIGN Array<float, rows* static_cast<int>(virtual_lanes)> acc = {};
  const Index row_bytes = W.row_bytes();
  for (Index k = 0; k < W.cols; k += chunk) {
    const Index n = std::min(chunk, W.cols - k);
    const std::uint8_t* blocks = data + k / info.elements * info.bytes;
    // The same place of the next tile, which is needed when this one is done; smaller weights take
    // longer than memory to bring more.
    for (Index r = 0; info.bytes > info.elements && r < rows; ++r) {
      Fetch next{reinterpret_cast<std::uintptr_t>(blocks) +
                     static_cast<std::uintptr_t>((rows + r) * row_bytes),
                 static_cast<std::uintptr_t>(n / info.elements * info.bytes)};
      next.advance();
    }
#if HWY_TARGET == HWY_AVX3
    if constexpr (has_nibbles<format>) {
      continue_nibbles<format, rows>(blocks, row_bytes, args.x.data + k, n, acc);
      continue;
    }
#endif
    Array<Codes, rows> codes;
    for (Index r = 0; r < rows; ++r) unpack<format>(blocks + r * row_bytes, n, codes[r]);
    continue_with<format, rows>(codes, args.x.data + k, n, acc);
  }
  for (Index r = 0; r < rows; ++r) {
    ref::Lanes lanes;
    std::copy_n(acc + r * virtual_lanes, virtual_lanes, lanes.data());
    const float sum = ref::reduce(lanes);
    args.y(0, r0 + r) = args.bias == nullptr ? sum : sum + args.bias[r0 + r];
  }
}

template <BlockFormat format>
void multiply_rows(const MatmulBlocksArgs& args) noexcept {
  constexpr int rows = HWY_TARGET == HWY_SSE4 ? 2 : 4;
  Index r = args.outputs.begin;
  for (; r + rows <= args.outputs.end; r += rows) multiply_one<format, rows>(args, r);
  for (; r < args.outputs.end; ++r) multiply_one<format, 1>(args, r);
}

// The functions of every format, in the order of BlockFormat.
struct FormatFunctions {
  void (*decode)(const std::byte*, Index, float*) noexcept;
  void (*multiply)(const MatmulBlocksArgs&) noexcept;
};
template <std::size_t... formats>
constexpr std::array<FormatFunctions, sizeof...(formats)> functions_of(
    std::index_sequence<formats...> /*list*/) {
  return {{{decode_row<static_cast<BlockFormat>(formats)>,
            multiply_rows<static_cast<BlockFormat>(formats)>}...}};
}
constexpr auto functions = functions_of(std::make_index_sequence<block_formats.size()>());

void decode(BlockFormat format, const std::byte* blocks, Index n, float* out) noexcept {
  functions[static_cast<std::size_t>(format)].decode(blocks, n, out);
}

void multiply(const MatmulBlocksArgs& args) noexcept {
  const BlockWeights& W = args.W;
  if (args.x.rows == 1) return functions[static_cast<std::size_t>(W.format)].multiply(args);
  const BlockFormatInfo& info = info_of(W.format);
  HWY_ALIGN float w[tile_rows * chunk] = {};
  HWY_ALIGN float acc[most_tokens * tile_rows * virtual_lanes];
  for (Index t0 = 0; t0 < args.x.rows; t0 += most_tokens) {
    const Index tokens = std::min(most_tokens, args.x.rows - t0);
    for (Index r0 = args.outputs.begin; r0 < args.outputs.end; r0 += tile_rows) {
      const Index rows = std::min(Index{tile_rows}, args.outputs.end - r0);
      std::fill_n(acc, tokens * tile_rows * virtual_lanes, 0.0F);
      for (Index k = 0; k < W.cols; k += chunk) {
        const Index n = std::min(chunk, W.cols - k);
        for (Index r = 0; r < rows; ++r) {
          decode(W.format, W.data + (r0 + r) * W.row_bytes() + k / info.elements * info.bytes, n,
                 w + r * chunk);
        }
        for (Index t = 0; t < tokens; ++t) {
          continue_lanes(w, args.x.row(t0 + t).data() + k, n, acc + t * tile_rows * virtual_lanes);
        }
      }
      for (Index t = 0; t < tokens; ++t) {
        for (Index r = 0; r < rows; ++r) {
          ref::Lanes lanes;
          std::copy_n(acc + (t * tile_rows + r) * virtual_lanes, virtual_lanes, lanes.data());
          const float sum = ref::reduce(lanes);
          args.y(t0 + t, r0 + r) = args.bias == nullptr ? sum : sum + args.bias[r0 + r];
        }
      }
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
namespace scalar_blocks {
namespace {

#  include "kernels/decode_blocks.inl"

void decode(BlockFormat format, const std::byte* blocks, Index n, float* out) noexcept {
  decode_many(format, blocks, n, out);
}

void multiply(const MatmulBlocksArgs& args) noexcept {
  const BlockWeights& W = args.W;
  const BlockFormatInfo& info = info_of(W.format);
  float w[256];
  for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
    for (Index t = 0; t < args.x.rows; ++t) {
      ref::Lanes lanes{};
      for (Index k = 0; k < W.cols; ++k) {
        if (k % info.elements == 0) {
          decode_many(W.format, W.data + r * W.row_bytes() + k / info.elements * info.bytes,
                      info.elements, w);
        }
        float& lane = lanes[static_cast<std::size_t>(k % 16)];
        lane = std::fma(w[k % info.elements], args.x(t, k), lane);
      }
      const float sum = ref::reduce(lanes);
      args.y(t, r) = args.bias == nullptr ? sum : sum + args.bias[r];
    }
  }
}

}  // namespace
}  // namespace scalar_blocks

void decode_blocks(BlockFormat format, const std::byte* blocks, std::span<float> out) noexcept {
  KRAIT_KERNEL(decode, scalar_blocks::decode)
  (format, blocks, static_cast<Index>(out.size()), out.data());
}

void matmul_blocks(const MatmulBlocksArgs& args) noexcept {
  KRAIT_KERNEL(multiply, scalar_blocks::multiply)(args);
}

namespace {

// From so many tokens on, decoding once costs less than decoding for every few tokens.
constexpr Index many_tokens = 32;

// W is decoded into the first half of the workspace, some rows at a time; the products of floats
// have the rest.
bool product_of_decoded(const ProductContext& ctx, const BlockWeights& W,
                        const ProductArgs& args) noexcept {
  const auto size = static_cast<Index>(ctx.workspace.size());
  const Index tokens = args.x.rows;
  const Index rows =
      std::min(tokens, size / std::max(W.cols, Index{1})) / output_block * output_block;
  if (tokens < many_tokens || rows < many_tokens) return false;
  const auto decoded = static_cast<std::size_t>(rows * W.cols);
  const ProductContext rest{ctx.executor, ctx.workspace.subspan(decoded)};
  for (Index first = 0; first < W.rows; first += rows) {
    const Index count = std::min(rows, W.rows - first);
    parallel_for(ctx.executor, count, 1, ItemCost::of(4 * W.cols, 4 * W.cols), [&](Range some) {
      for (Index r = some.begin; r < some.end; ++r) {
        decode_blocks(W.format, W.data + (first + r) * W.row_bytes(),
                      {ctx.workspace.data() + r * W.cols, static_cast<std::size_t>(W.cols)});
      }
    });
    product(rest, DenseWeights{ctx.workspace.data(), DType::f32, count, W.cols},
            {.x = args.x,
             .bias = args.bias == nullptr ? nullptr : args.bias + first,
             .y = args.y.cols_from(first, count)});
  }
  return true;
}

}  // namespace

void product(const ProductContext& ctx, const BlockWeights& W, const ProductArgs& args) noexcept {
  if (product_of_decoded(ctx, W, args)) return;
  const Index decodings = (args.x.rows + most_tokens - 1) / most_tokens;
  const ItemCost cost =
      ItemCost::of(W.row_bytes(), 2 * W.cols * args.x.rows + 6 * W.cols * decodings);
  parallel_for(ctx.executor, W.rows, output_block, cost, [&](Range outputs) {
    matmul_blocks({.W = W, .x = args.x, .bias = args.bias, .y = args.y, .outputs = outputs});
  });
}

Index product_blocks_workspace(Index in) noexcept { return product_workspace(in) + in; }

void regroup_blocks(const BlockWeights& W, Range row_blocks, std::uint8_t* codes,
                    f16* scales) noexcept {
  const BlockFormatInfo& info = info_of(W.format);
  const Index groups = W.cols / group_size;
  const Index code_bytes = info.bytes - Index{sizeof(f16)};  // of a row of a group
  const Index block = row_block * code_bytes;
  for (Index b = row_blocks.begin; b < row_blocks.end; ++b) {
    const Index rows = std::min(row_block, W.rows - b * row_block);
    for (Index g = 0; g < groups; ++g) {
      std::uint8_t* lines = codes + (b * groups + g) * block;
      f16* of_rows = scales + (b * groups + g) * row_block;
      if (rows < row_block) {
        std::memset(lines, 0, static_cast<std::size_t>(block));
        std::fill_n(of_rows, row_block, f16{});
      }
      for (Index r = 0; r < rows; ++r) {
        const std::byte* from = W.data + (b * row_block + r) * W.row_bytes() + g * info.bytes;
        std::memcpy(of_rows + r, from, sizeof(f16));
        for (Index j = 0; j < code_bytes / 4; ++j) {
          std::memcpy(lines + j * row_block * 4 + 4 * r, from + sizeof(f16) + 4 * j, 4);
        }
      }
    }
  }
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
