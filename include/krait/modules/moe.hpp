#pragma once

/// \file
/// The mixture-of-experts block: a router sends every token to a few of many feed-forward networks.
///
/// Papers  Fedus et al. 2021, "Switch Transformers", arXiv:2101.03961, section 2.1; Pióro et al.
///         2024, "MoE-Mamba", arXiv:2401.04081, section 3.
///
///   T        tokens of this run     n_expert  number of experts (e)
///   top_k    experts per token      d_expert  hidden width of an expert

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/profile.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/moe.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/feed_forward.hpp"

namespace krait {
inline namespace v0_1 {

/// How tokens are sent to experts; see `kernels::route`. In inference there is no capacity limit:
/// no token is dropped.
struct RouterSpec {
  kernels::RouterScore score = kernels::RouterScore::softmax;
  bool bias = false;            ///< router.bias exists
  bool selection_bias = false;  ///< router.e_score_correction_bias exists
  bool normalize = false;       ///< divides a token's gates by their sum
  float scale = 1.0F;           ///< multiplies all gates

  friend bool operator==(const RouterSpec&, const RouterSpec&) = default;
};

/// Names of the block's tensors in a checkpoint.
struct MoeNames {
  std::string router = "router";
  /// Empty: the experts are stacked, `up` [n_expert, …] and `down` [n_expert, …]. Otherwise expert
  /// e has its own matrices in the scope "<experts>.<e>".
  std::string experts;
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string gate = {};  ///< the gates' own matrices, of experts with own ones; empty: in `up`
  std::string shared = "shared_expert";  ///< scope of the shared expert's matrices

  friend bool operator==(const MoeNames&, const MoeNames&) = default;
};

/// More experts in one mixture are taken for a mistake: each is an object.
inline constexpr Index most_experts = 4096;

/// Sizes of a mixture of experts; the defaults are those of MoE-Mamba.
struct MoeSpec {
  Index n_expert = 8;
  Index top_k = 1;
  Index d_expert = 0;  ///< 0: 3 · d_model
  RouterSpec router = {};
  Activation activation = Activation::relu;
  bool gated = false;  ///< experts have a gate: `up` has 2 · d_expert rows, those of the gate first
  Index d_shared = 0;  ///< hidden width of the shared expert, which gets every token; 0: none
  bool bias = false;   ///< the experts' matrices have biases; only for experts with own tensors
  MoeNames names = {};

  MoeSpec resolved(Index d_model) const {
    MoeSpec spec = *this;
    if (spec.d_expert == 0) spec.d_expert = 3 * d_model;
    return spec;
  }

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  KRAIT_API Result<std::unique_ptr<const Block>> bind(const WeightScope& weights,
                                                      Bookings& bookings) const;
  KRAIT_API std::vector<BlockMatrix> matrices(Index d_model) const;

  friend bool operator==(const MoeSpec&, const MoeSpec&) = default;
};

/// A mixture of experts on rows of d_model floats. It has no state.
class Moe final : public Block {
 public:
  KRAIT_API static Result<std::unique_ptr<const Block>> bind(const MoeSpec& spec,
                                                             const WeightScope& weights,
                                                             Bookings& bookings);

  void forward(BlockContext& ctx) const noexcept override {
    const MatrixView<const float> x = ctx.x;                 // [T, d_model]
    const auto gates = ctx.scratch(gates_, spec_.n_expert);  // [T, n_expert]
    const auto y = ctx.scratch(y_, x.cols);                  // [T, d_model]
    profile::Zone zone("router");
    route(ctx, gates);
    zone.next("experts");
    for (Index t = 0; t < y.rows; ++t) std::ranges::fill(y.row(t), 0.0F);
    for (Index e = 0; e < spec_.n_expert; ++e) {
      // y += gate · expert(x) for the tokens that were sent to the expert
      const auto input = gather(ctx, gates, e);
      if (input.rows == 0) continue;
      const auto is_sent = [&](Index t) { return gates(t, e) != 0.0F; };
      visit(ctx, Site::expert, input, is_sent, e);
      const auto hidden = [&](MatrixView<float> rows) {
        visit(ctx, Site::hidden, rows, is_sent, e);
      };
      scatter(ctx, gates, e, run(ctx, experts_[static_cast<std::size_t>(e)], input, hidden), y);
    }
    if (!shared_.empty()) {
      zone.next("shared");
      const auto all = [](Index) { return true; };
      MatrixView<const float> input = x;
      if (ctx.has_hooks) {  // a hook may change this expert's input, but not x
        const auto copy = ctx.scratch(input_, x.cols);
        copy_rows(ctx, x, copy);
        visit(ctx, Site::expert, copy, all, spec_.n_expert);
        input = copy;
      }
      const auto output = run(ctx, shared_.front(), input, [&](MatrixView<float> rows) {
        visit(ctx, Site::hidden, rows, all, spec_.n_expert);
      });
      for (Index t = 0; t < y.rows; ++t) kernels::add(y.row(t), output.row(t), y.row(t));
    }
    copy_rows(ctx, y, ctx.x);
  }

  /// The router reads its input as it is; noise turns what the experts get.
  std::vector<NoiseSite> noise_sites() const override { return {{Site::expert, router_.in()}}; }

  std::string description() const override {
    return "Moe, " + std::to_string(spec_.top_k) + " of " + std::to_string(spec_.n_expert) +
           " experts, d_expert " + std::to_string(spec_.d_expert) + ", " +
           krait::to_string(spec_.activation) + (spec_.gated ? ", gated" : "");
  }

 private:
  void route(const BlockContext& ctx, MatrixView<float> gates) const noexcept {
    router_.apply(ctx, ctx.x, gates);
    const auto cost = ItemCost::of(0, 100 * gates.cols);
    parallel_for(ctx.executor, gates.rows, 32, cost, [&](Range rows) {
      const auto part = gates.rows_from(rows.begin, rows.size());
      kernels::route({.logits = part,
                      .score = spec_.router.score,
                      .top_k = spec_.top_k,
                      .selection_bias = selection_bias_,
                      .normalize = spec_.router.normalize,
                      .scale = spec_.router.scale,
                      .gates = part});
    });
    ctx.visit(Site::routing, gates);
  }

  // Calls the hooks with the rows of an expert, one for each token that `is_sent` to it.
  template <class IsSent>
  static void visit(const BlockContext& ctx, Site site, MatrixView<float> rows,
                    const IsSent& is_sent, Index expert) noexcept {
    if (!ctx.has_hooks) return;
    Index row = 0;
    for (Index t = 0; t < ctx.x.rows; ++t) {
      if (is_sent(t)) ctx.visit(site, rows.row(row++), t, expert);
    }
  }

  // The rows of the tokens that were sent to expert e, one after another.
  MatrixView<float> gather(const BlockContext& ctx, MatrixView<const float> gates,
                           Index e) const noexcept {
    const MatrixView<float> input = ctx.scratch(input_, ctx.x.cols);
    Index count = 0;
    for (Index t = 0; t < gates.rows; ++t) {
      if (gates(t, e) != 0.0F) std::ranges::copy(ctx.x.row(t), input.row_data(count++));
    }
    return input.rows_from(0, count);
  }

  // The expert's output for every row of its input.
  template <class Visit>
  MatrixView<const float> run(const BlockContext& ctx, const FeedForward& expert,
                              MatrixView<const float> input, const Visit& visit) const noexcept {
    const auto hidden = ctx.scratch(hidden_, expert.d_up()).rows_from(0, input.rows);
    const auto output = ctx.scratch(output_, input.cols).rows_from(0, input.rows);
    expert.apply(ctx, input, hidden, output, visit);
    return output;
  }

  // Adds the expert's output to the rows of its tokens. Experts come in ascending order, so that a
  // row's sum does not depend on the other rows of the run.
  static void scatter(const BlockContext& ctx, MatrixView<const float> gates, Index e,
                      MatrixView<const float> output, MatrixView<float> y) noexcept {
    const auto add = [&](Range cols) {
      const auto part = output.cols_from(cols.begin, cols.size());
      const auto sum = y.cols_from(cols.begin, cols.size());
      Index from = 0;
      for (Index t = 0; t < gates.rows; ++t) {
        if (gates(t, e) != 0.0F) kernels::add_scaled(gates(t, e), part.row(from++), sum.row(t));
      }
    };
    parallel_for(ctx.executor, y.cols, 128, ItemCost::of(0, 8 * output.rows), add);
  }

  static void copy_rows(const BlockContext& ctx, MatrixView<const float> from,
                        MatrixView<float> to) noexcept {
    parallel_for(ctx.executor, from.rows, 32, ItemCost::of(8 * from.cols, 0), [&](Range rows) {
      for (Index t = rows.begin; t < rows.end; ++t) std::ranges::copy(from.row(t), to.row_data(t));
    });
  }

  MoeSpec spec_;
  Linear router_;                          // [n_expert, d_model], in f32
  const float* selection_bias_ = nullptr;  // [n_expert] or null
  std::vector<FeedForward> experts_;
  std::vector<FeedForward> shared_;  // none or one
  ScratchSlot gates_, input_, hidden_, output_, y_;
};

}  // namespace v0_1
}  // namespace krait
