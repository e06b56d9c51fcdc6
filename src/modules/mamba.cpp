#include "krait/modules/mamba.hpp"

#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "krait/kernels/elementwise.hpp"

namespace krait {
inline namespace v0_1 {

Result<void> MambaSpec::validate(Index d_model) const {
  KRAIT_RETURN_IF_ERROR(check_extent("expand", expand));
  const MambaSpec spec = resolved(d_model);
  KRAIT_RETURN_IF_ERROR(check_extent("d_state", spec.d_state));
  KRAIT_RETURN_IF_ERROR(check_extent("d_conv", spec.d_conv));
  KRAIT_RETURN_IF_ERROR(check_extent("d_inner", spec.d_inner));
  KRAIT_RETURN_IF_ERROR(check_extent("dt_rank", spec.dt_rank));
  KRAIT_RETURN_IF_ERROR(check_extent("d_conv · d_inner", spec.d_conv * spec.d_inner));
  return check_extent("d_state · d_inner", spec.d_state * spec.d_inner);
}

std::string MambaSpec::to_string(Index d_model) const {
  const MambaSpec spec = resolved(d_model);
  return "Mamba d_inner " + std::to_string(spec.d_inner) + " d_state " +
         std::to_string(spec.d_state) + " d_conv " + std::to_string(spec.d_conv) + " dt_rank " +
         std::to_string(spec.dt_rank) + (conv_bias ? "" : " no-conv-bias") + (bias ? " bias" : "") +
         (inner_norm_eps < 0.0F ? "" : " inner-norm " + spec_number(inner_norm_eps));
}

Result<std::unique_ptr<const Block>> Mamba::bind(const MambaSpec& unresolved,
                                                 const WeightScope& weights, Bookings& bookings) {
  const Index d_model = bookings.d_model();
  const MambaSpec spec = unresolved.resolved(d_model);
  const Index d_inner = spec.d_inner;
  const Index d_state = spec.d_state;
  const Index dt_rank = spec.dt_rank;
  auto block = std::make_unique<Mamba>();
  block->sizes_ = {d_inner, d_state, dt_rank};
  block->inner_norm_eps_ = spec.inner_norm_eps;

  KRAIT_ASSIGN_OR_RETURN(block->in_proj_, Linear::bind(weights.scope("in_proj"), bookings,
                                                       2 * d_inner, d_model, spec.bias));
  const StateSlot conv_state =
      bookings.state(weights.path("conv_state"), {spec.d_conv - 1, d_inner});
  KRAIT_ASSIGN_OR_RETURN(block->conv1d_, CausalConv1d::bind(weights.scope("conv1d"), conv_state,
                                                            d_inner, spec.d_conv, spec.conv_bias));
  KRAIT_ASSIGN_OR_RETURN(block->x_proj_, Linear::bind(weights.scope("x_proj"), bookings,
                                                      dt_rank + 2 * d_state, d_inner, false));
  KRAIT_ASSIGN_OR_RETURN(block->dt_proj_,
                         Linear::bind(weights.scope("dt_proj"), bookings, d_inner, dt_rank, true));
  KRAIT_ASSIGN_OR_RETURN(block->out_proj_, Linear::bind(weights.scope("out_proj"), bookings,
                                                        d_model, d_inner, spec.bias));

  // A = -exp(A_log) log2(e), in f32: rounding it to fewer bits would change every decay.
  KRAIT_ASSIGN_OR_RETURN(
      const auto A,
      weights.derive("A_log", {d_inner, d_state}, kernels::scan_size(d_inner, d_state),
                     [&](std::span<const float> A_log, std::span<float> A_blocks) {
                       std::vector<float> exp_A(A_log.size());
                       kernels::exp(A_log, exp_A);
                       for (Index d = 0; d < d_inner; ++d) {
                         for (Index n = 0; n < d_state; ++n) {
                           A_blocks[static_cast<std::size_t>(kernels::scan_offset(d, n, d_state))] =
                               -std::numbers::log2e_v<float> *
                               exp_A[static_cast<std::size_t>(d * d_state + n)];
                         }
                       }
                     }));
  block->A_ = A.data();
  KRAIT_ASSIGN_OR_RETURN(const auto D, weights.get<float>("D", {d_inner}));
  block->D_ = D.data();

  block->ssm_state_ = bookings.state(
      weights.path("ssm_state"),
      {round_up(d_inner, kernels::scan_block) / kernels::scan_block, d_state, kernels::scan_block});
  block->xz_ = bookings.scratch(2 * d_inner);
  block->dBC_ = bookings.scratch(dt_rank + 2 * d_state);
  block->dt_raw_ = bookings.scratch(d_inner);
  block->trail_ = {bookings.trail(d_inner), bookings.trail(d_inner), bookings.trail(d_state)};
  return std::unique_ptr<const Block>(std::move(block));
}

Result<std::unique_ptr<const Block>> MambaSpec::bind(const WeightScope& weights,
                                                     Bookings& bookings) const {
  return Mamba::bind(*this, weights, bookings);
}

std::vector<BlockMatrix> MambaSpec::matrices(Index d_model) const {
  const MambaSpec spec = resolved(d_model);
  return {{.name = "in_proj", .rows = {{"x", 0, spec.d_inner}, {"z", spec.d_inner, spec.d_inner}}},
          {.name = "x_proj",
           .input = Site::conv,
           .rows = {{"dt", 0, spec.dt_rank},
                    {"B", spec.dt_rank, spec.d_state},
                    {"C", spec.dt_rank + spec.d_state, spec.d_state}}},
          {.name = "dt_proj", .input = Site::dt},
          {.name = "out_proj", .input = Site::mixed}};
}

}  // namespace v0_1
}  // namespace krait
