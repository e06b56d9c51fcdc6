#include "training/feed_forward.hpp"

#include <algorithm>

#include "krait/kernels/elementwise.hpp"
#include "training/blocks.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

// From the rows of `up` to those of `down`.
void activate(const FeedForwardBackward& args, std::span<const float> hidden,
              std::span<float> active) {
  const std::span<const float> g = hidden.first(active.size());
  args.activation == Activation::relu ? kernels::relu(g, active) : kernels::silu(g, active);
  if (args.gated) kernels::mul(active, hidden.subspan(active.size()), active);
}

// From the gradient of the rows of `down` to that of the rows of `up`.
void activate_backward(const FeedForwardBackward& args, std::span<const float> hidden,
                       std::span<float> dactive, std::span<float> dhidden) {
  const std::size_t n = dactive.size();
  const std::span<const float> g = hidden.first(n);
  const std::span<float> dg = dhidden.first(n);
  if (args.gated) {
    const std::span<float> du = dhidden.subspan(n);
    args.activation == Activation::relu ? kernels::relu(g, du) : kernels::silu(g, du);
    kernels::mul(du, dactive, du);
    kernels::mul(dactive, hidden.subspan(n), dactive);
  }
  if (args.activation == Activation::silu) return silu_backward(g, dactive, dg);
  for (std::size_t i = 0; i < n; ++i) dg[i] = g[i] > 0.0F ? dactive[i] : 0.0F;
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
  constexpr Index row_block = 8;
  const ItemCost cost = ItemCost::of(0, 30 * d_up);
  linear(work, args.up, d_up, d_model, args.x, hidden);
  parallel_for(work.executor, rows, row_block, cost, [&](Range range) {
    for (Index t = range.begin; t < range.end; ++t) activate(args, hidden.row(t), active.row(t));
  });
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
  parallel_for(work.executor, rows, row_block, cost, [&](Range range) {
    for (Index t = range.begin; t < range.end; ++t) {
      activate_backward(args, hidden.row(t), dactive.row(t), dhidden.row(t));
    }
  });
  linear_backward(
      work,
      {.weights = args.up, .out = d_up, .in = d_model, .x = args.x, .dy = dhidden, .dx = args.dx});
}

namespace {

class MlpGradient final : public BlockGradient {
 public:
  MlpGradient(const MlpSpec& spec, Index d_model)
      : spec_(spec.resolved(d_model)), d_model_(d_model) {}

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    feed_forward_backward(work, {.up = linear_weights(weights.scope(spec_.up)),
                                 .down = linear_weights(weights.scope(spec_.down)),
                                 .d_hidden = spec_.d_hidden,
                                 .activation = spec_.activation,
                                 .gated = spec_.gated,
                                 .x = args.x,
                                 .dy = args.dy,
                                 .dx = args.dx});
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    room.feed_forward_backward(d_model_, spec_.d_hidden, spec_.gated, size.tokens, false);
    return room.most();
  }

 private:
  MlpSpec spec_;
  Index d_model_;
};

}  // namespace

std::unique_ptr<const BlockGradient> gradient_of(const MlpSpec& spec, Index d_model) {
  return std::make_unique<MlpGradient>(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
