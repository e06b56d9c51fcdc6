#include "krait/modules/mamba2.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <utility>

#include "krait/kernels/matvec.hpp"

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
  for (const float scale : {scales.z, scales.x, scales.B, scales.C, scales.dt}) {
    if (!std::isfinite(scale)) {
      return bad_spec("scales", "finite numbers", spec_number(scale));
    }
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
  if (scales != Mamba2Scales{}) {
    text += " scales " + spec_number(scales.z) + ' ' + spec_number(scales.x) + ' ' +
            spec_number(scales.B) + ' ' + spec_number(scales.C) + ' ' + spec_number(scales.dt);
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

void Mamba2::scan_with_hooks(const BlockContext& ctx, MatrixView<const float> xBC,
                             MatrixView<const float> dt_raw, MatrixView<float> y) const noexcept {
  for_each_part(ctx.sequences, [&](const SequenceRows& rows) {
    const bool wants_state = rows.hook != nullptr && spec_.d_state <= widest_hooked_vector &&
                             (rows.hook->wants(Site::state) || rows.hook->wants(Site::state_read));
    if (!wants_state) return scan(ctx, {&rows, 1}, xBC, dt_raw, y);
    for (Index t = 0; t < rows.count; ++t) {
      const SequenceRows one = rows.part(t);
      scan(ctx, {&one, 1}, xBC, dt_raw, y);
      read_state(ctx, one, xBC.row(one.first), y.row(one.first));
    }
  });
}

void Mamba2::read_state(const BlockContext& ctx, const SequenceRows& rows,
                        std::span<const float> xBC, std::span<float> y) const noexcept {
  const Index d_state = spec_.d_state;
  float vectors[widest_hooked_vector];
  const Index most = std::min(spec_.head_dim, widest_hooked_vector / d_state);
  const float* const C = xBC.data() + spec_.d_ssm + spec_.n_group * d_state;
  float* const S = rows.slot(ssm_state_).data();
  for (Index first = 0; first < spec_.d_ssm;) {
    const Index head = first / spec_.head_dim;
    const Index count = std::min(most, (head + 1) * spec_.head_dim - first);
    const MatrixView<float> own(S + first * d_state, count, d_state);
    if (rows.hook->wants(Site::state)) ctx.visit(Site::state, rows, 0, own, first);
    const MatrixView<float> copy(vectors, count, d_state);
    std::copy_n(own.data, count * d_state, vectors);
    if (rows.hook->wants(Site::state_read)) ctx.visit(Site::state_read, rows, 0, copy, first);
    float* const out = y.data() + first;
    kernels::matvec({.W = {vectors, DType::f32, count, d_state},
                     .x = C + head / (spec_.n_head() / spec_.n_group) * d_state,
                     .y = out,
                     .outputs = {0, count}});
    for (Index i = 0; i < count; ++i) {
      const float D = D_[spec_.D_per_channel ? first + i : head];
      out[i] = std::fma(D, xBC[static_cast<std::size_t>(first + i)], out[i]);
    }
    first += count;
  }
}

std::vector<Block::NoiseSite> Mamba2::noise_sites() const {
  std::vector<NoiseSite> sites = {
      {Site::input, in_proj_.in()}, {Site::conv, spec_.d_ssm},  {Site::scan_input, spec_.head_dim},
      {Site::B, spec_.d_state},     {Site::dt, spec_.n_head()}, {Site::C, spec_.d_state},
      {Site::scan, spec_.head_dim}, {Site::gate, spec_.d_ssm},  {Site::mixed, spec_.d_inner}};
  if (spec_.d_state <= widest_hooked_vector) {
    sites.insert(sites.end(), {{Site::state, spec_.d_state}, {Site::state_read, spec_.d_state}});
  }
  return sites;
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
