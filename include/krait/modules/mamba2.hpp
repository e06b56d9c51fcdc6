#pragma once

/// \file
/// The Mamba-2 block.
///
/// Paper  Dao & Gu 2024, "Transformers are SSMs: Generalized Models and Efficient Algorithms
///        Through Structured State Space Duality", arXiv:2405.21060, section 7 (figure 6).
///
///   T         tokens of this run       d_ssm     channels of the recurrence: n_head · head_dim
///   n_head    heads (h)                d_inner   all channels: d_ssm and those of the MLP
///   head_dim  channels of a head (p)   n_group   groups of heads that share B and C
///   d_state   states of a channel (n)  xBC       x, B and C: d_ssm + 2 · n_group · d_state

#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/profile.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/norm.hpp"
#include "krait/kernels/ssd.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/causal_conv1d.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// Where the RMSNorm of the recurrence's output y stands. Each group is normalised on its own.
enum class GatedNorm {
  none,         ///< y · silu(z)
  after_gate,   ///< norm(y · silu(z))
  before_gate,  ///< norm(y) · silu(z)
};

/// Factors of what in_proj gives, by its parts (Falcon-H1, arXiv:2507.22448, section 2.3).
struct Mamba2Scales {
  float z = 1.0F;
  float x = 1.0F;
  float B = 1.0F;
  float C = 1.0F;
  float dt = 1.0F;
  friend bool operator==(const Mamba2Scales&, const Mamba2Scales&) = default;
};

/// Sizes of a Mamba-2 block; the defaults are those of the authors' class `Mamba2`, on which
/// published configurations rely.
struct Mamba2Spec {
  Index d_state = 128;
  Index d_conv = 4;
  Index expand = 2;
  Index head_dim = 64;
  Index n_group = 1;
  Index d_inner = 0;           ///< 0: expand · d_model
  Index d_ssm = 0;             ///< 0: d_inner; if less, the other channels are a gated MLP
  bool conv_bias = true;       ///< conv1d.bias exists
  bool bias = false;           ///< in_proj.bias and out_proj.bias exist
  bool D_per_channel = false;  ///< D is [d_ssm] rather than [n_head]
  GatedNorm norm = GatedNorm::after_gate;
  float norm_eps = 1e-5F;
  float dt_min = 0.0F;  ///< time steps are clamped to [dt_min, dt_max]
  float dt_max = std::numeric_limits<float>::infinity();
  Mamba2Scales scales = {};

  /// A copy with every 0 replaced by the size it stands for.
  Mamba2Spec resolved(Index d_model) const noexcept {
    Mamba2Spec spec = *this;
    if (spec.d_inner == 0) spec.d_inner = expand * d_model;
    if (spec.d_ssm == 0) spec.d_ssm = spec.d_inner;
    return spec;
  }

  /// Derived sizes. Call them on a resolved spec.
  Index n_head() const noexcept { return d_ssm / head_dim; }
  Index d_mlp() const noexcept { return d_inner - d_ssm; }
  Index conv_dim() const noexcept { return d_ssm + 2 * n_group * d_state; }
  Index in_proj_rows() const noexcept { return 2 * d_mlp() + d_ssm + conv_dim() + n_head(); }

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  KRAIT_API Result<std::unique_ptr<const Block>> bind(const WeightScope& weights,
                                                      Bookings& bookings) const;
  KRAIT_API std::vector<BlockMatrix> matrices(Index d_model) const;

  friend bool operator==(const Mamba2Spec&, const Mamba2Spec&) = default;
};

/// A state-space block with one decay per head, on rows of d_model floats.
class Mamba2 final : public Block {
 public:
  KRAIT_API static Result<std::unique_ptr<const Block>> bind(const Mamba2Spec& spec,
                                                             const WeightScope& weights,
                                                             Bookings& bookings);

  void forward(BlockContext& ctx) const noexcept override {
    const Index d_mlp = spec_.d_mlp();
    const Index d_ssm = spec_.d_ssm;
    const auto parts = ctx.scratch(parts_, spec_.in_proj_rows());  // [T, all of the below]
    const auto z0 = parts.cols_from(0, d_mlp);                     // [T, d_mlp]
    const auto x0 = parts.cols_from(d_mlp, d_mlp);                 // [T, d_mlp]
    const auto z = parts.cols_from(2 * d_mlp, d_ssm);              // [T, d_ssm]
    const auto xBC = parts.cols_from(2 * d_mlp + d_ssm, spec_.conv_dim());
    const auto dt_raw = parts.cols_from(parts.cols - spec_.n_head(), spec_.n_head());
    const auto out = ctx.scratch(out_, spec_.d_inner);  // [T, d_mlp + d_ssm]
    const auto y = out.cols_from(d_mlp, d_ssm);         // [T, d_ssm]

    profile::Zone zone("in_proj");
    in_proj_.apply(ctx, ctx.x, parts);  // [z0; x0; z; x; B; C; dt] = in_proj(x)
    scale(spec_, ctx.executor, parts);
    zone.next("conv1d");
    ctx.record(trail_.xBC, xBC);  // (records tentative tokens for replay)
    ctx.record(trail_.dt_raw, dt_raw);
    convolve(ctx, xBC, xBC);  // [x; B; C] = silu(conv1d([x; B; C]))
    const Index d_B = spec_.n_group * spec_.d_state;
    ctx.visit(Site::conv, xBC.cols_from(0, d_ssm));
    ctx.visit(Site::B, xBC.cols_from(d_ssm, d_B));
    ctx.visit(Site::C, xBC.cols_from(d_ssm + d_B, d_B));
    ctx.visit(Site::dt, dt_raw);
    ctx.visit(Site::gate, z);
    ctx.visit(Site::scan_input, xBC.cols_from(0, d_ssm));
    zone.next("scan");
    if (ctx.has_hooks) [[unlikely]] {
      scan_with_hooks(ctx, xBC, dt_raw, y);
    } else {
      scan(ctx, ctx.sequences, xBC, dt_raw, y);
    }
    ctx.visit(Site::scan, y);
    zone.next("gate");
    const ItemCost cost = ItemCost::of(0, 40 * out.cols);
    parallel_for(ctx.executor, y.rows, row_block, cost, [&](Range rows) {
      for (Index t = rows.begin; t < rows.end; ++t) {
        if (d_mlp > 0) kernels::silu_mul(x0.row(t), z0.row(t), out.cols_from(0, d_mlp).row(t));
      }
      gate(y.rows_from(rows.begin, rows.size()), z.rows_from(rows.begin, rows.size()));
    });
    ctx.visit(Site::mixed, out);
    zone.next("out_proj");
    out_proj_.apply(ctx, out, ctx.x);  // x = out_proj([silu(z0) x0; y])
  }

  // The recurrences of forward, from what it recorded. C and z change the output, not the state.
  void replay(BlockContext& ctx) const noexcept override {
    const auto xBC = ctx.scratch(parts_, spec_.conv_dim());
    convolve(ctx, ctx.recorded(trail_.xBC, spec_.conv_dim()), xBC);
    scan(ctx, ctx.sequences, xBC, ctx.recorded(trail_.dt_raw, spec_.n_head()), {});
  }

  bool knows_pairs() const noexcept override { return true; }
  std::vector<NoiseSite> noise_sites() const override;

  std::string description() const override {
    return "Mamba2, " + std::to_string(spec_.n_head()) + " heads of " +
           std::to_string(spec_.head_dim) + ", d_state " + std::to_string(spec_.d_state) + ", " +
           std::to_string(spec_.n_group) + (spec_.n_group == 1 ? " group" : " groups");
  }

  /// Each part of what in_proj gives, or of its gradient, times its factor; parts are
  /// [tokens, in_proj_rows].
  static void scale(const Mamba2Spec& spec, Executor& executor, MatrixView<float> parts) noexcept {
    if (spec.scales == Mamba2Scales{}) return;
    const Index d_B = spec.n_group * spec.d_state;
    const std::pair<float, Index> widths[] = {{spec.scales.z, spec.d_ssm},
                                              {spec.scales.x, spec.d_ssm},
                                              {spec.scales.B, d_B},
                                              {spec.scales.C, d_B},
                                              {spec.scales.dt, spec.n_head()}};
    parallel_for(executor, parts.rows, 8, ItemCost::of(0, 2 * parts.cols), [&](Range rows) {
      for (Index t = rows.begin; t < rows.end; ++t) {
        Index first = 2 * spec.d_mlp();
        for (const auto& [factor, width] : widths) {
          const std::span<float> part = parts.cols_from(first, width).row(t);
          kernels::scale(factor, part, part);
          first += width;
        }
      }
    });
  }

 private:
  static constexpr Index channel_block = 64;  // threads share the convolution in such blocks
  static constexpr Index row_block = 4;       // and the gate's rows in these

  void convolve(const BlockContext& ctx, MatrixView<const float> raw,
                MatrixView<float> xBC) const noexcept {
    parallel_for(ctx.executor, spec_.conv_dim(), channel_block, CausalConv1d::cost(xBC.rows),
                 [&](Range channels) { conv1d_.apply(ctx.sequences, raw, xBC, channels); });
  }

  // S[h,p,n] = a S[h,p,n] + dt x[p] B[n];  y[h,p] = C · S[h,p] + D x[p], for every sequence of the
  // run; without y only the states.
  void scan(const BlockContext& ctx, std::span<const SequenceRows> sequences,
            MatrixView<const float> xBC, MatrixView<const float> dt_raw,
            MatrixView<float> y) const noexcept {
    const Index d_B = spec_.n_group * spec_.d_state;
    const auto x = xBC.cols_from(0, spec_.d_ssm);
    const auto B = xBC.cols_from(spec_.d_ssm, d_B);
    const auto C = xBC.cols_from(spec_.d_ssm + d_B, d_B);
    const Index floats = spec_.head_dim * spec_.d_state;  // of a head's state: read and written
    const ItemCost cost = ItemCost::of(8 * floats * std::ssize(sequences), 6 * floats * xBC.rows);
    parallel_for(ctx.executor, spec_.n_head(), 1, cost, [&](Range heads) {
      for_each_part(sequences, [&](const SequenceRows& rows) {
        rows.take(ssm_state_, {heads.begin * floats, heads.end * floats});
        const auto of = [&](auto view) {
          return view.data == nullptr ? view : view.rows_from(rows.first, rows.count);
        };
        kernels::ssd_scan({.x = of(x),
                           .dt_raw = of(dt_raw),
                           .B = of(B),
                           .C = y.data == nullptr ? MatrixView<const float>{} : of(C),
                           .A = A_,
                           .dt_bias = dt_bias_,
                           .D = D_,
                           .D_per_channel = spec_.D_per_channel,
                           .dt_min = spec_.dt_min,
                           .dt_max = spec_.dt_max,
                           .state = rows.slot(ssm_state_).data(),
                           .n_head = spec_.n_head(),
                           .head_dim = spec_.head_dim,
                           .d_state = spec_.d_state,
                           .n_group = spec_.n_group,
                           .y = of(y),
                           .heads = heads});
      });
    });
  }

  // scan, token by token where a hook wants the state.
  void scan_with_hooks(const BlockContext& ctx, MatrixView<const float> xBC,
                       MatrixView<const float> dt_raw, MatrixView<float> y) const noexcept;
  // y of one token, from the state after it, which the sequence's hook may change.
  void read_state(const BlockContext& ctx, const SequenceRows& rows, std::span<const float> xBC,
                  std::span<float> y) const noexcept;

  // y = norm(y · silu(z)) or norm(y) · silu(z), the statistics of every group on its own.
  void gate(MatrixView<float> y, MatrixView<const float> z) const noexcept {
    if (spec_.norm == GatedNorm::before_gate) normalize(y);
    for (Index t = 0; t < y.rows; ++t) kernels::silu_mul(y.row(t), z.row(t), y.row(t));
    if (spec_.norm == GatedNorm::after_gate) normalize(y);
  }

  void normalize(MatrixView<float> y) const noexcept {
    const Index width = y.cols / spec_.n_group;
    for (Index first = 0; first < y.cols; first += width) {
      const auto group = y.cols_from(first, width);
      kernels::rms_norm(
          {.x = group, .weight = norm_weight_ + first, .eps = spec_.norm_eps, .y = group});
    }
  }

  Mamba2Spec spec_;
  Linear in_proj_;                      // [2 d_mlp + d_ssm + conv_dim + n_head, d_model]
  CausalConv1d conv1d_;                 // [conv_dim, 1, d_conv]
  Linear out_proj_;                     // [d_model, d_inner]
  const float* A_ = nullptr;            // [n_head], -exp(A_log) log2(e)
  const float* D_ = nullptr;            // [n_head] or [d_ssm]
  const float* dt_bias_ = nullptr;      // [n_head]
  const float* norm_weight_ = nullptr;  // [d_ssm] or null
  StateSlot ssm_state_;                 // [n_head, head_dim, d_state]
  ScratchSlot parts_, out_;
  struct {
    ScratchSlot xBC, dt_raw;  // xBC before the convolution
  } trail_;
};

}  // namespace v0_1
}  // namespace krait
