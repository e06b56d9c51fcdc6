#include <algorithm>
#include <numbers>
#include <utility>

#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/norm.hpp"
#include "krait/kernels/ssd.hpp"
#include "training/blocks.hpp"
#include "training/conv_backward.hpp"
#include "training/products.hpp"
#include "training/room.hpp"
#include "training/ssd_backward.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

class Mamba2Gradient final : public BlockGradient {
 public:
  Mamba2Gradient(const Mamba2Spec& spec, Index d_model)
      : spec_(spec.resolved(d_model)), d_model_(d_model) {}

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    const Workspace::Frame frame(work.memory);
    const Index T = args.x.rows;
    const Index d_mlp = spec_.d_mlp();
    const Index d_ssm = spec_.d_ssm;
    const Index conv_floats = round_up((spec_.d_conv - 1) * spec_.conv_dim(), Index{16});
    // The forward pass again.
    const auto parts = work.memory.matrix(T, spec_.in_proj_rows());
    const auto dparts = work.memory.matrix(T, spec_.in_proj_rows());
    const auto xBC = work.memory.matrix(T, spec_.conv_dim());
    const auto dxBC = work.memory.matrix(T, spec_.conv_dim());
    linear(work, weights.scope("in_proj"), spec_.in_proj_rows(), d_model_, args.x, parts);
    Mamba2::scale(spec_, work.executor, parts);
    const ConvBackward conv{.x = parts.cols_from(2 * d_mlp + d_ssm, spec_.conv_dim()),
                            .dy = dxBC,
                            .dx = dparts.cols_from(2 * d_mlp + d_ssm, spec_.conv_dim()),
                            .state = args.state,
                            .dstate = args.dstate,
                            .d_conv = spec_.d_conv};
    conv_forward(work, weights.scope("conv1d"), conv, xBC);
    const Scan scan = scan_forward(work, weights, xBC, parts.cols_from(dt_column(), spec_.n_head()),
                                   args.state == nullptr ? nullptr : args.state + conv_floats);
    // The backward pass.
    const auto out = work.memory.matrix(T, spec_.d_inner);
    const auto dout = work.memory.matrix(T, spec_.d_inner);
    const ParameterScope out_proj = weights.scope("out_proj");
    linear_backward(work, {.weights = linear_weights(out_proj).without_gradients(),
                           .out = d_model_,
                           .in = spec_.d_inner,
                           .x = out,
                           .dy = args.dy,
                           .dx = dout});
    mlp_backward(parts, out, dout, dparts);
    const auto dy = work.memory.matrix(T, d_ssm);
    gate_backward(work, weights, scan.y, parts.cols_from(2 * d_mlp, d_ssm),
                  out.cols_from(d_mlp, d_ssm), dout.cols_from(d_mlp, d_ssm), dy,
                  dparts.cols_from(2 * d_mlp, d_ssm));
    linear_backward(work, out_proj, d_model_, spec_.d_inner, out, args.dy, {});  // its weights
    scan_backward(work, weights, scan, xBC, dy, dxBC, dparts.cols_from(dt_column(), spec_.n_head()),
                  args.dstate == nullptr ? nullptr : args.dstate + conv_floats);
    conv_backward(work, weights.scope("conv1d"), conv);
    Mamba2::scale(spec_, work.executor, dparts);
    linear_backward(work, weights.scope("in_proj"), spec_.in_proj_rows(), d_model_, args.x, dparts,
                    args.dx);
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    const Index n_head = spec_.n_head();
    const Index state = spec_.d_ssm * spec_.d_state;
    for (int i = 0; i < 2; ++i) room.matrix(T, spec_.in_proj_rows());
    for (int i = 0; i < 2; ++i) room.matrix(T, spec_.conv_dim());
    room.linear(spec_.in_proj_rows(), d_model_, T);
    room.conv_forward(spec_.conv_dim(), spec_.d_conv);
    // Of the recurrence, forward.
    room.matrix(T, spec_.d_ssm);
    room.matrix(T, n_head);
    room.matrix(n_head, T);
    room.floats(n_head);
    room.floats(((T + kernels::ssd_chunk - 1) / kernels::ssd_chunk + 1) * state);
    room.matrix(T, n_head);
    // Backward.
    for (int i = 0; i < 2; ++i) room.matrix(T, spec_.d_inner);
    room.linear_backward(d_model_, spec_.d_inner, T, {.weights = false});
    room.matrix(T, spec_.d_ssm);
    gate_memory(room);
    room.linear_backward(d_model_, spec_.d_inner, T, {.inputs = false});
    scan_memory(room);
    room.conv_backward(spec_.conv_dim(), spec_.d_conv);
    room.linear_backward(spec_.in_proj_rows(), d_model_, T, {});
    return room.most();
  }

 private:
  // What gate_backward takes.
  void gate_memory(Room& room) const {
    const Room::Frame frame(room);
    const Index T = room.tokens();
    if (spec_.norm == GatedNorm::before_gate) room.matrix(T, spec_.d_ssm);
    room.matrix(T, spec_.d_ssm);
    if (spec_.norm != GatedNorm::none) room.norm_backward(T, spec_.d_ssm / spec_.n_group);
  }

  // What scan_backward takes.
  void scan_memory(Room& room) const {
    const Room::Frame frame(room);
    const Index T = room.tokens();
    room.floats(spec_.n_head() * T * 2 * spec_.d_state);
    room.matrix(spec_.n_head(), T);
    room.floats(spec_.n_head());
    room.floats(spec_.d_ssm);
    room.floats(spec_.d_ssm * spec_.d_state);
    room.floats(room.threads() * kernels::ssd_backward_memory(spec_.d_state));
  }

  // What the recurrence had and gave.
  struct Scan {
    MatrixView<float> y;      // [T, d_ssm]
    MatrixView<float> raw;    // [T, n_head] dt_raw with its bias
    MatrixView<float> dt;     // [n_head, T] after softplus and clamp
    std::span<float> A;       // [n_head], as the kernel has it
    std::span<float> states;  // [chunks, n_head, head_dim, d_state]
    Index state_floats = 0;
  };

  Index dt_column() const { return spec_.in_proj_rows() - spec_.n_head(); }

  Scan scan_forward(const Work& work, const ParameterScope& weights, MatrixView<const float> xBC,
                    MatrixView<const float> dt_raw, const float* state) const {
    const Index T = xBC.rows;
    const Index n_head = spec_.n_head();
    const Index chunks = (T + kernels::ssd_chunk - 1) / kernels::ssd_chunk;
    const Index d_B = spec_.n_group * spec_.d_state;
    Scan scan{.y = work.memory.matrix(T, spec_.d_ssm),
              .raw = work.memory.matrix(T, n_head),
              .dt = work.memory.matrix(n_head, T),
              .A = work.memory.floats(n_head),
              .states = {},
              .state_floats = spec_.d_ssm * spec_.d_state};
    scan.states = work.memory.floats((chunks + 1) * scan.state_floats);
    kernels::exp({weights.value("A_log"), static_cast<std::size_t>(n_head)}, scan.A);
    for (float& a : scan.A) a *= -std::numbers::log2e_v<float>;
    const float* bias = weights.value("dt_bias");
    const auto dt = work.memory.matrix(T, n_head);
    for (Index t = 0; t < T; ++t) {
      for (Index h = 0; h < n_head; ++h) scan.raw(t, h) = dt_raw(t, h) + bias[h];
      kernels::softplus(scan.raw.row(t), dt.row(t));
      for (Index h = 0; h < n_head; ++h) {
        scan.dt(h, t) = std::min(spec_.dt_max, std::max(spec_.dt_min, dt(t, h)));
      }
    }
    if (state == nullptr) {
      std::fill_n(scan.states.data(), scan.state_floats, 0.0F);
    } else {
      std::copy_n(state, scan.state_floats, scan.states.data());
    }
    for (Index k = 0; k < chunks; ++k) {
      const Index first = k * kernels::ssd_chunk;
      const Index count = std::min(kernels::ssd_chunk, T - first);
      const auto rows = xBC.rows_from(first, count);
      float* own = scan.states.data() + k * scan.state_floats;
      std::copy_n(own, scan.state_floats, own + scan.state_floats);
      parallel_for(work.executor, n_head, 1, [&](Range heads) {
        kernels::ssd_scan({.x = rows.cols_from(0, spec_.d_ssm),
                           .dt_raw = dt_raw.rows_from(first, count),
                           .B = rows.cols_from(spec_.d_ssm, d_B),
                           .C = rows.cols_from(spec_.d_ssm + d_B, d_B),
                           .A = scan.A.data(),
                           .dt_bias = bias,
                           .D = weights.value("D"),
                           .D_per_channel = spec_.D_per_channel,
                           .dt_min = spec_.dt_min,
                           .dt_max = spec_.dt_max,
                           .state = own + scan.state_floats,
                           .n_head = n_head,
                           .head_dim = spec_.head_dim,
                           .d_state = spec_.d_state,
                           .n_group = spec_.n_group,
                           .y = scan.y.rows_from(first, count),
                           .heads = heads});
      });
    }
    return scan;
  }

  // The gated MLP beside the recurrence: its part of out, and its gradients.
  void mlp_backward(MatrixView<const float> parts, MatrixView<float> out,
                    MatrixView<const float> dout, MatrixView<float> dparts) const {
    const Index d_mlp = spec_.d_mlp();
    if (d_mlp == 0) return;
    for (Index t = 0; t < parts.rows; ++t) {
      const auto z = parts.cols_from(0, d_mlp).row(t);
      const auto x = parts.cols_from(d_mlp, d_mlp).row(t);
      const auto d = dout.cols_from(0, d_mlp).row(t);
      product_backward(x, z, out.cols_from(0, d_mlp).row(t), d,
                       dparts.cols_from(d_mlp, d_mlp).row(t), dparts.cols_from(0, d_mlp).row(t));
    }
  }

  // out = x · silu(z), and its gradients from dout.
  static void product_backward(std::span<const float> x, std::span<const float> z,
                               std::span<float> out, std::span<const float> dout,
                               std::span<float> dx, std::span<float> dz) {
    kernels::silu_mul(x, z, out);
    kernels::mul(dout, x, dz);
    silu_backward(z, dz, dz);
    kernels::silu_mul(dout, z, dx);
  }

  // out = norm(y · silu(z)), norm(y) · silu(z) or y · silu(z); dy and dz from dout.
  void gate_backward(const Work& work, const ParameterScope& weights, MatrixView<float> y,
                     MatrixView<const float> z, MatrixView<float> out, MatrixView<float> dout,
                     MatrixView<float> dy, MatrixView<float> dz) const {
    const Workspace::Frame frame(work.memory);
    MatrixView<float> factor = y;  // of the product with silu(z)
    if (spec_.norm == GatedNorm::before_gate) {
      factor = work.memory.matrix(y.rows, y.cols);
      normalize(weights, y, factor);
    }
    const auto product = work.memory.matrix(y.rows, y.cols);
    for (Index t = 0; t < y.rows; ++t) {
      kernels::silu_mul(factor.row(t), z.row(t), product.row(t));
    }
    if (spec_.norm == GatedNorm::after_gate) {
      normalize(weights, product, out);
      normalize_backward(work, weights, product, dout, dout);
    } else {
      copy_rows(work, product, out);
    }
    for (Index t = 0; t < y.rows; ++t) {
      product_backward(factor.row(t), z.row(t), product.row(t), dout.row(t), dy.row(t), dz.row(t));
    }
    if (spec_.norm == GatedNorm::before_gate) normalize_backward(work, weights, y, dy, dy);
  }

  void normalize(const ParameterScope& weights, MatrixView<const float> x,
                 MatrixView<float> y) const {
    const Index width = x.cols / spec_.n_group;
    for (Index first = 0; first < x.cols; first += width) {
      kernels::rms_norm({.x = x.cols_from(first, width),
                         .weight = weights.scope("norm").value("weight") + first,
                         .eps = spec_.norm_eps,
                         .y = y.cols_from(first, width)});
    }
  }

  void normalize_backward(const Work& work, const ParameterScope& weights,
                          MatrixView<const float> x, MatrixView<const float> dy,
                          MatrixView<float> dx) const {
    const Index width = x.cols / spec_.n_group;
    const ParameterScope norm = weights.scope("norm");
    float* gradient = norm.gradient("weight");
    for (Index first = 0; first < x.cols; first += width) {
      norm_backward(work, {.eps = spec_.norm_eps,
                           .weight = norm.value("weight") + first,
                           .x = x.cols_from(first, width),
                           .dy = dy.cols_from(first, width),
                           .dx = dx.cols_from(first, width),
                           .dweight = gradient == nullptr ? nullptr : gradient + first});
    }
  }

  // Threads share the heads, whose parts of dB and dC are then added in ascending order.
  void scan_backward(const Work& work, const ParameterScope& weights, const Scan& scan,
                     MatrixView<const float> xBC, MatrixView<const float> dy,
                     MatrixView<float> dxBC, MatrixView<float> ddt_raw, float* dstate) const {
    const Workspace::Frame frame(work.memory);
    const Index T = xBC.rows;
    const Index n_head = spec_.n_head();
    const Index P = spec_.head_dim;
    const Index N = spec_.d_state;
    const std::span<float> dBC = work.memory.floats(n_head * T * 2 * N);
    const auto ddt = work.memory.matrix(n_head, T);
    const std::span<float> dA_log = work.memory.floats(n_head);
    const std::span<float> dD = work.memory.floats(spec_.d_ssm);
    if (dstate == nullptr) {
      dstate = work.memory.floats(scan.state_floats).data();
      std::fill_n(dstate, scan.state_floats, 0.0F);
    }
    const Index task_floats = kernels::ssd_backward_memory(N);
    const std::span<float> tasks = work.memory.floats(work.executor.width() * task_floats);
    parallel_for(work.executor, n_head, 1, [&](Range heads, int task) {
      for (Index h = heads.begin; h < heads.end; ++h) {
        const Index group = h / (n_head / spec_.n_group) * N;
        kernels::ssd_backward({.x = xBC.cols_from(h * P, P),
                               .dy = dy.cols_from(h * P, P),
                               .B = xBC.cols_from(spec_.d_ssm + group, N),
                               .C = xBC.cols_from(spec_.d_ssm + spec_.n_group * N + group, N),
                               .dt = scan.dt.row(h),
                               .A = scan.A[static_cast<std::size_t>(h)],
                               .D = weights.value("D") + (spec_.D_per_channel ? h * P : h),
                               .D_per_channel = spec_.D_per_channel,
                               .states = scan.states.data() + h * P * N,
                               .state_stride = scan.state_floats,
                               .dx = dxBC.cols_from(h * P, P),
                               .ddt = ddt.row(h),
                               .dBC = {dBC.data() + h * T * 2 * N, T, 2 * N},
                               .dA_log = &dA_log[static_cast<std::size_t>(h)],
                               .dD = dD.data() + h * P,
                               .dstate = dstate + h * P * N,
                               .memory = tasks.subspan(static_cast<std::size_t>(task * task_floats),
                                                       static_cast<std::size_t>(task_floats))});
      }
    });
    add_heads(dBC, dxBC.cols_from(spec_.d_ssm, 2 * spec_.n_group * N));
    time_steps_backward(scan, ddt, ddt_raw);
    if (float* gradient = weights.gradient("A_log"); gradient != nullptr) {
      for (Index h = 0; h < n_head; ++h) gradient[h] += dA_log[static_cast<std::size_t>(h)];
    }
    if (float* gradient = weights.gradient("D"); gradient != nullptr) {
      for (Index i = 0; i < spec_.d_ssm; ++i) {
        gradient[spec_.D_per_channel ? i : i / P] += dD[static_cast<std::size_t>(i)];
      }
    }
    if (float* gradient = weights.gradient("dt_bias"); gradient != nullptr) {
      add_column_sums(work, ddt_raw, {}, gradient);
    }
  }

  // The heads' parts of dB and dC [n_head, T, 2 d_state], to their groups'.
  void add_heads(std::span<const float> parts, MatrixView<float> dBC) const {
    const Index N = spec_.d_state;
    const Index T = dBC.rows;
    const Index heads = spec_.n_head() / spec_.n_group;
    for (Index t = 0; t < T; ++t) {
      std::ranges::fill(dBC.row(t), 0.0F);
      for (Index h = 0; h < spec_.n_head(); ++h) {
        const float* part = parts.data() + (h * T + t) * 2 * N;
        float* dB = dBC.row_data(t) + h / heads * N;
        float* dC = dB + spec_.n_group * N;
        for (Index n = 0; n < N; ++n) {
          dB[n] += part[n];
          dC[n] += part[N + n];
        }
      }
    }
  }

  // Through clamp and softplus. The clamp passes what lies on its bounds, as PyTorch's.
  void time_steps_backward(const Scan& scan, MatrixView<const float> ddt,
                           MatrixView<float> ddt_raw) const {
    std::vector<float> softplus(static_cast<std::size_t>(spec_.n_head()));
    for (Index t = 0; t < ddt_raw.rows; ++t) {
      kernels::softplus(scan.raw.row(t), softplus);
      kernels::sigmoid(scan.raw.row(t), ddt_raw.row(t));
      for (Index h = 0; h < spec_.n_head(); ++h) {
        const float dt = softplus[static_cast<std::size_t>(h)];
        const bool passes = dt >= spec_.dt_min && dt <= spec_.dt_max;
        ddt_raw(t, h) = passes ? ddt(h, t) * ddt_raw(t, h) : 0.0F;
      }
    }
  }

  Mamba2Spec spec_;
  Index d_model_;
};

}  // namespace

std::unique_ptr<const BlockGradient> gradient_of(const Mamba2Spec& spec, Index d_model) {
  return std::make_unique<Mamba2Gradient>(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
