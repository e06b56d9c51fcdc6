#pragma once

/// \file
/// The Mamba-2 block.
///
/// Paper  Dao & Gu 2024, "Transformers are SSMs: Generalized Models and Efficient Algorithms
///        Through Structured State Space Duality", arXiv:2405.21060, section 7 (figure 6).
///
///   T         tokens of this run       d_ssm     channels of the recurrence: n_head · head_dim
///   n_head    heads (h)                d_inner   all channels: d_ssm and those of the MLP
///   head_dim  channels of a head (p)   n_group   heads of a group share B and C
///   d_state   states of a channel (n)  dBC       x, B and C together: d_ssm + 2 · n_group ·
///   d_state

#include <limits>
#include <memory>
#include <numbers>
#include <string>
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

/// Where the norm of the recurrence's output stands; its statistics are those of a group.
enum class GatedNorm {
  none,         ///< y · silu(z)
  after_gate,   ///< norm(y · silu(z))
  before_gate,  ///< norm(y) · silu(z)
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

  /// The same with every 0 replaced by what it stands for.
  Mamba2Spec resolved(Index d_model) const noexcept {
    Mamba2Spec spec = *this;
    if (spec.d_inner == 0) spec.d_inner = expand * d_model;
    if (spec.d_ssm == 0) spec.d_ssm = spec.d_inner;
    return spec;
  }

  /// Of a resolved spec.
  Index n_head() const noexcept { return d_ssm / head_dim; }
  Index d_mlp() const noexcept { return d_inner - d_ssm; }
  Index conv_dim() const noexcept { return d_ssm + 2 * n_group * d_state; }
  Index in_proj_rows() const noexcept { return 2 * d_mlp() + d_ssm + conv_dim() + n_head(); }

  Result<void> validate(Index d_model) const {
    KRAIT_RETURN_IF_ERROR(check_extent("expand", expand));
    const Mamba2Spec spec = resolved(d_model);
    KRAIT_RETURN_IF_ERROR(check_extent("d_state", spec.d_state));
    KRAIT_RETURN_IF_ERROR(check_extent("d_conv", spec.d_conv));
    KRAIT_RETURN_IF_ERROR(check_extent("d_inner", spec.d_inner));
    KRAIT_RETURN_IF_ERROR(check_extent("d_ssm", spec.d_ssm));
    KRAIT_RETURN_IF_ERROR(check_extent("head_dim", spec.head_dim));
    KRAIT_RETURN_IF_ERROR(check_extent("n_group", spec.n_group));
    if (spec.d_ssm > spec.d_inner) {
      return bad_spec("d_ssm", "at most d_inner (" + std::to_string(spec.d_inner) + ")",
                      std::to_string(spec.d_ssm));
    }
    if (spec.d_ssm % spec.head_dim != 0) {
      return bad_spec("head_dim", "a divisor of d_ssm (" + std::to_string(spec.d_ssm) + ")",
                      std::to_string(spec.head_dim));
    }
    if (spec.n_head() % spec.n_group != 0) {
      return bad_spec("n_group",
                      "a divisor of the number of heads (" + std::to_string(spec.n_head()) + ")",
                      std::to_string(spec.n_group));
    }
    KRAIT_RETURN_IF_ERROR(check_extent("n_group · d_state", spec.n_group * spec.d_state));
    KRAIT_RETURN_IF_ERROR(check_extent("d_ssm · d_state", spec.d_ssm * spec.d_state));
    KRAIT_RETURN_IF_ERROR(check_extent("d_conv · channels", spec.d_conv * spec.conv_dim()));
    if (!(spec.norm_eps >= 0.0F)) {
      return bad_spec("norm_eps", "a number of at least 0", spec_number(spec.norm_eps));
    }
    if (!(spec.dt_min >= 0.0F && spec.dt_min <= spec.dt_max)) {
      return bad_spec("dt limits", "0 <= lower <= upper",
                      spec_number(spec.dt_min) + " and " + spec_number(spec.dt_max));
    }
    return {};
  }

  std::string to_string(Index d_model) const {
    const Mamba2Spec spec = resolved(d_model);
    std::string text = "Mamba2 d_inner " + std::to_string(spec.d_inner) + " n_head " +
                       std::to_string(spec.n_head()) + " head_dim " +
                       std::to_string(spec.head_dim) + " d_state " + std::to_string(spec.d_state) +
                       " n_group " + std::to_string(spec.n_group) + " d_conv " +
                       std::to_string(spec.d_conv);
    if (spec.d_mlp() > 0) text += " d_mlp " + std::to_string(spec.d_mlp());
    text += norm == GatedNorm::none ? " no-norm" : " norm-eps " + spec_number(norm_eps);
    if (norm == GatedNorm::before_gate) text += " before-gate";
    if (dt_min > 0.0F || dt_max < std::numeric_limits<float>::infinity()) {
      text += " dt " + spec_number(dt_min) + " to " + spec_number(dt_max);
    }
    return text + (D_per_channel ? " D-per-channel" : "") + (conv_bias ? "" : " no-conv-bias") +
           (bias ? " bias" : "");
  }

  Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Plan& plan) const;

  friend bool operator==(const Mamba2Spec&, const Mamba2Spec&) = default;
};

/// A state-space block with one decay per head, on rows of d_model floats.
class Mamba2 final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const Mamba2Spec& spec,
                                                   const WeightScope& weights, Plan& plan);

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
    zone.next("conv1d");
    ctx.record(trail_.xBC, xBC);  // (what a verification records serves replay)
    ctx.record(trail_.dt_raw, dt_raw);
    convolve(ctx, xBC, xBC);  // [x; B; C] = silu(conv1d([x; B; C]))
    const Index d_B = spec_.n_group * spec_.d_state;
    ctx.visit(Site::conv, xBC.cols_from(0, d_ssm));
    ctx.visit(Site::B, xBC.cols_from(d_ssm, d_B));
    ctx.visit(Site::C, xBC.cols_from(d_ssm + d_B, d_B));
    ctx.visit(Site::gate, z);
    zone.next("scan");
    scan(ctx, xBC, dt_raw, y);
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

  // The recurrences of forward, from what it recorded: C and z affect its output, not the state.
  void replay(BlockContext& ctx) const noexcept override {
    const auto xBC = ctx.scratch(parts_, spec_.conv_dim());
    convolve(ctx, ctx.recorded(trail_.xBC, spec_.conv_dim()), xBC);
    scan(ctx, xBC, ctx.recorded(trail_.dt_raw, spec_.n_head()), {});
  }

  std::string description() const override {
    return "Mamba2, " + std::to_string(spec_.n_head()) + " heads of " +
           std::to_string(spec_.head_dim) + ", d_state " + std::to_string(spec_.d_state) + ", " +
           std::to_string(spec_.n_group) + (spec_.n_group == 1 ? " group" : " groups");
  }

 private:
  static constexpr Index channel_block = 64;  // of the convolution, split between threads
  static constexpr Index row_block = 4;       // fewer rows are done before a thread would begin

  void convolve(const BlockContext& ctx, MatrixView<const float> raw,
                MatrixView<float> xBC) const noexcept {
    parallel_for(ctx.executor, spec_.conv_dim(), channel_block, CausalConv1d::cost(xBC.rows),
                 [&](Range channels) { conv1d_.apply(ctx.sequences, raw, xBC, channels); });
  }

  // S[h,p,n] = a S[h,p,n] + dt x[p] B[n];  y[h,p] = C · S[h,p] + D x[p], for every sequence of the
  // run; without y only the states.
  void scan(const BlockContext& ctx, MatrixView<const float> xBC, MatrixView<const float> dt_raw,
            MatrixView<float> y) const noexcept {
    const Index d_B = spec_.n_group * spec_.d_state;
    const auto x = xBC.cols_from(0, spec_.d_ssm);
    const auto B = xBC.cols_from(spec_.d_ssm, d_B);
    const auto C = xBC.cols_from(spec_.d_ssm + d_B, d_B);
    const Index floats = spec_.head_dim * spec_.d_state;  // of a head's state: read and written
    const ItemCost cost =
        ItemCost::of(8 * floats * std::ssize(ctx.sequences), 6 * floats * xBC.rows);
    parallel_for(ctx.executor, spec_.n_head(), 1, cost, [&](Range heads) {
      for (const SequenceRows& rows : ctx.sequences) {
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
      }
    });
  }

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

inline Result<std::unique_ptr<const Block>> Mamba2::bind(const Mamba2Spec& unresolved,
                                                         const WeightScope& weights, Plan& plan) {
  const Index d_model = plan.d_model();
  auto block = std::make_unique<Mamba2>();
  const Mamba2Spec& spec = block->spec_ = unresolved.resolved(d_model);
  const Index n_head = spec.n_head();
  const Index conv_dim = spec.conv_dim();

  KRAIT_ASSIGN_OR_RETURN(block->in_proj_, Linear::bind(weights.scope("in_proj"), plan,
                                                       spec.in_proj_rows(), d_model, spec.bias));
  const StateSlot conv_state = plan.state(weights.path("conv_state"), {spec.d_conv - 1, conv_dim});
  KRAIT_ASSIGN_OR_RETURN(block->conv1d_, CausalConv1d::bind(weights.scope("conv1d"), conv_state,
                                                            conv_dim, spec.d_conv, spec.conv_bias));
  // A = -exp(A_log) log2(e), in f32: rounding it to fewer bits would change every decay.
  KRAIT_ASSIGN_OR_RETURN(const auto A,
                         weights.derive("A_log", {n_head}, n_head,
                                        [](std::span<const float> A_log, std::span<float> result) {
                                          kernels::exp(A_log, result);
                                          for (float& a : result)
                                            a *= -std::numbers::log2e_v<float>;
                                        }));
  block->A_ = A.data();
  const Index d_D = spec.D_per_channel ? spec.d_ssm : n_head;
  KRAIT_ASSIGN_OR_RETURN(const auto D, weights.get<float>("D", {d_D}));
  block->D_ = D.data();
  KRAIT_ASSIGN_OR_RETURN(const auto dt_bias, weights.get<float>("dt_bias", {n_head}));
  block->dt_bias_ = dt_bias.data();
  if (spec.norm != GatedNorm::none) {
    KRAIT_ASSIGN_OR_RETURN(const auto weight,
                           weights.scope("norm").get<float>("weight", {spec.d_ssm}));
    block->norm_weight_ = weight.data();
  }
  KRAIT_ASSIGN_OR_RETURN(block->out_proj_, Linear::bind(weights.scope("out_proj"), plan, d_model,
                                                        spec.d_inner, spec.bias));

  block->ssm_state_ = plan.state(weights.path("ssm_state"), {n_head, spec.head_dim, spec.d_state});
  block->parts_ = plan.scratch(spec.in_proj_rows());
  block->out_ = plan.scratch(spec.d_inner);
  block->trail_ = {plan.trail(conv_dim), plan.trail(n_head)};
  return std::unique_ptr<const Block>(std::move(block));
}

inline Result<std::unique_ptr<const Block>> Mamba2Spec::bind(const WeightScope& weights,
                                                             Plan& plan) const {
  return Mamba2::bind(*this, weights, plan);
}

}  // namespace v0_1
}  // namespace krait
