#pragma once

/// \file
/// The causal self-attention block, for hybrids of attention and recurrent blocks.
///
/// Paper  Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2; heads
///        that share keys and values: Ainslie et al. 2023, arXiv:2305.13245; rotary embedding: Su
///        et al. 2021, arXiv:2104.09864.
///
///   T       tokens of this run     n_kv_head  heads of keys and values; each serves
///   n_head  heads of queries                  n_head / n_kv_head heads of queries (GQA)
///   d_head  channels of a head

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/profile.hpp"
#include "krait/kernels/attention.hpp"
#include "krait/kernels/rotary.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/causal_conv1d.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// The rotary embedding of queries and keys (Su et al. 2021, arXiv:2104.09864).
struct RotarySpec {
  double theta = 10000.0;
  Index dim = 0;             ///< leading elements of a head that are rotated, even; 0: all
  double factor = 1.0;       ///< divides the positions (linear scaling)
  bool interleaved = false;  ///< pairs are (2i, 2i + 1) instead of (i, i + dim / 2)
  /// Llama 3's scaling, if above 0: `factor` divides the positions of pairs that turn less than
  /// low_turns times in so many tokens, of those up to high_turns in part, of others not.
  Index original_context = 0;
  double low_turns = 1.0;
  double high_turns = 4.0;
  /// YaRN's scaling (Peng et al. 2023, arXiv:2309.00071) instead: what is divided grows from pair
  /// to pair, between those that turn high_turns and low_turns times in original_context tokens.
  bool yarn = false;
  bool whole_pairs = true;  ///< of YaRN: from a pair to a pair, not from places between them
  std::vector<double> divisors = {};  ///< of each pair's frequency; empty: 1

  KRAIT_API Result<void> validate(Index d_head) const;

  /// Radians per position of the pairs. `dim` must not be 0. Numeric contract, section 10.
  KRAIT_API std::vector<double> frequencies() const;

  friend bool operator==(const RotarySpec&, const RotarySpec&) = default;
};

/// Names of the block's tensors in a checkpoint.
struct AttentionNames {
  std::string q = "q_proj";
  std::string k = "k_proj";
  std::string v = "v_proj";
  std::string qkv = {};  ///< one matrix with the rows of all three instead; empty: three
  std::string out = "o_proj";
  std::string conv = "conv1d";
  std::string q_adapter = {};  ///< of the projections' own adapters
  std::string k_adapter = {};
  std::string v_adapter = {};

  friend bool operator==(const AttentionNames&, const AttentionNames&) = default;
};

/// Sizes of an attention block. Several heads of queries may share keys and values (GQA).
struct AttentionSpec {
  Index n_head = 1;
  Index n_kv_head = 0;  ///< divides n_head; 0: n_head
  Index d_head = 0;     ///< 0: d_model / n_head
  float scale = 0.0F;   ///< multiplies q · k; 0: 1 / √d_head
  std::optional<RotarySpec> rotary = {};
  bool bias = false;      ///< q_proj, k_proj and v_proj have biases
  bool out_bias = false;  ///< o_proj has a bias
  Index window = 0;       ///< last keys that a token sees, its own included; 0: all
  /// Taps of a causal convolution of queries, keys and values over time, without activation, in
  /// front of the rotary embedding; 0: none.
  Index d_conv = 0;
  bool conv_bias = true;  ///< the convolution has a bias
  /// Queries, keys and values are W x + B A x, A [rank, d_model], with tensors `0.weight`, A, and
  /// `1.weight`, B, of their own; 0: W x.
  Index adapter_rank = 0;
  AttentionNames names = {};

  /// A copy with every 0 replaced by the value it stands for.
  KRAIT_API AttentionSpec resolved(Index d_model) const;

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  KRAIT_API Result<std::unique_ptr<const Block>> bind(const WeightScope& weights,
                                                      Bookings& bookings) const;
  KRAIT_API std::vector<BlockMatrix> matrices(Index d_model) const;

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

/// Causal self-attention on rows of d_model floats, with keys and values in the KV cache of each
/// sequence.
class Attention final : public Block {
 public:
  KRAIT_API static Result<std::unique_ptr<const Block>> bind(const AttentionSpec& spec,
                                                             const WeightScope& weights,
                                                             Bookings& bookings);

  void forward(BlockContext& ctx) const noexcept override {
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    const auto qkv = ctx.scratch(qkv_, d_q + 2 * d_kv);
    const auto q = qkv.cols_from(0, d_q);          // [T, n_head d_head]
    const auto kv = qkv.cols_from(d_q, 2 * d_kv);  // [T, 2 n_kv_head d_head]
    const auto k = kv.cols_from(0, d_kv);          // [T, n_kv_head d_head]
    const auto v = kv.cols_from(d_kv, d_kv);       // [T, n_kv_head d_head]

    profile::Zone zone("qkv_proj");
    if (is_fused_) {
      qkv_proj_.apply(ctx, ctx.x, qkv);
    } else {
      q_proj_.apply(ctx, ctx.x, q);
      k_proj_.apply(ctx, ctx.x, k);
      v_proj_.apply(ctx, ctx.x, v);
    }
    if (spec_.d_conv > 0) {
      ctx.record(raw_trail_, qkv);
      convolve(ctx, qkv, qkv);
    }
    ctx.visit(Site::unrotated, q);
    zone.next("rotary");
    rotate(ctx, q);
    rotate(ctx, k);
    ctx.visit(Site::query, q);
    ctx.visit(Site::key, k);
    ctx.visit(Site::value, v);
    ctx.record(trail_, kv);  // (records tentative tokens for replay)
    store(ctx, kv);
    zone.next("attention");
    if (ctx.has_hooks) [[unlikely]] {
      attend_with_hooks(ctx, kv, q);
    } else {
      for (const SequenceRows& rows : ctx.sequences) attend(ctx, rows, q);  // into q
    }
    ctx.visit(Site::scan, q);
    ctx.visit(Site::mixed, q);
    zone.next("out_proj");
    ctx.x = ctx.x.cols_from(0, out_proj_.out());  // of rows that have the embedding too
    out_proj_.apply(ctx, q, ctx.x);
  }

  // Writes the keys and values of the kept tokens, which the cache of another copy may lack.
  void replay(BlockContext& ctx) const noexcept override {
    if (spec_.d_conv > 0) {
      const Index d_qkv = (spec_.n_head + 2 * spec_.n_kv_head) * spec_.d_head;
      convolve(ctx, ctx.recorded(raw_trail_, d_qkv), ctx.scratch(qkv_, d_qkv));
    }
    store(ctx, ctx.recorded(trail_, 2 * spec_.n_kv_head * spec_.d_head));
  }

  bool knows_pairs() const noexcept override { return true; }
  std::vector<NoiseSite> noise_sites() const override;

  std::string description() const override {
    return "Attention, " + std::to_string(spec_.n_head) + " heads of " +
           std::to_string(spec_.d_head) + ", " + std::to_string(spec_.n_kv_head) + " of keys";
  }

 private:
  void convolve(const BlockContext& ctx, MatrixView<const float> raw,
                MatrixView<float> qkv) const noexcept {
    parallel_for(ctx.executor, qkv.cols, 64, CausalConv1d::cost(qkv.rows),
                 [&](Range channels) { conv1d_.apply(ctx.sequences, raw, qkv, channels); });
  }

  // The first position that matters for a token at `position`: the first of a page of the cache.
  Index first_page(Index position) const noexcept {
    const Index before = position + 1 - spec_.window;
    return spec_.window > 0 && before > 0 ? before / cache_page_tokens : 0;
  }

  // Applies the rotary embedding to every head of every row.
  void rotate(const BlockContext& ctx, MatrixView<float> x) const noexcept {
    if (frequencies_.empty()) return;
    for (const SequenceRows& rows : ctx.sequences) {
      const ItemCost cost = ItemCost::of(0, 8 * x.cols + 100 * std::ssize(frequencies_));
      parallel_for(ctx.executor, rows.count, 4, cost, [&](Range range) {
        kernels::rotary({.x = x.rows_from(rows.first + range.begin, range.size()),
                         .position = rows.position + range.begin,
                         .d_head = spec_.d_head,
                         .frequencies = frequencies_,
                         .interleaved = spec_.rotary->interleaved});
      });
    }
  }

  // Appends the rows to the KV caches of their sequences, in the type that those have.
  void store(const BlockContext& ctx, MatrixView<const float> kv) const noexcept {
    for (const SequenceRows& rows : ctx.sequences) {
      for (Index t = 0; t < rows.count && !rows.is_beside; ++t) {
        store(kv.row(rows.first + t), rows, t);
      }
    }
  }
  void store(std::span<const float> kv, const SequenceRows& rows, Index t) const noexcept {
    const Index position = rows.position + t;
    const std::size_t d_kv = kv.size() / 2;
    kernels::store_attention_row(kv.first(d_kv), keys_.dtype,
                                 cache_row(rows.pages, keys_, position));
    kernels::store_attention_row(kv.last(d_kv), values_.dtype,
                                 cache_row(rows.pages, values_, position));
  }

  // attend for all sequences, with what hooks make of cached keys and values. Rows beside others
  // attend to the others' cache, in which their own token takes its place meanwhile.
  void attend_with_hooks(const BlockContext& ctx, MatrixView<const float> kv,
                         MatrixView<float> q) const noexcept;
  // The same for one token whose hook wants cached keys or values.
  void attend_changed(const BlockContext& ctx, const SequenceRows& rows,
                      std::span<float> q) const noexcept;

  // Replaces the sequence's rows of q by Σ_j softmax(q·K scale)_j V_j. Threads share the heads of
  // the cache and blocks of rows, never the keys.
  void attend(const BlockContext& ctx, const SequenceRows& rows,
              MatrixView<float> q) const noexcept {
    const Index group = spec_.n_head / spec_.n_kv_head;
    const Index block = kernels::attention_block_tokens(spec_.n_head, spec_.n_kv_head);
    const Index blocks = (rows.count + block - 1) / block;
    const Index end = rows.position + rows.count;
    const Index keys = spec_.window > 0 ? std::min(end, rows.count + spec_.window) : end;
    const Index width = 2 * spec_.d_head;
    const ItemCost cost =
        ItemCost::of(4 * width * keys, 2 * group * width * keys * std::min(block, rows.count));
    parallel_for(ctx.executor, blocks * spec_.n_kv_head, 1, cost, [&](Range range, int task) {
      for (Index first = range.begin; first < range.end;) {
        // All neighbouring heads of one block that the task has: their keys are read together.
        const Index b = first / spec_.n_kv_head;
        const Index head = first % spec_.n_kv_head;
        const Index heads = std::min(range.end - first, spec_.n_kv_head - head);
        const Index row = b * block;
        const auto part = q.rows_from(rows.first + row, std::min(block, rows.count - row));
        const Index page = first_page(rows.position + row);
        const Index pages = (end + cache_page_tokens - 1) / cache_page_tokens - page;
        kernels::attention({.q = part,
                            .pages = {rows.pages + page, static_cast<std::size_t>(pages)},
                            .dtype = keys_.dtype,
                            .key_offset = keys_.offset,
                            .value_offset = values_.offset,
                            .row_stride = keys_.stride,
                            .position = rows.position + row - page * cache_page_tokens,
                            .n_head = spec_.n_head,
                            .n_kv_head = spec_.n_kv_head,
                            .d_head = spec_.d_head,
                            .scale = spec_.scale,
                            .window = spec_.window,
                            .y = part,
                            .scratch = ctx.task_memory(task),
                            .heads = {head * group, (head + heads) * group}});
        first += heads;
      }
    });
  }

  AttentionSpec spec_;
  bool is_fused_ = false;
  Linear qkv_proj_;                  // [(n_head + 2 n_kv_head) d_head, d_model], if fused
  Linear q_proj_;                    // [n_head d_head, d_model]
  Linear k_proj_;                    // [n_kv_head d_head, d_model]
  Linear v_proj_;                    // [n_kv_head d_head, d_model]
  Linear out_proj_;                  // [d_model, n_head d_head]
  CausalConv1d conv1d_;              // of q, k and v together, if there is one
  std::vector<double> frequencies_;  // of pairs; empty without a rotary embedding
  CacheSlot keys_, values_;          // [tokens, n_kv_head d_head]
  ScratchSlot qkv_, trail_, raw_trail_;
};

}  // namespace v0_1
}  // namespace krait
