#pragma once

/// \file
/// Additively quantised weights: codes one by one, the oracles in double, and the bit-exact scalar
/// models.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "krait/kernels/aqlm.hpp"
#include "krait/kernels/ref/lanes.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The code, 0 to 2^B - 1, of a block of rows, a group of inputs and a codebook.
inline Index aqlm_code(const kernels::AqlmWeights& W, Index block, Index group, Index m) noexcept {
  const Index at = (block * W.groups() + group) * W.scheme.codebooks + m;
  std::int64_t stored = 0;
  if (W.code_type == DType::i8) {
    stored = static_cast<const std::int8_t*>(W.codes)[at];
  } else {
    std::int16_t wide;
    std::memcpy(&wide, static_cast<const std::byte*>(W.codes) + 2 * at, sizeof wide);
    stored = wide;
  }
  return stored & (W.scheme.codewords() - 1);
}

/// Number `at` of a codeword, as a float.
inline float aqlm_number(const kernels::AqlmWeights& W, Index m, Index code, Index at) noexcept {
  const Index i = (m * W.scheme.codewords() + code) * W.scheme.codeword() + at;
  return W.codebook_type == DType::f32 ? static_cast<const float*>(W.codebooks)[i]
                                       : to_float(static_cast<const f16*>(W.codebooks)[i]);
}

/// W[r,k], exactly as the contract has it.
inline float aqlm_weight(const kernels::AqlmWeights& W, Index r, Index k) noexcept {
  const kernels::AqlmScheme& s = W.scheme;
  const Index block = r / s.out_group;
  float sum = 0.0F;
  for (Index m = 0; m < s.codebooks; ++m) {
    const Index code = aqlm_code(W, block, k / s.in_group, m);
    sum += aqlm_number(W, m, code, r % s.out_group * s.in_group + k % s.in_group);
  }
  return W.scales[block] * sum;
}

/// The bits of kernels::decode_aqlm.
inline void decode_aqlm(const kernels::AqlmWeights& W, Range rows, float* out) noexcept {
  for (Index r = rows.begin; r < rows.end; ++r) {
    for (Index k = 0; k < W.cols; ++k) *out++ = aqlm_weight(W, r, k);
  }
}

/// Y = X Wᵀ + bias in double precision.
inline void matmul_aqlm_oracle(const kernels::MatmulAqlmArgs& args, MatrixView<double> y) {
  for (Index t = 0; t < args.x.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      double sum = args.bias != nullptr ? static_cast<double>(args.bias[r]) : 0.0;
      for (Index k = 0; k < args.W.cols; ++k) {
        const kernels::AqlmScheme& s = args.W.scheme;
        double weight = 0.0;
        for (Index m = 0; m < s.codebooks; ++m) {
          const Index code = aqlm_code(args.W, r / s.out_group, k / s.in_group, m);
          weight += static_cast<double>(
              aqlm_number(args.W, m, code, r % s.out_group * s.in_group + k % s.in_group));
        }
        sum += weight * static_cast<double>(args.W.scales[r / s.out_group]) *
               static_cast<double>(args.x(t, k));
      }
      y(t, r) = sum;
    }
  }
}

/// The bits of kernels::matmul_aqlm.
inline void matmul_aqlm(const kernels::MatmulAqlmArgs& args) noexcept {
  for (Index t = 0; t < args.x.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      Lanes acc{};
      for (Index k = 0; k < args.W.cols; ++k) {
        float& lane = acc[static_cast<std::size_t>(k % 16)];
        lane = std::fma(aqlm_weight(args.W, r, k), args.x(t, k), lane);
      }
      const float sum = reduce(acc);
      args.y(t, r) = args.bias != nullptr ? sum + args.bias[r] : sum;
    }
  }
}

/// Code i of row r, read from the layout that AqlmTableWeights describes.
inline Index aqlm_table_code(const kernels::AqlmTableWeights& W, Index r, Index i) noexcept {
  using Weights = kernels::AqlmTableWeights;
  const Index block = r / Weights::block_rows * W.blocks() + i / Weights::block_codes;
  const Index row = r % Weights::block_rows;
  const Index n = i % Weights::block_codes;
  const Index line = W.scheme.bits == 8 ? n : n / 2;
  const std::uint8_t byte = W.codes[block * W.block_bytes() + line * 64 + row % 32 * 2 + row / 32];
  if (W.scheme.bits == 8) return byte;
  return n % 2 == 0 ? byte & 15 : byte >> 4;
}

/// The products of the codewords with the activations that code i meets: [codewords].
inline void aqlm_products(const kernels::AqlmTableWeights& W, const float* x, Index i,
                          float* products) noexcept {
  const Index g = W.scheme.in_group;
  const Index group = i / W.scheme.codebooks;
  const float* codebook = W.codebooks + i % W.scheme.codebooks * g * W.codewords();
  for (Index e = 0; e < W.codewords(); ++e) {
    float t = 0.0F;
    for (Index d = 0; d < g; ++d) {
      t = std::fma(codebook[d * W.codewords() + e], x[group * g + d], t);
    }
    products[e] = t;
  }
}

/// The bits of kernels::make_aqlm_tables.
inline void make_aqlm_tables(const kernels::AqlmTableWeights& W, MatrixView<const float> x,
                             Range items, const kernels::AqlmTables& out) noexcept {
  using Weights = kernels::AqlmTableWeights;
  constexpr std::uint32_t infinity = 0x7F800000;
  for (Index at = items.begin; at < items.end; ++at) {
    const float* token = x.row_data(at / out.blocks.size());
    const Index first = (out.blocks.begin + at % out.blocks.size()) * Weights::block_codes;
    const Index count = std::min(Weights::block_codes, W.row_codes() - first);
    float products[Weights::block_codes * 256] = {};
    for (Index n = 0; n < count; ++n) {
      aqlm_products(W, token, first + n, products + n * W.codewords());
    }
    std::uint32_t largest = 0;  // as bits: infinities and NaN are above all other numbers
    for (const float t : products) {
      largest = std::max(largest, std::bit_cast<std::uint32_t>(t) & 0x7FFFFFFFU);
    }
    const auto peak = std::bit_cast<float>(largest);
    const bool is_finite = largest < infinity;
    const bool counts = is_finite && peak >= 0x1p-100F;
    const float inverse = 127.0F / peak;
    std::uint8_t* values = out.values + at * out.block_values;
    for (Index n = 0; n < out.block_values; ++n) {
      const float q = counts ? std::nearbyintf(products[n] * inverse) : 0.0F;
      values[n] = static_cast<std::uint8_t>(static_cast<int>(q) + 128);
    }
    out.steps[at] =
        counts ? peak / 127.0F : (is_finite ? 0.0F : std::numeric_limits<float>::quiet_NaN());
  }
}

/// Σ q over the codes of row r in a block, counted from that with which the tables begin: an exact
/// integer.
inline std::int32_t aqlm_block_sum(const kernels::MatmulAqlmTablesArgs& args, Index t, Index r,
                                   Index block) noexcept {
  using Weights = kernels::AqlmTableWeights;
  const std::uint8_t* values =
      args.x.values + (t * args.x.blocks.size() + block) * args.x.block_values;
  std::int32_t sum = 0;
  for (Index n = 0; n < Weights::block_codes; ++n) {
    const Index i = (args.x.blocks.begin + block) * Weights::block_codes + n;
    if (i >= args.W.row_codes()) break;
    sum += values[n * args.W.codewords() + aqlm_table_code(args.W, r, i)] - 128;
  }
  return sum;
}

/// Y from the rounded products in double precision; the tables are of all blocks.
inline void matmul_aqlm_tables_oracle(const kernels::MatmulAqlmTablesArgs& args,
                                      MatrixView<double> y) {
  for (Index t = 0; t < args.y.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      double sum = 0.0;
      for (Index b = 0; b < args.x.blocks.size(); ++b) {
        sum += static_cast<double>(aqlm_block_sum(args, t, r, b)) *
               static_cast<double>(args.x.steps[t * args.x.blocks.size() + b]);
      }
      sum *= static_cast<double>(args.W.scales[r]);
      y(t, r) = args.bias != nullptr ? sum + static_cast<double>(args.bias[r]) : sum;
    }
  }
}

/// The bits of kernels::matmul_aqlm_tables.
inline void matmul_aqlm_tables(const kernels::MatmulAqlmTablesArgs& args) noexcept {
  for (Index t = 0; t < args.y.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      float& y = args.y(t, r);
      float acc = args.x.blocks.begin == 0 ? 0.0F : y;
      for (Index b = 0; b < args.x.blocks.size(); ++b) {
        acc = std::fma(static_cast<float>(aqlm_block_sum(args, t, r, b)),
                       args.x.steps[t * args.x.blocks.size() + b], acc);
      }
      y = acc;
      if (args.x.blocks.end < args.W.blocks()) continue;
      const float scaled = args.W.scales[r] * acc;
      y = args.bias != nullptr ? scaled + args.bias[r] : scaled;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
