#include "krait/modules/mamba2.hpp"

#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <utility>

namespace krait {
inline namespace v0_1 {

Result<void> Mamba2Spec::validate(Index d_model) const {
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

std::string Mamba2Spec::to_string(Index d_model) const {
  const Mamba2Spec spec = resolved(d_model);
  std::string text = "Mamba2 d_inner " + std::to_string(spec.d_inner) + " n_head " +
                     std::to_string(spec.n_head()) + " head_dim " + std::to_string(spec.head_dim) +
                     " d_state " + std::to_string(spec.d_state) + " n_group " +
                     std::to_string(spec.n_group) + " d_conv " + std::to_string(spec.d_conv);
  if (spec.d_mlp() > 0) text += " d_mlp " + std::to_string(spec.d_mlp());
  text += norm == GatedNorm::none ? " no-norm" : " norm-eps " + spec_number(norm_eps);
  if (norm == GatedNorm::before_gate) text += " before-gate";
  if (dt_min > 0.0F || dt_max < std::numeric_limits<float>::infinity()) {
    text += " dt " + spec_number(dt_min) + " to " + spec_number(dt_max);
  }
  return text + (D_per_channel ? " D-per-channel" : "") + (conv_bias ? "" : " no-conv-bias") +
         (bias ? " bias" : "");
}

Result<std::unique_ptr<const Block>> Mamba2::bind(const Mamba2Spec& unresolved,
                                                  const WeightScope& weights, Bookings& bookings) {
  const Index d_model = bookings.d_model();
  auto block = std::make_unique<Mamba2>();
  const Mamba2Spec& spec = block->spec_ = unresolved.resolved(d_model);
  const Index n_head = spec.n_head();
  const Index conv_dim = spec.conv_dim();

  KRAIT_ASSIGN_OR_RETURN(block->in_proj_, Linear::bind(weights.scope("in_proj"), bookings,
                                                       spec.in_proj_rows(), d_model, spec.bias));
  const StateSlot conv_state =
      bookings.state(weights.path("conv_state"), {spec.d_conv - 1, conv_dim});
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
  KRAIT_ASSIGN_OR_RETURN(block->out_proj_, Linear::bind(weights.scope("out_proj"), bookings,
                                                        d_model, spec.d_inner, spec.bias));

  block->ssm_state_ =
      bookings.state(weights.path("ssm_state"), {n_head, spec.head_dim, spec.d_state});
  block->parts_ = bookings.scratch(spec.in_proj_rows());
  block->out_ = bookings.scratch(spec.d_inner);
  block->trail_ = {bookings.trail(conv_dim), bookings.trail(n_head)};
  return std::unique_ptr<const Block>(std::move(block));
}

Result<std::unique_ptr<const Block>> Mamba2Spec::bind(const WeightScope& weights,
                                                      Bookings& bookings) const {
  return Mamba2::bind(*this, weights, bookings);
}

std::vector<BlockMatrix> Mamba2Spec::matrices(Index d_model) const {
  const Mamba2Spec spec = resolved(d_model);
  const Index d_B = spec.n_group * spec.d_state;
  BlockMatrix in_proj{.name = "in_proj"};
  Index first = 0;
  const auto add = [&](std::string_view name, Index count) {
    if (count > 0) in_proj.rows.push_back({name, first, count});
    first += count;
  };
  add("mlp_z", spec.d_mlp());
  add("mlp_x", spec.d_mlp());
  add("z", spec.d_ssm);
  add("x", spec.d_ssm);
  add("B", d_B);
  add("C", d_B);
  add("dt", spec.n_head());
  return {std::move(in_proj), {.name = "out_proj", .input = Site::mixed}};
}

}  // namespace v0_1
}  // namespace krait
