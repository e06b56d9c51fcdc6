#include <algorithm>
#include <array>
#include <numbers>

#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/norm.hpp"
#include "training/blocks.hpp"
#include "training/conv_backward.hpp"
#include "training/products.hpp"
#include "training/room.hpp"
#include "training/scan_backward.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

class MambaGradient final : public BlockGradient {
 public:
  MambaGradient(const MambaSpec& spec, Index d_model)
      : spec_(spec.resolved(d_model)), d_model_(d_model) {}

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    const Workspace::Frame frame(work.memory);
    const Index T = args.x.rows;
    const Index d_inner = spec_.d_inner;
    const Index d_BC = spec_.dt_rank + 2 * spec_.d_state;
    const Index conv_floats = round_up((spec_.d_conv - 1) * d_inner, Index{16});
    // The forward pass again.
    const auto xz = work.memory.matrix(T, 2 * d_inner);
    const auto x = xz.cols_from(0, d_inner);  // in front of the convolution
    const auto z = xz.cols_from(d_inner, d_inner);
    const auto u = work.memory.matrix(T, d_inner);
    const auto dBC = work.memory.matrix(T, d_BC);
    const auto dt_raw = work.memory.matrix(T, d_inner);
    linear(work, weights.scope("in_proj"), 2 * d_inner, d_model_, args.x, xz);
    const auto dxz = work.memory.matrix(T, 2 * d_inner);
    const auto du = work.memory.matrix(T, d_inner);
    ConvBackward conv{.x = x,
                      .dy = du,
                      .dx = dxz.cols_from(0, d_inner),
                      .state = args.state,
                      .dstate = args.dstate,
                      .d_conv = spec_.d_conv};
    conv_forward(work, weights.scope("conv1d"), conv, u);
    linear(work, weights.scope("x_proj"), d_BC, d_inner, u, dBC);
    MatrixView<float> raw = dBC;  // in front of the inner norm
    if (spec_.inner_norm_eps >= 0.0F) raw = normalize(work, weights, dBC);
    linear(work, weights.scope("dt_proj"), d_inner, spec_.dt_rank, dBC.cols_from(0, spec_.dt_rank),
           dt_raw);
    // The backward pass.
    const auto y = work.memory.matrix(T, d_inner);
    const auto dy = work.memory.matrix(T, d_inner);
    const auto ddt_raw = work.memory.matrix(T, d_inner);
    const auto ddBC = work.memory.matrix(T, d_BC);
    const ParameterScope out_proj = weights.scope("out_proj");
    linear_backward(work, {.weights = linear_weights(out_proj).without_gradients(),
                           .out = d_model_,
                           .in = d_inner,
                           .x = y,
                           .dy = args.dy,
                           .dx = dy});
    scan_backward(work, weights,
                  {.u = u,
                   .dt_raw = dt_raw,
                   .B = dBC.cols_from(spec_.dt_rank, spec_.d_state),
                   .C = dBC.cols_from(spec_.dt_rank + spec_.d_state, spec_.d_state),
                   .z = z,
                   .h = args.state == nullptr ? nullptr : args.state + conv_floats,
                   .d_state = spec_.d_state,
                   .dy = dy,
                   .y = y,
                   .du = du,
                   .ddt_raw = ddt_raw,
                   .dz = dxz.cols_from(d_inner, d_inner),
                   .dBC = ddBC.cols_from(spec_.dt_rank, 2 * spec_.d_state),
                   .dh = args.dstate == nullptr ? nullptr : args.dstate + conv_floats});
    linear_backward(work, out_proj, d_model_, d_inner, y, args.dy, {});  // its weights
    linear_backward(work, weights.scope("dt_proj"), d_inner, spec_.dt_rank,
                    dBC.cols_from(0, spec_.dt_rank), ddt_raw, ddBC.cols_from(0, spec_.dt_rank));
    if (spec_.inner_norm_eps >= 0.0F) normalize_backward(work, weights, raw, ddBC);
    linear_backward(work, weights.scope("x_proj"), d_BC, d_inner, u, ddBC, dy);
    add_to(work, dy, du);
    conv_backward(work, weights.scope("conv1d"), conv);
    linear_backward(work, weights.scope("in_proj"), 2 * d_inner, d_model_, args.x, dxz, args.dx);
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    const Index d_inner = spec_.d_inner;
    const Index d_BC = spec_.dt_rank + 2 * spec_.d_state;
    const bool is_normed = spec_.inner_norm_eps >= 0.0F;
    room.matrix(T, 2 * d_inner);
    room.matrix(T, d_inner);
    room.matrix(T, d_BC);
    room.matrix(T, d_inner);
    room.linear(2 * d_inner, d_model_, T);
    room.matrix(T, 2 * d_inner);
    room.matrix(T, d_inner);
    room.conv_forward(d_inner, spec_.d_conv);
    room.linear(d_BC, d_inner, T);
    if (is_normed) room.matrix(T, d_BC);
    room.linear(d_inner, spec_.dt_rank, T);
    for (int i = 0; i < 3; ++i) room.matrix(T, d_inner);
    room.matrix(T, d_BC);
    room.linear_backward(d_model_, d_inner, T, {.weights = false});
    scan_memory(room);
    room.linear_backward(d_model_, d_inner, T, {.inputs = false});
    room.linear_backward(d_inner, spec_.dt_rank, T, {});
    for (const NormedPart& part : normed_parts()) {
      if (is_normed) room.norm_backward(T, part.cols.size(), spec_.inner_norm_weights);
    }
    room.linear_backward(d_BC, d_inner, T, {});
    room.conv_backward(d_inner, spec_.d_conv);
    room.linear_backward(2 * d_inner, d_model_, T, {});
    return room.most();
  }

 private:
  // What scan_backward takes.
  void scan_memory(Room& room) const {
    const Room::Frame frame(room);
    const Index N = spec_.d_state;
    const Index size = kernels::scan_size(spec_.d_inner, N);
    room.floats(size);
    {
      const Room::Frame inner(room);
      room.floats(spec_.d_inner * N);
    }
    room.floats(size);
    room.floats(spec_.d_inner);
    room.floats(size);
    const Index groups = (spec_.d_inner + kernels::scan_group - 1) / kernels::scan_group;
    room.floats(groups * room.tokens() * 2 * N);
    room.floats(room.threads() * kernels::scan_backward_memory(room.tokens(), N));
  }

  // Columns that are normalised by themselves, and the scope of their weights, if they have any.
  struct NormedPart {
    const char* norm;
    Range cols;
  };
  std::array<NormedPart, 3> normed_parts() const {
    const Index r = spec_.dt_rank;
    const Index n = spec_.d_state;
    return {NormedPart{"dt_layernorm", {0, r}},
            {"b_layernorm", {r, r + n}},
            {"c_layernorm", {r + n, r + 2 * n}}};
  }

  // Normalises δ, B and C in place; what they were.
  MatrixView<float> normalize(const Work& work, const ParameterScope& weights,
                              MatrixView<float> dBC) const {
    const MatrixView<float> raw = work.memory.matrix(dBC.rows, dBC.cols);
    copy_rows(work, dBC, raw);
    for (const auto& [norm, cols] : normed_parts()) {
      const auto part = dBC.cols_from(cols.begin, cols.size());
      kernels::rms_norm(
          {.x = part,
           .weight = spec_.inner_norm_weights ? weights.scope(norm).value("weight") : nullptr,
           .eps = spec_.inner_norm_eps,
           .y = part});
    }
    return raw;
  }

  void normalize_backward(const Work& work, const ParameterScope& weights,
                          MatrixView<const float> raw, MatrixView<float> ddBC) const {
    for (const auto& [norm, cols] : normed_parts()) {
      const auto part = ddBC.cols_from(cols.begin, cols.size());
      NormBackward args{.eps = spec_.inner_norm_eps,
                        .x = raw.cols_from(cols.begin, cols.size()),
                        .dy = part,
                        .dx = part};
      if (spec_.inner_norm_weights) {
        args.weight = weights.scope(norm).value("weight");
        args.dweight = weights.scope(norm).gradient("weight");
      }
      norm_backward(work, args);
    }
  }

  // A, and the gradients of A_log and D, stand in `weights`; the rest in `args`. Threads share the
  // channels in groups, whose parts of dB and dC are then added in ascending order.
  void scan_backward(const Work& work, const ParameterScope& weights,
                     kernels::ScanBackwardArgs args) const {
    const Workspace::Frame frame(work.memory);
    const Index d_inner = spec_.d_inner;
    const Index N = spec_.d_state;
    const Index T = args.u.rows;
    const Index size = kernels::scan_size(d_inner, N);
    const std::span<float> A = work.memory.floats(size);
    to_blocks(work, weights.value("A_log"), A);
    const std::span<float> dA_log = work.memory.floats(size);
    const std::span<float> dD = work.memory.floats(d_inner);
    if (args.dh == nullptr) {
      args.dh = work.memory.floats(size).data();
      std::fill_n(args.dh, size, 0.0F);
    }
    args.A = A.data();
    args.D = weights.value("D");
    args.dA_log = dA_log.data();
    args.dD = dD.data();
    const MatrixView<float> dBC = args.dBC;
    const Index groups = (d_inner + kernels::scan_group - 1) / kernels::scan_group;
    const std::span<float> parts = work.memory.floats(groups * T * 2 * N);
    const Index task_floats = kernels::scan_backward_memory(T, N);
    const std::span<float> tasks = work.memory.floats(work.executor.width() * task_floats);
    parallel_for(work.executor, groups, 1, [&](Range range, int task) {
      for (Index g = range.begin; g < range.end; ++g) {
        kernels::ScanBackwardArgs own = args;
        own.dBC = {parts.data() + g * T * 2 * N, T, 2 * N};
        own.memory = tasks.subspan(static_cast<std::size_t>(task * task_floats),
                                   static_cast<std::size_t>(task_floats));
        own.channels = {g * kernels::scan_group, std::min(d_inner, (g + 1) * kernels::scan_group)};
        kernels::selective_scan_backward(own);
      }
    });
    for (Index t = 0; t < T; ++t) {
      std::ranges::fill(dBC.row(t), 0.0F);
      for (Index g = 0; g < groups; ++g) {
        const float* part = parts.data() + (g * T + t) * 2 * N;
        kernels::add(dBC.row(t), {part, static_cast<std::size_t>(2 * N)}, dBC.row(t));
      }
    }
    if (float* gradient = weights.gradient("A_log"); gradient != nullptr) {
      for (Index d = 0; d < d_inner; ++d) {
        for (Index n = 0; n < N; ++n) {
          gradient[d * N + n] += dA_log[static_cast<std::size_t>(kernels::scan_offset(d, n, N))];
        }
      }
    }
    if (float* gradient = weights.gradient("D"); gradient != nullptr) {
      for (Index d = 0; d < d_inner; ++d) gradient[d] += dD[static_cast<std::size_t>(d)];
    }
  }

  // -exp(A_log) log2(e) in the layout of the scan.
  void to_blocks(const Work& work, const float* A_log, std::span<float> A) const {
    const Workspace::Frame frame(work.memory);
    const Index N = spec_.d_state;
    const auto size = static_cast<std::size_t>(spec_.d_inner * N);
    const std::span<float> exp_A = work.memory.floats(spec_.d_inner * N);
    kernels::exp({A_log, size}, exp_A);
    std::ranges::fill(A, 0.0F);
    for (Index d = 0; d < spec_.d_inner; ++d) {
      for (Index n = 0; n < N; ++n) {
        A[static_cast<std::size_t>(kernels::scan_offset(d, n, N))] =
            -std::numbers::log2e_v<float> * exp_A[static_cast<std::size_t>(d * N + n)];
      }
    }
  }

  MambaSpec spec_;
  Index d_model_;
};

}  // namespace

std::unique_ptr<const BlockGradient> gradient_of(const MambaSpec& spec, Index d_model) {
  return std::make_unique<MambaGradient>(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
