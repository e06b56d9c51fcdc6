#include "krait/modules/moe.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace krait {
inline namespace v0_1 {

Result<void> MoeSpec::validate(Index d_model) const {
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
  if (!names.gate.empty() && (!gated || names.experts.empty())) {
    return bad_spec("gate", "gated experts of their own tensors",
                    gated ? "stacked ones" : "ones without a gate");
  }
  if (bias && names.experts.empty()) {
    return bad_spec("bias", "experts of their own tensors", "stacked ones");
  }
  return {};
}

std::string MoeSpec::to_string(Index d_model) const {
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

namespace {

// A tensor of a router. Its numbers must be finite, or tokens would go to random experts. Each
// expert has `width` of them.
Result<const float*> router_tensor(const WeightScope& router, std::string_view name,
                                   const Shape& shape, Index width) {
  KRAIT_ASSIGN_OR_RETURN(const auto values, router.get<float>(name, shape));
  const auto odd = std::ranges::find_if_not(values, [](float w) { return std::isfinite(w); });
  if (odd == values.end()) return values.data();
  return Error{ErrorCode::bad_format, "[build] " + router.name(name) +
                                          ": expected finite numbers, found " + spec_number(*odd) +
                                          " (expert " +
                                          std::to_string((odd - values.begin()) / width) + ")"};
}

// All experts, from two stacks of matrices or each from its own tensors.
Result<std::vector<FeedForward>> bind_experts(const MoeSpec& spec, const FeedForward::Parts& parts,
                                              const WeightScope& weights, Bookings& bookings) {
  std::vector<FeedForward> experts;
  if (!spec.names.experts.empty()) {
    for (Index e = 0; e < spec.n_expert; ++e) {
      KRAIT_ASSIGN_OR_RETURN(
          auto expert, FeedForward::bind(parts, weights.scope(spec.names.experts, e), bookings));
      experts.push_back(std::move(expert));
    }
    return experts;
  }
  const Index d_model = bookings.d_model();
  const Index d_up = FeedForward::up_rows(spec.d_expert, spec.gated);
  KRAIT_ASSIGN_OR_RETURN(
      auto up, Linear::bind_stack(weights.scope(parts.up), bookings, spec.n_expert, d_up, d_model));
  KRAIT_ASSIGN_OR_RETURN(auto down, Linear::bind_stack(weights.scope(parts.down), bookings,
                                                       spec.n_expert, d_model, spec.d_expert));
  for (std::size_t e = 0; e < up.size(); ++e) {
    experts.emplace_back(std::move(up[e]), std::move(down[e]), spec.activation);
  }
  return experts;
}

}  // namespace

Result<std::unique_ptr<const Block>> Moe::bind(const MoeSpec& unresolved,
                                               const WeightScope& weights, Bookings& bookings) {
  const Index d_model = bookings.d_model();
  auto block = std::make_unique<Moe>();
  const MoeSpec& spec = block->spec_ = unresolved.resolved(d_model);
  const Index n_expert = spec.n_expert;

  // Rounding a router's weights to fewer bits would send tokens elsewhere: they stay in f32.
  const WeightScope router = weights.scope(spec.names.router);
  KRAIT_ASSIGN_OR_RETURN(const float* const W,
                         router_tensor(router, "weight", {n_expert, d_model}, d_model));
  const float* bias = nullptr;
  if (spec.router.bias) {
    KRAIT_ASSIGN_OR_RETURN(bias, router_tensor(router, "bias", {n_expert}, 1));
  }
  block->router_ = Linear({W, DType::f32, n_expert, d_model}, bias, bookings);
  if (spec.router.selection_bias) {
    KRAIT_ASSIGN_OR_RETURN(block->selection_bias_,
                           router_tensor(router, "e_score_correction_bias", {n_expert}, 1));
  }

  FeedForward::Parts parts{.d_hidden = spec.d_expert,
                           .activation = spec.activation,
                           .gated = spec.gated,
                           .bias = spec.bias,
                           .up = spec.names.up,
                           .down = spec.names.down,
                           .gate = spec.names.gate};
  KRAIT_ASSIGN_OR_RETURN(block->experts_,
                         bind_experts(spec, parts, weights.active(spec.top_k, n_expert), bookings));
  if (spec.d_shared != 0) {
    parts.d_hidden = spec.d_shared;
    KRAIT_ASSIGN_OR_RETURN(auto shared,
                           FeedForward::bind(parts, weights.scope(spec.names.shared), bookings));
    block->shared_.push_back(std::move(shared));
  }

  block->gates_ = bookings.scratch(n_expert);
  block->input_ = bookings.scratch(d_model);
  block->hidden_ =
      bookings.scratch(FeedForward::up_rows(std::max(spec.d_expert, spec.d_shared), spec.gated));
  block->output_ = bookings.scratch(d_model);
  block->y_ = bookings.scratch(d_model);
  return std::unique_ptr<const Block>(std::move(block));
}

Result<std::unique_ptr<const Block>> MoeSpec::bind(const WeightScope& weights,
                                                   Bookings& bookings) const {
  return Moe::bind(*this, weights, bookings);
}

std::vector<BlockMatrix> MoeSpec::matrices(Index d_model) const {
  const MoeSpec spec = resolved(d_model);
  std::vector<BlockMatrix> all;
  const auto add = [&](const std::string& prefix, Index expert, Index d_hidden, bool is_stacked) {
    const FeedForward::Parts parts{.d_hidden = d_hidden,
                                   .gated = gated,
                                   .up = names.up,
                                   .down = names.down,
                                   .gate = names.gate};
    for (BlockMatrix& matrix : FeedForward::matrices(parts, prefix)) {
      if (matrix.input == Site::input) matrix.input = Site::expert;
      matrix.expert = expert;
      matrix.is_stacked = is_stacked;
      all.push_back(std::move(matrix));
    }
  };
  for (Index e = 0; e < n_expert; ++e) {
    const bool is_stacked = names.experts.empty();
    add(is_stacked ? "" : names.experts + '.' + std::to_string(e) + '.', e, spec.d_expert,
        is_stacked);
  }
  if (d_shared != 0) add(names.shared + '.', n_expert, d_shared, false);
  return all;
}

}  // namespace v0_1
}  // namespace krait
