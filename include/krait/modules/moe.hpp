#pragma once

/// \file
/// A mixture of experts: every token goes through the few feed-forward networks that a router
/// chooses for it.
///
/// Papers  Fedus et al. 2021, "Switch Transformers", arXiv:2101.03961, section 2.1; Pióro et al.
///         2024, "MoE-Mamba", arXiv:2401.04081, section 3.
///
///   T        tokens of this run     n_expert  networks to choose from (e)
///   top_k    experts per token      d_expert  their hidden width

#include <algorithm>
#include <cmath>
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

/// How tokens are sent to experts. See `kernels::route`. There is no capacity limit: at inference
/// no token is dropped.
struct RouterSpec {
  kernels::RouterScore score = kernels::RouterScore::softmax;
  bool bias = false;            ///< router.bias exists
  bool selection_bias = false;  ///< router.e_score_correction_bias exists
  bool normalize = false;       ///< gates of a token are made to add up to 1
  float scale = 1.0F;           ///< of all gates

  friend bool operator==(const RouterSpec&, const RouterSpec&) = default;
};

/// Where a checkpoint has the parts of a mixture of experts, below the block's own name.
struct MoeNames {
  std::string router = "router";
  /// Empty: the experts are stacked, `up` [n_expert, …] and `down` [n_expert, …]. Otherwise expert
  /// e has its own matrices in the scope "<experts>.<e>".
  std::string experts;
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string shared = "shared_expert";  ///< scope of the shared expert's `up` and `down`

  friend bool operator==(const MoeNames&, const MoeNames&) = default;
};

/// More experts than this in one mixture are a mistake: every one is an object of its own.
inline constexpr Index most_experts = 4096;

/// Sizes of a mixture of experts; the defaults are those of MoE-Mamba.
struct MoeSpec {
  Index n_expert = 8;
  Index top_k = 1;
  Index d_expert = 0;  ///< 0: 3 · d_model
  RouterSpec router = {};
  Activation activation = Activation::relu;
  bool gated = false;  ///< experts have a gate: `up` has 2 · d_expert rows, those of the gate first
  Index d_shared = 0;  ///< width of an expert that every token goes through; 0: none
  bool bias = false;   ///< experts' matrices have biases; only where they are not stacked
  MoeNames names = {};

  MoeSpec resolved(Index d_model) const {
    MoeSpec spec = *this;
    if (spec.d_expert == 0) spec.d_expert = 3 * d_model;
    return spec;
  }

  Result<void> validate(Index d_model) const {
    if (n_expert < 1 || n_expert > most_experts) {
      return bad_spec("n_expert", "1 to " + std::to_string(most_experts), std::to_string(n_expert));
    }
    KRAIT_RETURN_IF_ERROR(check_extent("d_expert", resolved(d_model).d_expert));
    if (top_k < 1 || top_k > n_expert) {
      return bad_spec("top_k", "1 to n_expert (" + std::to_string(n_expert) + ")",
                      std::to_string(top_k));
    }
    if (!Shape::make(std::vector<Index>{8, n_expert, resolved(d_model).d_expert, d_model})) {
      return bad_spec("d_expert", "experts that fit into memory",
                      std::to_string(resolved(d_model).d_expert));
    }
    if (d_shared != 0) KRAIT_RETURN_IF_ERROR(check_extent("d_shared", d_shared));
    if (!(router.scale > 0.0F) || router.scale > 1e30F) {
      return bad_spec("router scale", "a positive number", spec_number(router.scale));
    }
    if (bias && names.experts.empty()) {
      return bad_spec("bias", "experts of their own tensors", "stacked ones");
    }
    return {};
  }

  std::string to_string(Index d_model) const {
    using kernels::RouterScore;
    std::string text = "Moe n_expert " + std::to_string(n_expert) + " top_k " +
                       std::to_string(top_k) + " d_expert " +
                       std::to_string(resolved(d_model).d_expert) + ' ' +
                       krait::to_string(activation) + (gated ? " gated" : "");
    text += router.score == RouterScore::softmax             ? " softmax"
            : router.score == RouterScore::softmax_of_chosen ? " softmax-of-chosen"
                                                             : " sigmoid";
    if (router.bias) text += " router-bias";
    if (router.selection_bias) text += " selection-bias";
    if (router.normalize) text += " normalized";
    if (router.scale != 1.0F) text += " scale " + spec_number(router.scale);
    if (d_shared != 0) text += " d_shared " + std::to_string(d_shared);
    if (bias) text += " bias";
    return text;
  }

  Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Plan& plan) const;

  friend bool operator==(const MoeSpec&, const MoeSpec&) = default;
};

/// A mixture of experts on rows of d_model floats. Has no state.
class Moe final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const MoeSpec& spec, const WeightScope& weights,
                                                   Plan& plan);

  void forward(BlockContext& ctx) const noexcept override {
    const MatrixView<const float> x = ctx.x;                 // [T, d_model]
    const auto gates = ctx.scratch(gates_, spec_.n_expert);  // [T, n_expert]
    const auto y = ctx.scratch(y_, x.cols);                  // [T, d_model]
    profile::Zone zone("router");
    route(ctx, gates);
    zone.next("experts");
    for (Index t = 0; t < y.rows; ++t) std::ranges::fill(y.row(t), 0.0F);
    for (Index e = 0; e < spec_.n_expert; ++e) {
      // y += gate · expert(x), of the tokens that were sent to it
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
      if (ctx.has_hooks) {  // which may change what this expert sees, not what the others saw
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

  std::string description() const override {
    return "Moe, " + std::to_string(spec_.top_k) + " of " + std::to_string(spec_.n_expert) +
           " experts, d_expert " + std::to_string(spec_.d_expert) + ", " +
           krait::to_string(spec_.activation) + (spec_.gated ? ", gated" : "");
  }

 private:
  // A router that is not of numbers would send tokens anywhere. `width` values are of one expert.
  static Result<void> check_finite(const std::string& name, std::span<const float> values,
                                   Index width) {
    const auto odd = std::ranges::find_if_not(values, [](float w) { return std::isfinite(w); });
    if (odd == values.end()) return {};
    return Error{ErrorCode::bad_format, "[build] " + name + ": expected finite numbers, found " +
                                            spec_number(*odd) + " (expert " +
                                            std::to_string((odd - values.begin()) / width) + ")"};
  }

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

  // Shows hooks the rows of an expert, one for each token that `is_sent` to it.
  template <class IsSent>
  static void visit(const BlockContext& ctx, Site site, MatrixView<float> rows,
                    const IsSent& is_sent, Index expert) noexcept {
    if (!ctx.has_hooks) return;
    Index row = 0;
    for (Index t = 0; t < ctx.x.rows; ++t) {
      if (is_sent(t)) ctx.visit(site, rows.row(row++), t, expert);
    }
  }

  // The rows that were sent to expert e, one after another.
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

  // The expert's output back to the rows it is of. Experts come in ascending order, so that every
  // row's sum has one order, whatever else is in the run.
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

inline Result<std::unique_ptr<const Block>> Moe::bind(const MoeSpec& unresolved,
                                                      const WeightScope& weights, Plan& plan) {
  const Index d_model = plan.d_model();
  auto block = std::make_unique<Moe>();
  const MoeSpec& spec = block->spec_ = unresolved.resolved(d_model);
  const MoeNames& names = spec.names;
  const Index d_up = FeedForward::up_rows(spec.d_expert, spec.gated);

  // Rounding a router's weights to fewer bits would send tokens elsewhere: they stay in f32.
  const WeightScope router = weights.scope(names.router);
  KRAIT_ASSIGN_OR_RETURN(const auto W, router.get<float>("weight", {spec.n_expert, d_model}));
  KRAIT_RETURN_IF_ERROR(check_finite(router.name("weight"), W, d_model));
  const float* bias = nullptr;
  if (spec.router.bias) {
    KRAIT_ASSIGN_OR_RETURN(const auto values, router.get<float>("bias", {spec.n_expert}));
    KRAIT_RETURN_IF_ERROR(check_finite(router.name("bias"), values, 1));
    bias = values.data();
  }
  block->router_ = Linear({W.data(), DType::f32, spec.n_expert, d_model}, bias, plan);
  if (spec.router.selection_bias) {
    KRAIT_ASSIGN_OR_RETURN(const auto values,
                           router.get<float>("e_score_correction_bias", {spec.n_expert}));
    KRAIT_RETURN_IF_ERROR(check_finite(router.name("e_score_correction_bias"), values, 1));
    block->selection_bias_ = values.data();
  }

  const WeightScope chosen = weights.active(spec.top_k, spec.n_expert);
  if (names.experts.empty()) {
    KRAIT_ASSIGN_OR_RETURN(
        auto up, Linear::bind_stack(chosen.scope(names.up), plan, spec.n_expert, d_up, d_model));
    KRAIT_ASSIGN_OR_RETURN(auto down, Linear::bind_stack(chosen.scope(names.down), plan,
                                                         spec.n_expert, d_model, spec.d_expert));
    for (std::size_t e = 0; e < up.size(); ++e) {
      block->experts_.emplace_back(std::move(up[e]), std::move(down[e]), spec.activation);
    }
  }
  FeedForward::Parts parts{.d_hidden = spec.d_expert,
                           .activation = spec.activation,
                           .gated = spec.gated,
                           .bias = spec.bias,
                           .up = names.up,
                           .down = names.down};
  for (Index e = 0; !names.experts.empty() && e < spec.n_expert; ++e) {
    KRAIT_ASSIGN_OR_RETURN(auto expert,
                           FeedForward::bind(parts, chosen.scope(names.experts, e), plan));
    block->experts_.push_back(std::move(expert));
  }
  if (spec.d_shared != 0) {
    parts.d_hidden = spec.d_shared;
    KRAIT_ASSIGN_OR_RETURN(auto shared,
                           FeedForward::bind(parts, weights.scope(names.shared), plan));
    block->shared_.push_back(std::move(shared));
  }

  block->gates_ = plan.scratch(spec.n_expert);
  block->input_ = plan.scratch(d_model);
  block->hidden_ =
      plan.scratch(FeedForward::up_rows(std::max(spec.d_expert, spec.d_shared), spec.gated));
  block->output_ = plan.scratch(d_model);
  block->y_ = plan.scratch(d_model);
  return std::unique_ptr<const Block>(std::move(block));
}

inline Result<std::unique_ptr<const Block>> MoeSpec::bind(const WeightScope& weights,
                                                          Plan& plan) const {
  return Moe::bind(*this, weights, plan);
}

}  // namespace v0_1
}  // namespace krait
