#include "training/feed_forward.hpp"

#include <algorithm>

#include "krait/kernels/elementwise.hpp"
#include "training/blocks.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

constexpr float one_by_root_two_pi = 0x1.988454p-2F;

// gelu'(x) = Φ(x) + x φ(x), φ(x) = e^(-x²/2) / √(2π); Φ(x) is gelu(x) / x. dx may be x.
void gelu_backward(std::span<const float> x, std::span<const float> dy, std::span<float> dx) {
  constexpr std::size_t piece = 256;
  float gelu[piece];
  float density[piece];
  for (std::size_t first = 0; first < x.size(); first += piece) {
    const std::size_t count = std::min(piece, x.size() - first);
    const auto part = x.subspan(first, count);
    kernels::gelu(part, {gelu, count});
    for (std::size_t i = 0; i < count; ++i) density[i] = -0.5F * (part[i] * part[i]);
    kernels::exp({density, count}, {density, count});
    for (std::size_t i = 0; i < count; ++i) {
      const float v = part[i];
      const float below = v == 0.0F ? 0.5F : gelu[i] / v;  // Φ(v)
      dx[first + i] = dy[first + i] * (below + v * (density[i] * one_by_root_two_pi));
    }
  }
}

// dx = dy · activation'(x); dx may be x.
void activation_backward(Activation activation, std::span<const float> x, std::span<const float> dy,
                         std::span<float> dx) {
  switch (activation) {
    case Activation::relu:
      for (std::size_t i = 0; i < x.size(); ++i) dx[i] = x[i] > 0.0F ? dy[i] : 0.0F;
      return;
    case Activation::silu:
      return silu_backward(x, dy, dx);
    case Activation::relu_squared:
      for (std::size_t i = 0; i < x.size(); ++i) {
        dx[i] = x[i] > 0.0F ? dy[i] * (2.0F * x[i]) : 0.0F;
      }
      return;
    case Activation::gelu:
      return gelu_backward(x, dy, dx);
  }
}

// Where the gate stands among the rows of `up` [d_up], and what it multiplies. Without a gate the
// first are all there are.
template <class T>
struct Halves {
  Halves(const FeedForwardBackward& args, std::span<T> hidden) {
    const auto n = static_cast<std::size_t>(args.d_hidden);
    const auto first = hidden.first(n);
    const auto second = hidden.subspan(n);
    gate = args.gate_last ? second : first;
    factor = args.gate_last ? first : second;
  }
  std::span<T> gate, factor;
};

// From the rows of `up` to those of `down`.
void activate(const FeedForwardBackward& args, std::span<const float> hidden,
              std::span<float> active) {
  const Halves<const float> rows(args, hidden);
  std::span<const float> g = rows.gate;
  if (args.gate_scale != 1.0F) {
    kernels::scale(args.gate_scale, g, active);
    g = active;
  }
  krait::activate(args.activation, g, active);
  if (args.gated) kernels::mul(active, rows.factor, active);
}

// From the gradient of the rows of `down` to that of the rows of `up`.
void activate_backward(const FeedForwardBackward& args, std::span<const float> hidden,
                       std::span<float> dactive, std::span<float> dhidden) {
  const Halves<const float> rows(args, hidden);
  const Halves<float> drows(args, dhidden);
  std::span<const float> g = rows.gate;
  const bool is_scaled = args.gate_scale != 1.0F;
  if (is_scaled) {
    kernels::scale(args.gate_scale, g, drows.gate);
    g = drows.gate;
  }
  if (args.gated) {
    krait::activate(args.activation, g, drows.factor);
    kernels::mul(drows.factor, dactive, drows.factor);
    kernels::mul(dactive, rows.factor, dactive);
  }
  activation_backward(args.activation, g, dactive, drows.gate);
  if (is_scaled) kernels::scale(args.gate_scale, drows.gate, drows.gate);
}

// The gates' gradients ⟨dy, network(x)⟩, which is ⟨dy W_down, active⟩ + ⟨dy, bias⟩; then dactive
// and dy become those of the product with the gate.
void gates_backward(const FeedForwardBackward& args, MatrixView<const float> active,
                    MatrixView<float> dactive, MatrixView<float> dy) {
  for (Index t = 0; t < args.x.rows; ++t) {
    const auto at = static_cast<std::size_t>(t);
    float sum = dot(dactive.row_data(t), active.row_data(t), args.d_hidden);
    if (args.down.bias != nullptr) sum += dot(args.dy.row_data(t), args.down.bias, dy.cols);
    args.dgates[at] = sum;
    for (float& value : dactive.row(t)) value *= args.gates[at];
    for (Index i = 0; i < dy.cols; ++i) dy(t, i) = args.dy(t, i) * args.gates[at];
  }
}

constexpr Index network_rows = 8;  // threads share the rows in such blocks

// The rows of `up` and those of `down`.
void up_and_activate(const Work& work, const FeedForwardBackward& args, MatrixView<float> hidden,
                     MatrixView<float> active) {
  const Index d_model = args.x.cols;
  const Index d_up = hidden.cols;
  const Index split = args.gate ? args.d_hidden : 0;
  if (args.gate) linear(work, *args.gate, split, d_model, args.x, hidden.cols_from(0, split));
  linear(work, args.up, d_up - split, d_model, args.x, hidden.cols_from(split, d_up - split));
  parallel_for(work.executor, hidden.rows, network_rows, ItemCost::of(0, 30 * d_up),
               [&](Range range) {
                 for (Index t = range.begin; t < range.end; ++t) {
                   activate(args, hidden.row(t), active.row(t));
                 }
               });
}

}  // namespace

void feed_forward_backward(const Work& work, const FeedForwardBackward& args) {
  const Workspace::Frame frame(work.memory);
  const Index rows = args.x.rows;
  const Index d_model = args.x.cols;
  const Index d_up = FeedForward::up_rows(args.d_hidden, args.gated);
  const auto hidden = work.memory.matrix(rows, d_up);
  const auto active = work.memory.matrix(rows, args.d_hidden);
  const auto dactive = work.memory.matrix(rows, args.d_hidden);
  const auto dhidden = work.memory.matrix(rows, d_up);
  const ItemCost cost = ItemCost::of(0, 30 * d_up);
  const Index split = args.gate ? args.d_hidden : 0;  // of the rows of matrices of their own
  up_and_activate(work, args, hidden, active);
  LinearBackward down{.weights = args.down.without_gradients(),
                      .out = d_model,
                      .in = args.d_hidden,
                      .x = active,
                      .dy = args.dy,
                      .dx = dactive};
  linear_backward(work, down);
  if (!args.gates.empty()) {
    const auto dy = work.memory.matrix(rows, d_model);
    gates_backward(args, active, dactive, dy);
    down.dy = dy;
  }
  down.dx = {};
  down.weights = args.down;
  linear_backward(work, down);
  parallel_for(work.executor, rows, network_rows, cost, [&](Range range) {
    for (Index t = range.begin; t < range.end; ++t) {
      activate_backward(args, hidden.row(t), dactive.row(t), dhidden.row(t));
    }
  });
  linear_backward(work, {.weights = args.up,
                         .out = d_up - split,
                         .in = d_model,
                         .x = args.x,
                         .dy = dhidden.cols_from(split, d_up - split),
                         .dx = args.dx});
  if (!args.gate) return;
  const auto part = work.memory.matrix(rows, d_model);
  linear_backward(work, {.weights = *args.gate,
                         .out = split,
                         .in = d_model,
                         .x = args.x,
                         .dy = dhidden.cols_from(0, split),
                         .dx = part});
  add_to(work, part, args.dx);
}

void feed_forward(const Work& work, const FeedForwardBackward& args, MatrixView<float> y) {
  const Workspace::Frame frame(work.memory);
  const auto hidden =
      work.memory.matrix(args.x.rows, FeedForward::up_rows(args.d_hidden, args.gated));
  const auto active = work.memory.matrix(args.x.rows, args.d_hidden);
  up_and_activate(work, args, hidden, active);
  linear(work, args.down, args.x.cols, args.d_hidden, active, y);
}

namespace {

class MlpGradient final : public InnerGradient {
 public:
  MlpGradient(const MlpSpec& spec, Index d_model)
      : spec_(spec.resolved(d_model)), d_model_(d_model) {}

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    FeedForwardBackward own = network(weights);
    own.x = args.x;
    own.dy = args.dy;
    own.dx = args.dx;
    feed_forward_backward(work, own);
  }

  void forward(const Work& work, const ParameterScope& weights, MatrixView<const float> x,
               MatrixView<float> y) const override {
    FeedForwardBackward own = network(weights);
    own.x = x;
    feed_forward(work, own, y);
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    room.feed_forward_backward(network_size(), size.tokens);
    return room.most();
  }

  Index forward_memory(const BackwardSize& size) const override {
    Room room(size);
    room.feed_forward(network_size(), size.tokens);
    return room.most();
  }

 private:
  FeedForwardBackward network(const ParameterScope& weights) const {
    FeedForwardBackward result{.up = linear_weights(weights.scope(spec_.up)),
                               .down = linear_weights(weights.scope(spec_.down)),
                               .d_hidden = spec_.d_hidden,
                               .activation = spec_.activation,
                               .gated = spec_.gated,
                               .gate_last = spec_.gate_last,
                               .gate_scale = spec_.gate_scale,
                               .x = {},
                               .dy = {},
                               .dx = {}};
    if (spec_.adapter_rank > 0) {
      result.up = with_adapter(result.up, weights.scope(spec_.adapter), spec_.adapter_rank);
    }
    if (!spec_.gate.empty()) result.gate = linear_weights(weights.scope(spec_.gate));
    return result;
  }
  Room::FeedForwardSize network_size() const {
    return {.d_model = d_model_,
            .d_hidden = spec_.d_hidden,
            .gated = spec_.gated,
            .own_gate = !spec_.gate.empty(),
            .adapter_rank = spec_.adapter_rank};
  }

  MlpSpec spec_;
  Index d_model_;
};

}  // namespace

std::unique_ptr<const InnerGradient> inner_gradient(const MlpSpec& spec, Index d_model) {
  return std::make_unique<MlpGradient>(spec, d_model);
}

std::unique_ptr<const BlockGradient> gradient_of(const MlpSpec& spec, Index d_model) {
  return inner_gradient(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
