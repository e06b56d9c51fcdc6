#include "krait/modules/mamba.hpp"

#include <algorithm>
#include <cmath>
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
  if (inner_norm_weights && !(inner_norm_eps >= 0.0F)) {
    return bad_spec("inner_norm_eps", "a number of at least 0, for norms with weights",
                    spec_number(inner_norm_eps));
  }
  return check_extent("d_state · d_inner", spec.d_state * spec.d_inner);
}

std::string MambaSpec::to_string(Index d_model) const {
  const MambaSpec spec = resolved(d_model);
  return "Mamba d_inner " + std::to_string(spec.d_inner) + " d_state " +
         std::to_string(spec.d_state) + " d_conv " + std::to_string(spec.d_conv) + " dt_rank " +
         std::to_string(spec.dt_rank) + (conv_bias ? "" : " no-conv-bias") + (bias ? " bias" : "") +
         (inner_norm_eps < 0.0F ? "" : " inner-norm " + spec_number(inner_norm_eps)) +
         (inner_norm_weights ? " weighted" : "");
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

  if (spec.inner_norm_weights) {
    const std::pair<const char*, Index> norms[] = {
        {"dt_layernorm", dt_rank}, {"b_layernorm", d_state}, {"c_layernorm", d_state}};
    for (std::size_t i = 0; i < std::size(norms); ++i) {
      KRAIT_ASSIGN_OR_RETURN(const auto weight,
                             weights.scope(norms[i].first).get<float>("weight", {norms[i].second}));
      block->inner_norms_[i] = weight.data();
    }
  }

  block->ssm_state_ = bookings.state(
      weights.path("ssm_state"),
      {round_up(d_inner, kernels::scan_block) / kernels::scan_block, d_state, kernels::scan_block});
  block->xz_ = bookings.scratch(2 * d_inner);
  block->dBC_ = bookings.scratch(dt_rank + 2 * d_state);
  block->dt_raw_ = bookings.scratch(d_inner);
  block->trail_ = {bookings.trail(d_inner), bookings.trail(d_inner), bookings.trail(d_state)};
  return std::unique_ptr<const Block>(std::move(block));
}

void Mamba::scan_with_hooks(const BlockContext& ctx, MatrixView<float> u, MatrixView<float> dt_raw,
                            MatrixView<const float> B, MatrixView<const float> C,
                            MatrixView<const float> z) const noexcept {
  ctx.visit(Site::scan_input, u);
  const Index d_inner = sizes_.d_inner;
  const auto wants_state = [&](const SequenceRows& rows) {
    return rows.hook != nullptr && sizes_.d_state <= widest_hooked_vector &&
           (rows.hook->wants(Site::state) || rows.hook->wants(Site::state_read));
  };
  const auto advance = [&](const SequenceRows& rows, MatrixView<float> y) {
    parallel_for(ctx.executor, d_inner, channel_block, scan_cost(rows.count), [&](Range channels) {
      scan({&rows, 1}, u, dt_raw, B, C, {}, y, channels);
    });
  };
  for_each_part(ctx.sequences, [&](const SequenceRows& rows) {
    if (!wants_state(rows)) return advance(rows, u);
    for (Index t = 0; t < rows.count; ++t) {
      const SequenceRows one = rows.part(t);
      advance(one, dt_raw);  // its output is not needed, nor are the step sizes behind it
      read_state(ctx, one, u.row(one.first), C.row(one.first));
    }
  });
  ctx.visit(Site::scan, u);
  parallel_for(ctx.executor, u.rows, 4, ItemCost::of(0, 40 * d_inner), [&](Range rows) {
    for (Index t = rows.begin; t < rows.end; ++t) kernels::silu_mul(u.row(t), z.row(t), u.row(t));
  });
}

void Mamba::read_state(const BlockContext& ctx, const SequenceRows& rows, std::span<float> u,
                       std::span<const float> C) const noexcept {
  // Not bindings: lambdas capture these.
  const Index d_inner = sizes_.d_inner;
  const Index d_state = sizes_.d_state;
  float vectors[widest_hooked_vector];
  const Index most = std::min(kernels::scan_block, widest_hooked_vector / d_state);
  float* const h = rows.slot(ssm_state_).data();
  for (Index first = 0; first < d_inner; first += most) {
    const Index count = std::min(most, d_inner - first);
    const MatrixView<float> block(vectors, count, d_state);
    const auto at = [&](Index i, Index n) -> float& {
      return h[kernels::scan_offset(first + i, n, d_state)];
    };
    for (Index i = 0; i < count; ++i) {
      for (Index n = 0; n < d_state; ++n) block(i, n) = at(i, n);
    }
    if (rows.hook->wants(Site::state)) {
      ctx.visit(Site::state, rows, 0, block, first);
      for (Index i = 0; i < count; ++i) {
        for (Index n = 0; n < d_state; ++n) at(i, n) = block(i, n);
      }
    }
    if (rows.hook->wants(Site::state_read)) ctx.visit(Site::state_read, rows, 0, block, first);
    for (Index i = 0; i < count; ++i) {
      float& value = u[static_cast<std::size_t>(first + i)];
      float y = D_[first + i] * value;
      for (Index n = 0; n < d_state; ++n) {
        y = std::fma(C[static_cast<std::size_t>(n)], block(i, n), y);
      }
      value = y;
    }
  }
}

std::vector<Block::NoiseSite> Mamba::noise_sites() const {
  const auto [d_inner, d_state, dt_rank] = sizes_;
  std::vector<NoiseSite> sites = {
      {Site::input, in_proj_.in()}, {Site::conv, d_inner}, {Site::scan_input, d_inner},
      {Site::B, d_state},           {Site::dt, dt_rank},   {Site::C, d_state},
      {Site::scan, d_inner},        {Site::gate, d_inner}, {Site::mixed, d_inner}};
  if (d_state <= widest_hooked_vector) {
    sites.insert(sites.end(), {{Site::state, d_state}, {Site::state_read, d_state}});
  }
  return sites;
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
