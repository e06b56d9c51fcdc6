#pragma once

/// \file
/// The Mamba block: the page to read first.
///
/// Paper  Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
///        arXiv:2312.00752, section 3 (Algorithm 2, figure 3).
///
///   T        tokens of this run        d_model  width of the residual stream
///   d_inner  channels (d)              d_state  states of a channel (n)
///   u        scan input                dt_rank  rank of the projection to the time steps dt
///   z        gate branch               h        recurrent state

#include <memory>
#include <string>
#include <vector>

#include "krait/core/profile.hpp"
#include "krait/kernels/norm.hpp"
#include "krait/kernels/selective_scan.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/causal_conv1d.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// Sizes of a Mamba block; the defaults are those of the published models.
struct MambaSpec {
  Index d_state = 16;
  Index d_conv = 4;
  Index expand = 2;
  Index d_inner = 0;      ///< 0: expand · d_model
  Index dt_rank = 0;      ///< 0: ⌈d_model / 16⌉
  bool conv_bias = true;  ///< conv1d.bias exists
  bool bias = false;      ///< in_proj.bias and out_proj.bias exist
  /// Epsilon of the weightless RMSNorm of dt, B and C after x_proj (Falcon-Mamba, arXiv:2410.05355,
  /// section 2.1); below 0: none.
  float inner_norm_eps = -1.0F;
  /// These norms have weights, dt_layernorm, b_layernorm and c_layernorm (Jamba, arXiv:2403.19887).
  bool inner_norm_weights = false;

  /// A copy with every 0 replaced by the size it stands for.
  MambaSpec resolved(Index d_model) const noexcept {
    MambaSpec spec = *this;
    if (spec.d_inner == 0) spec.d_inner = expand * d_model;
    if (spec.dt_rank == 0) spec.dt_rank = (d_model + 15) / 16;
    return spec;
  }

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  KRAIT_API Result<std::unique_ptr<const Block>> bind(const WeightScope& weights,
                                                      Bookings& bookings) const;
  KRAIT_API std::vector<BlockMatrix> matrices(Index d_model) const;

  friend bool operator==(const MambaSpec&, const MambaSpec&) = default;
};

/// A selective state-space block on rows of d_model floats.
class Mamba final : public Block {
 public:
  KRAIT_API static Result<std::unique_ptr<const Block>> bind(const MambaSpec& spec,
                                                             const WeightScope& weights,
                                                             Bookings& bookings);

  void forward(BlockContext& ctx) const noexcept override {
    const auto [d_inner, d_state, dt_rank] = sizes_;
    const auto xz = ctx.scratch(xz_, 2 * d_inner);              // [T, 2 d_inner]
    const auto u = xz.cols_from(0, d_inner);                    // [T, d_inner]
    const auto z = xz.cols_from(d_inner, d_inner);              // [T, d_inner]
    const auto dBC = ctx.scratch(dBC_, dt_rank + 2 * d_state);  // [T, dt_rank + 2 d_state]
    const auto B = dBC.cols_from(dt_rank, d_state);             // [T, d_state]
    const auto C = dBC.cols_from(dt_rank + d_state, d_state);   // [T, d_state]
    const auto dt_raw = ctx.scratch(dt_raw_, d_inner);          // [T, d_inner]

    profile::Zone zone("in_proj");
    in_proj_.apply(ctx, ctx.x, xz);  // [u; z] = in_proj(x)
    zone.next("conv1d");
    ctx.record(trail_.u, u);  // (records tentative tokens for replay)
    parallel_for(ctx.executor, d_inner, channel_block, CausalConv1d::cost(u.rows),
                 [&](Range channels) {
                   conv1d_.apply(ctx.sequences, u, u, channels);  // u = silu(conv1d(u))
                 });
    ctx.visit(Site::conv, u);
    zone.next("x_proj");
    x_proj_.apply(ctx, u, dBC);  // [δ; B; C] = x_proj(u)
    if (inner_norm_eps_ >= 0.0F) normalize(ctx, dBC);
    ctx.visit(Site::dt, dBC.cols_from(0, dt_rank));
    ctx.visit(Site::B, B);
    ctx.visit(Site::C, C);
    ctx.visit(Site::gate, z);
    zone.next("dt_proj");
    dt_proj_.apply(ctx, dBC.cols_from(0, dt_rank), dt_raw);
    zone.next("scan");
    ctx.record(trail_.dt_raw, dt_raw);
    ctx.record(trail_.B, B);
    if (ctx.has_hooks) [[unlikely]] {
      scan_with_hooks(ctx, u, dt_raw, B, C, z);  // the same in parts
    } else {
      parallel_for(ctx.executor, d_inner, channel_block, scan_cost(u.rows), [&](Range channels) {
        scan(ctx.sequences, u, dt_raw, B, C, z, u, channels);  // y = scan(u) · silu(z), into u
      });
    }
    ctx.visit(Site::mixed, u);
    zone.next("out_proj");
    out_proj_.apply(ctx, u, ctx.x);  // x = out_proj(y)
  }

  // The recurrences of forward, from what it recorded. C and z change the output, not the state.
  void replay(BlockContext& ctx) const noexcept override {
    const auto [d_inner, d_state, dt_rank] = sizes_;
    const auto raw = ctx.recorded(trail_.u, d_inner);          // [T, d_inner]
    const auto dt_raw = ctx.recorded(trail_.dt_raw, d_inner);  // [T, d_inner]
    const auto B = ctx.recorded(trail_.B, d_state);            // [T, d_state]
    const auto u = ctx.scratch(xz_, d_inner);                  // [T, d_inner]
    parallel_for(ctx.executor, d_inner, channel_block, scan_cost(u.rows), [&](Range channels) {
      conv1d_.apply(ctx.sequences, raw, u, channels);
      scan(ctx.sequences, u, dt_raw, B, B, {}, u, channels);
    });
  }

  bool knows_pairs() const noexcept override { return true; }
  std::vector<NoiseSite> noise_sites() const override;

  std::string description() const override {
    return "Mamba, d_inner " + std::to_string(sizes_.d_inner) + ", d_state " +
           std::to_string(sizes_.d_state) + ", dt_rank " + std::to_string(sizes_.dt_rank);
  }

 private:
  // Threads share the channels in blocks of this many: four cache lines of floats.
  static constexpr Index channel_block = 64;

  struct Sizes {
    Index d_inner;
    Index d_state;
    Index dt_rank;
  };

  // Estimated cost of one channel's scan.
  ItemCost scan_cost(Index tokens) const noexcept {
    return ItemCost::of(0, tokens * (16 * sizes_.d_state + 64));
  }

  // δ, B and C each divided by their root mean square, and times its weight, if there is one.
  void normalize(const BlockContext& ctx, MatrixView<float> dBC) const noexcept {
    const auto [d_inner, d_state, dt_rank] = sizes_;
    const Range parts[] = {
        {0, dt_rank}, {dt_rank, dt_rank + d_state}, {dt_rank + d_state, dt_rank + 2 * d_state}};
    parallel_for(ctx.executor, dBC.rows, 16, ItemCost::of(0, 8 * dBC.cols), [&](Range rows) {
      for (std::size_t i = 0; i < 3; ++i) {
        const auto part =
            dBC.rows_from(rows.begin, rows.size()).cols_from(parts[i].begin, parts[i].size());
        kernels::rms_norm(
            {.x = part, .weight = inner_norms_[i], .eps = inner_norm_eps_, .y = part});
      }
    });
  }

  // h[d,n] = 2^(dt A) h[d,n] + dt u B;  y = (C·h + D u) silu(z), for every sequence of the run.
  void scan(std::span<const SequenceRows> sequences, MatrixView<const float> u,
            MatrixView<const float> dt_raw, MatrixView<const float> B, MatrixView<const float> C,
            MatrixView<const float> z, MatrixView<float> y, Range channels) const noexcept {
    for_each_part(sequences, [&](const SequenceRows& rows) {
      const Index first = kernels::scan_offset(channels.begin, 0, sizes_.d_state);
      rows.take(ssm_state_, {first, first + kernels::scan_size(channels.size(), sizes_.d_state)});
      kernels::selective_scan({.u = u.rows_from(rows.first, rows.count),
                               .dt_raw = dt_raw.rows_from(rows.first, rows.count),
                               .B = B.rows_from(rows.first, rows.count),
                               .C = C.rows_from(rows.first, rows.count),
                               .z = z.data ? z.rows_from(rows.first, rows.count) : z,
                               .A = A_,
                               .D = D_,
                               .h = rows.slot(ssm_state_).data(),
                               .d_state = sizes_.d_state,
                               .y = y.rows_from(rows.first, rows.count),
                               .channels = channels});
    });
  }

  // scan, from u into u, with the sites that lie between its parts.
  void scan_with_hooks(const BlockContext& ctx, MatrixView<float> u, MatrixView<float> dt_raw,
                       MatrixView<const float> B, MatrixView<const float> C,
                       MatrixView<const float> z) const noexcept;
  // y[d] of one token, from the state after it, which the sequence's hook may change.
  void read_state(const BlockContext& ctx, const SequenceRows& rows, std::span<float> u,
                  std::span<const float> C) const noexcept;

  Sizes sizes_{};
  float inner_norm_eps_ = -1.0F;
  const float* inner_norms_[3] = {};  // [dt_rank], [d_state], [d_state], or null
  Linear in_proj_;                    // [2 d_inner, d_model]
  CausalConv1d conv1d_;               // [d_inner, 1, d_conv]
  Linear x_proj_;                     // [dt_rank + 2 d_state, d_inner]
  Linear dt_proj_;                    // [d_inner, dt_rank], with bias
  Linear out_proj_;                   // [d_model, d_inner]
  const float* A_ = nullptr;          // -exp(A_log) log2(e), layout of kernels/selective_scan.hpp
  const float* D_ = nullptr;          // [d_inner]
  StateSlot ssm_state_;               // [⌈d_inner/16⌉, d_state, 16]
  ScratchSlot xz_, dBC_, dt_raw_;
  struct {
    ScratchSlot u, dt_raw, B;  // u before the convolution
  } trail_;
};

}  // namespace v0_1
}  // namespace krait
