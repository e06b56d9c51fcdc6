#pragma once

/// \file
/// Attention: the oracle in double and the bit-exact scalar model.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "krait/kernels/attention.hpp"
#include "krait/kernels/ref/lanes.hpp"
#include "krait/kernels/ref/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The row of position j that begins at `offset` in each page, those of the heads that share it
/// with query head h.
template <class T>
const T* attention_row(const kernels::AttentionArgs& args, Index offset, Index j,
                       Index h) noexcept {
  constexpr Index page = kernels::attention_page_tokens;
  const float* row =
      args.pages[static_cast<std::size_t>(j / page)] + offset + j % page * args.row_stride;
  return reinterpret_cast<const T*>(row) + h / (args.n_head / args.n_kv_head) * args.d_head;
}

template <class T>
const T* attention_key(const kernels::AttentionArgs& args, Index j, Index h) noexcept {
  return attention_row<T>(args, args.key_offset, j, h);
}

template <class T>
const T* attention_value(const kernels::AttentionArgs& args, Index j, Index h) noexcept {
  return attention_row<T>(args, args.value_offset, j, h);
}

/// Calls body(T()) with the type of the keys and values.
template <class Body>
void with_attention_type(DType dtype, Body body) {
  if (dtype == DType::f16) return body(f16());
  if (dtype == DType::bf16) return body(bf16());
  body(0.0F);
}

/// The first position that the query of row t sees.
inline Index attention_first(const kernels::AttentionArgs& args, Index t) noexcept {
  return args.window == 0 ? 0 : std::max<Index>(0, args.position + t + 1 - args.window);
}

/// The bits of kernels::attention for keys and values of the type T.
template <class T>
void attention_of(const kernels::AttentionArgs& args) noexcept {
  const Index d_head = args.d_head;
  for (Index t = 0; t < args.q.rows; ++t) {
    const Index n = args.position + t + 1;
    const Index first = attention_first(args, t);
    const std::span<float> p = args.scratch.first(static_cast<std::size_t>(n));
    for (Index h = args.heads.begin; h < args.heads.end; ++h) {
      const float* q = args.q.row_data(t) + h * d_head;
      float* score = p.data();
      for (Index j = first; j < n; ++j) {
        score[j] = dot(attention_key<T>(args, j, h), q, d_head) * args.scale;
      }
      const float largest = max_of(p.subspan(static_cast<std::size_t>(first)));
      std::fill_n(score, first, 0.0F);
      for (Index j = first; j < n; ++j) {
        score[j] = exp_nonpositive_of(ScalarOps(), score[j] - largest);
      }
      const float divisor = sum(score, n);
      for (Index i = 0; i < d_head; ++i) {
        float out = 0.0F;
        for (Index j = first; j < n; ++j) {
          const T* V = attention_value<T>(args, j, h);
          out = std::fma(score[j], to_float(V[i]), out);
        }
        const float y = out / divisor;
        args.y(t, h * d_head + i) = y == y ? y : std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
}

/// The bits of kernels::attention.
inline void attention(const kernels::AttentionArgs& args) noexcept {
  with_attention_type(args.dtype, [&](auto type) { attention_of<decltype(type)>(args); });
}

/// The bits of kernels::store_attention_row.
inline void store_attention_row(std::span<const float> from, DType dtype, void* to) noexcept {
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (dtype == DType::f16) {
      static_cast<f16*>(to)[i] = to_f16(from[i]);
    } else if (dtype == DType::bf16) {
      static_cast<bf16*>(to)[i] = to_bf16(from[i]);
    } else {
      static_cast<float*>(to)[i] = from[i];
    }
  }
}

/// Attention in double precision, over keys and values in f32.
inline void attention_oracle(const kernels::AttentionArgs& args, MatrixView<double> y) {
  for (Index t = 0; t < args.q.rows; ++t) {
    const Index n = args.position + t + 1;
    const Index first = attention_first(args, t);
    std::vector<double> p(static_cast<std::size_t>(n));
    for (Index h = args.heads.begin; h < args.heads.end; ++h) {
      double largest = -std::numeric_limits<double>::infinity();
      for (Index j = first; j < n; ++j) {
        double score = 0.0;
        for (Index k = 0; k < args.d_head; ++k) {
          score += static_cast<double>(attention_key<float>(args, j, h)[k]) *
                   static_cast<double>(args.q(t, h * args.d_head + k));
        }
        p[static_cast<std::size_t>(j)] = score *= static_cast<double>(args.scale);
        largest = std::max(largest, score);
      }
      double total = 0.0;
      for (Index j = 0; j < n; ++j) {
        double& value = p[static_cast<std::size_t>(j)];
        total += value = j < first ? 0.0 : std::exp(value - largest);
      }
      for (Index i = 0; i < args.d_head; ++i) {
        double out = 0.0;
        for (Index j = first; j < n; ++j) {
          const float* V = attention_value<float>(args, j, h);
          out += p[static_cast<std::size_t>(j)] * static_cast<double>(V[i]);
        }
        y(t, h * args.d_head + i) = out / total;
      }
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
