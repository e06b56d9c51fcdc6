#pragma once

/// \file
/// The attention block.
///
/// Paper  Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2; heads
///        that share keys and values: Ainslie et al. 2023, arXiv:2305.13245; rotary embedding: Su
///        et al. 2021, arXiv:2104.09864.
///
///   T       tokens of this run     n_kv_head  heads of keys and values, each of n_head / n_kv_head
///   n_head  heads of queries                  heads of queries
///   d_head  channels of a head

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "krait/core/profile.hpp"
#include "krait/kernels/attention.hpp"
#include "krait/kernels/rotary.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// The rotary position embedding of queries and keys.
struct RotarySpec {
  double theta = 10000.0;
  Index dim = 0;             ///< elements of a head that are rotated, an even number; 0: all
  bool interleaved = false;  ///< pairs are neighbours, as in GPT-J, not halves
  double factor = 1.0;       ///< positions are divided by it

  friend bool operator==(const RotarySpec&, const RotarySpec&) = default;
};

/// Sizes of an attention block.
struct AttentionSpec {
  Index n_head = 0;
  Index n_kv_head = 0;  ///< 0: n_head
  Index d_head = 0;     ///< 0: d_model / n_head
  float scale = 0.0F;   ///< of the products of queries and keys; 0: 1 / √d_head
  std::optional<RotarySpec> rope = RotarySpec();
  bool bias = false;      ///< q_proj.bias, k_proj.bias and v_proj.bias exist
  bool out_bias = false;  ///< o_proj.bias exists

  /// The same with every 0 replaced by what it stands for.
  AttentionSpec resolved(Index d_model) const {
    AttentionSpec spec = *this;
    if (spec.n_kv_head == 0) spec.n_kv_head = n_head;
    if (spec.d_head == 0 && n_head > 0) spec.d_head = d_model / n_head;
    if (spec.scale == 0.0F && spec.d_head > 0) {
      spec.scale = 1.0F / std::sqrt(static_cast<float>(spec.d_head));
    }
    if (spec.rope && spec.rope->dim == 0) spec.rope->dim = spec.d_head;
    return spec;
  }

  /// Of a resolved spec: floats of one token's row of the cache, its keys and its values.
  Index cache_row() const noexcept { return 2 * n_kv_head * d_head; }

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

/// One layer's rows of the cache of one sequence, with room for those of this run.
struct CacheRows {
  std::span<float* const> pages;  ///< of kernels::attention_page_tokens rows each
  Index row_stride = 0;           ///< floats, ≥ AttentionSpec::cache_row

  float* row(Index position) const noexcept {
    constexpr Index page = kernels::attention_page_tokens;
    return pages[static_cast<std::size_t>(position / page)] + position % page * row_stride;
  }
};

/// Attention to all tokens of a sequence so far, on rows of d_model floats.
class Attention {
 public:
  KRAIT_API static Result<std::unique_ptr<const Attention>> bind(const AttentionSpec& spec,
                                                                 const WeightScope& weights,
                                                                 Plan& plan);

  /// Floats of working memory per task for runs of up to `tokens` tokens and so many keys.
  Index scores(Index tokens, Index context) const noexcept {
    return round_up(
        kernels::attention_scratch(tokens, context, spec_.n_head, spec_.n_kv_head, spec_.d_head),
        16);
  }

  /// Replaces ctx.x by the block's output and writes the rows of this run's tokens into the caches,
  /// one for each sequence. `memory` has `per_task` floats, as many as `scores` says, for each task
  /// of the executor.
  void forward(BlockContext& ctx, std::span<const CacheRows> caches, std::span<float> memory,
               Index per_task) const noexcept {
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    const auto q = ctx.scratch(q_, spec_.n_head * spec_.d_head);  // [T, n_head d_head]
    const auto k = ctx.scratch(k_, d_kv);                         // [T, n_kv_head d_head]
    const auto v = ctx.scratch(v_, d_kv);                         // [T, n_kv_head d_head]

    profile::Zone zone("qkv_proj");
    q_proj_.apply(ctx, ctx.x, q);
    k_proj_.apply(ctx, ctx.x, k);
    v_proj_.apply(ctx, ctx.x, v);
    zone.next("rotary");
    for (std::size_t i = 0; i < caches.size(); ++i) {
      store(ctx.executor, ctx.sequences[i], caches[i], q, k, v);
    }
    zone.next("attention");
    attend(ctx, caches, memory, per_task, q);  // q = softmax(q Kᵀ scale) V
    zone.next("o_proj");
    o_proj_.apply(ctx, q, ctx.x);
  }

  std::string description() const {
    return "Attention, " + std::to_string(spec_.n_head) + " heads of " +
           std::to_string(spec_.d_head) + ", " + std::to_string(spec_.n_kv_head) + " of keys";
  }

 private:
  static constexpr Index row_block = 4;  // fewer rows are done before a thread would begin

  // Rotates queries and keys of a sequence's rows, and puts keys and values into its cache.
  void store(Executor& executor, const SequenceRows& sequence, const CacheRows& cache,
             MatrixView<float> q, MatrixView<float> k, MatrixView<float> v) const noexcept {
    const ItemCost cost = ItemCost::of(8 * spec_.cache_row(), 8 * (q.cols + k.cols));
    parallel_for(executor, sequence.count, row_block, cost, [&](Range rows) {
      const Index first = sequence.first + rows.begin;
      const Index position = sequence.position + rows.begin;
      for (const MatrixView<float>& x : {q, k}) {
        if (!spec_.rope) break;
        kernels::rotary({.x = x.rows_from(first, rows.size()),
                         .position = position,
                         .d_head = spec_.d_head,
                         .frequencies = frequencies_,
                         .interleaved = spec_.rope->interleaved});
      }
      for (Index t = 0; t < rows.size(); ++t) {
        float* row = cache.row(position + t);
        std::ranges::copy(k.row(first + t), row);
        std::ranges::copy(v.row(first + t), row + k.cols);
      }
    });
  }

  // q = softmax(q Kᵀ scale) V, for every sequence of the run.
  KRAIT_API void attend(const BlockContext& ctx, std::span<const CacheRows> caches,
                        std::span<float> memory, Index per_task,
                        MatrixView<float> q) const noexcept;

  AttentionSpec spec_;
  Linear q_proj_;                    // [n_head d_head, d_model]
  Linear k_proj_, v_proj_;           // [n_kv_head d_head, d_model]
  Linear o_proj_;                    // [d_model, n_head d_head]
  std::vector<double> frequencies_;  // of rope
  ScratchSlot q_, k_, v_;
};

}  // namespace v0_1
}  // namespace krait
