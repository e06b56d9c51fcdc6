#pragma once

/// \file
/// Causal attention over cached keys and values.

#include <algorithm>
#include <span>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/dtype.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Tokens whose keys and values lie in one page of the cache.
inline constexpr Index attention_page_tokens = 64;

/// Arguments of `attention`. In each page, the layer's keys (after the rotary embedding) begin at
/// `key_offset`, its values at `value_offset`, both [attention_page_tokens, row_stride]: rows of
/// [n_kv_head * d_head] elements of the type `dtype`. Offsets and stride count in units of 4 bytes,
/// whatever the type. All keys are read before any value: rows of one kind that lie behind each
/// other are what memory is fast at.
struct AttentionArgs {
  MatrixView<const float> q;            ///< [tokens, n_head * d_head], after the embedding
  std::span<const float* const> pages;  ///< of positions 0, 64, …
  DType dtype = DType::f32;             ///< of keys and values: f32, f16 or bf16
  Index key_offset = 0;                 ///< units of 4 bytes
  Index value_offset = 0;               ///< units of 4 bytes
  Index row_stride = 0;                 ///< units of 4 bytes; holds n_kv_head * d_head elements
  Index position = 0;                   ///< of q's row 0; its keys and values are in the cache
  Index n_head = 0;
  Index n_kv_head = 0;  ///< divides n_head
  Index d_head = 0;
  float scale = 1.0F;   ///< multiplies q · k; usually 1 / √d_head
  Index window = 0;     ///< keys that a token sees, its own included; 0: all
  MatrixView<float> y;  ///< [tokens, n_head * d_head] out; may be q
  /// Working memory of this call, attention_scratch(…) floats.
  std::span<float> scratch;
  Range heads;  ///< which query heads to compute
};

namespace detail {

// The scores of a block of queries, this many floats, should stay in the L2 cache. Blocks larger
// than the largest gain nothing.
inline constexpr Index attention_scores = Index{1} << 17;
inline constexpr Index least_attention_block = 32;
inline constexpr Index largest_attention_block = 96;

// Blocks of fewer queries keep them one after another; larger blocks keep them side by side.
inline constexpr Index few_queries = 12;

// Rows of a head that are made floats at a time.
inline constexpr Index attention_rows = 32;

// Floats from the scores of one query to those of the next. Not 2^n: rows would then compete for
// few sets of the cache.
constexpr Index attention_row(Index context) noexcept { return round_up(context, 16) + 16; }

constexpr Index padded_queries(Index queries) noexcept {
  return queries < few_queries ? queries : round_up(queries, 16);
}

// Neighbouring heads of the KV cache that a block of few queries reads together: 1024 elements of a
// row, and of a single query 4096. Memory is the faster, the longer the pieces are that are read in
// one go, but the scores of all these heads have to wait.
constexpr Index few_kv_heads(Index d_head, Index queries) noexcept {
  return std::max<Index>(1, (queries == 1 ? 4096 : 1024) / std::max<Index>(1, d_head));
}

}  // namespace detail

/// Floats of working memory that a call needs for up to `tokens` tokens, the last of which attends
/// to up to `context` keys (its own included).
constexpr Index attention_scratch(Index tokens, Index context, Index n_head, Index n_kv_head,
                                  Index d_head) noexcept {
  const Index row = detail::attention_row(context);
  const Index width = round_up(d_head, 16);
  const auto floats = [&](Index queries, Index scores) {
    return scores + 2 * queries * width + 2 * round_up(queries, 16);
  };
  const Index group = n_head / n_kv_head;
  const Index all = tokens * group;
  // Few queries: those of several heads of the cache.
  const Index few = std::min(all, detail::few_queries - 1);
  const Index rows = detail::attention_rows * width;
  const auto of_heads = [&](Index queries) {
    return floats(queries, queries * row) *
           std::min(n_kv_head, detail::few_kv_heads(d_head, queries));
  };
  const Index few_floats = std::max(of_heads(few), group == 1 ? of_heads(1) : 0) + rows;
  if (all < detail::few_queries) return few_floats;
  const Index many = round_up(std::min(all, detail::largest_attention_block), 16);
  const Index bound =
      std::max(detail::attention_scores, std::min(many, detail::least_attention_block) * row);
  return std::max(few_floats, floats(many, std::min(many * row, bound)) + rows);
}

/// Tokens of a block: a task should have at least that many, so that they read the keys together.
constexpr Index attention_block_tokens(Index n_head, Index n_kv_head) noexcept {
  return std::max<Index>(1, detail::largest_attention_block / (n_head / n_kv_head));
}

/// For each row t of q, h a query head and g = h / (n_head / n_kv_head), over the keys of positions
/// j ≤ position + t, with a window those of j > position + t - window:
///
///   s[j] = (K[j,g] · q[t,h]) scale        p = softmax(s)        y[t,h] = Σ_j p[j] V[j,g]
///
/// Paper    Vaswani et al. 2017, arXiv:1706.03762, 3.2; heads that share keys: Ainslie et al. 2023,
///          arXiv:2305.13245.
/// Bits     numeric contract, section 9.
/// Threads  heads and rows are independent; keys are never split. Heads of one g should be in one
///          task: they read its keys and values once.
/// Cost     2 d_head fused multiply-adds and one exp per query and key; one token reads all keys
///          and values once.
/// Oracle   ref::attention.
KRAIT_API void attention(const AttentionArgs& args) noexcept;

/// Writes a row of keys and values as `attention` reads it: from.size() elements of the type
/// `dtype` (f32, f16 or bf16), each rounded to nearest even.
///
/// Bits     numeric contract, section 9.
KRAIT_API void store_attention_row(std::span<const float> from, DType dtype, void* to) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
