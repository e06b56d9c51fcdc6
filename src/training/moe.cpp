#include <algorithm>
#include <vector>

#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/softmax.hpp"
#include "training/blocks.hpp"
#include "training/capacity.hpp"
#include "training/feed_forward.hpp"
#include "training/products.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

class MoeGradient final : public BlockGradient {
 public:
  MoeGradient(const MoeSpec& spec, Index d_model)
      : spec_(spec.resolved(d_model)), d_model_(d_model) {}

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    const Workspace::Frame frame(work.memory);
    const Index T = args.x.rows;
    const auto logits = work.memory.matrix(T, spec_.n_expert);
    const auto gates = work.memory.matrix(T, spec_.n_expert);
    const auto taken = work.memory.matrix(T, spec_.n_expert);  // gates within the capacity
    const auto dgates = work.memory.matrix(T, spec_.n_expert);
    const auto dx = work.memory.matrix(T, d_model_);  // args.dx may be args.dy
    const ParameterScope router = weights.scope(spec_.names.router);
    linear(work, router, spec_.n_expert, d_model_, args.x, logits);
    kernels::route({.logits = logits,
                    .score = spec_.router.score,
                    .top_k = spec_.top_k,
                    .selection_bias = spec_.router.selection_bias
                                          ? router.value("e_score_correction_bias")
                                          : nullptr,
                    .normalize = spec_.router.normalize,
                    .scale = spec_.router.scale,
                    .gates = gates});
    copy_rows(work, gates, taken);
    if (args.capacity > 0.0) limit_experts(args.capacity, spec_.top_k, taken);
    for (Index t = 0; t < T; ++t) {
      std::ranges::fill(dx.row(t), 0.0F);
      std::ranges::fill(dgates.row(t), 0.0F);
    }
    for (Index e = 0; e < spec_.n_expert; ++e) {
      expert_backward(work, weights, args, e, taken, dgates, dx);
    }
    if (spec_.d_shared != 0) {
      const auto part = work.memory.matrix(T, d_model_);
      FeedForwardBackward shared = network(weights.scope(spec_.names.shared), spec_.d_shared);
      shared.x = args.x;
      shared.dy = args.dy;
      shared.dx = part;
      feed_forward_backward(work, shared);
      add_to(work, part, dx);
    }
    const auto dlogits = work.memory.matrix(T, spec_.n_expert);
    router_backward(logits, gates, dgates, args, dlogits);
    const auto part = work.memory.matrix(T, d_model_);
    linear_backward(work, router, spec_.n_expert, d_model_, args.x, dlogits, part);
    add_to(work, part, dx);
    copy_rows(work, dx, args.dx);
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    for (int i = 0; i < 4; ++i) room.matrix(T, spec_.n_expert);
    room.matrix(T, d_model_);
    room.linear(spec_.n_expert, d_model_, T, true);
    {
      const Room::Frame frame(room);
      for (int i = 0; i < 3; ++i) room.matrix(T, d_model_);
      for (int i = 0; i < 2; ++i) room.floats(T);
      room.feed_forward_backward(network_size(spec_.d_expert, true), T);
    }
    if (spec_.d_shared != 0) {
      room.matrix(T, d_model_);
      room.feed_forward_backward(network_size(spec_.d_shared, false), T);
    }
    room.matrix(T, spec_.n_expert);
    room.matrix(T, d_model_);
    room.linear_backward(spec_.n_expert, d_model_, T, {}, true);
    return room.most();
  }

 private:
  Room::FeedForwardSize network_size(Index d_hidden, bool has_gates) const {
    return {.d_model = d_model_,
            .d_hidden = d_hidden,
            .gated = spec_.gated,
            .own_gate = !spec_.names.gate.empty(),
            .has_gates = has_gates};
  }

  FeedForwardBackward network(const ParameterScope& scope, Index d_hidden) const {
    FeedForwardBackward result{.up = linear_weights(scope.scope(spec_.names.up)),
                               .down = linear_weights(scope.scope(spec_.names.down)),
                               .d_hidden = d_hidden,
                               .activation = spec_.activation,
                               .gated = spec_.gated,
                               .x = {},
                               .dy = {},
                               .dx = {}};
    if (!spec_.names.gate.empty()) result.gate = linear_weights(scope.scope(spec_.names.gate));
    return result;
  }

  FeedForwardBackward expert(const ParameterScope& weights, Index e) const {
    if (!spec_.names.experts.empty()) {
      return network(weights.scope(spec_.names.experts, e), spec_.d_expert);
    }
    const Index d_up = FeedForward::up_rows(spec_.d_expert, spec_.gated);
    return {.up = linear_weights(weights.scope(spec_.names.up), e, d_up * d_model_),
            .down = linear_weights(weights.scope(spec_.names.down), e, d_model_ * spec_.d_expert),
            .d_hidden = spec_.d_expert,
            .activation = spec_.activation,
            .gated = spec_.gated,
            .x = {},
            .dy = {},
            .dx = {}};
  }

  // The tokens that were sent to the expert: gathered, passed through backwards, and scattered.
  void expert_backward(const Work& work, const ParameterScope& weights, const BackwardArgs& args,
                       Index e, MatrixView<const float> gates, MatrixView<float> dgates,
                       MatrixView<float> dx) const {
    std::vector<Index> tokens;
    for (Index t = 0; t < gates.rows; ++t) {
      if (gates(t, e) != 0.0F) tokens.push_back(t);
    }
    if (tokens.empty()) return;
    const Workspace::Frame frame(work.memory);
    const Index rows = std::ssize(tokens);
    const auto x = work.memory.matrix(rows, d_model_);
    const auto dy = work.memory.matrix(rows, d_model_);
    const auto part = work.memory.matrix(rows, d_model_);
    const std::span<float> gate = work.memory.floats(rows);
    const std::span<float> dgate = work.memory.floats(rows);
    for (Index i = 0; i < rows; ++i) {
      const Index t = tokens[static_cast<std::size_t>(i)];
      std::ranges::copy(args.x.row(t), x.row_data(i));
      std::ranges::copy(args.dy.row(t), dy.row_data(i));
      gate[static_cast<std::size_t>(i)] = gates(t, e);
    }
    FeedForwardBackward own = expert(weights, e);
    own.x = x;
    own.dy = dy;
    own.dx = part;
    own.gates = gate;
    own.dgates = dgate;
    feed_forward_backward(work, own);
    for (Index i = 0; i < rows; ++i) {
      const Index t = tokens[static_cast<std::size_t>(i)];
      dgates(t, e) = dgate[static_cast<std::size_t>(i)];
      kernels::add(dx.row(t), part.row(i), dx.row(t));
    }
  }

  // From the gradients of the gates to those of the logits, with those of the losses that keep the
  // experts balanced and the logits small.
  void router_backward(MatrixView<const float> logits, MatrixView<const float> gates,
                       MatrixView<const float> dgates, const BackwardArgs& args,
                       MatrixView<float> dlogits) const {
    const auto n_expert = static_cast<std::size_t>(spec_.n_expert);
    const Index T = logits.rows;
    std::vector<double> share(n_expert);  // of the tokens that the expert gets
    for (Index t = 0; t < T; ++t) {
      for (std::size_t e = 0; e < n_expert; ++e) {
        if (gates(t, static_cast<Index>(e)) != 0.0F) share[e] += 1.0;
      }
    }
    for (double& value : share) value /= static_cast<double>(T * spec_.top_k);
    std::vector<float> p(n_expert);  // softmax over all experts
    std::vector<double> d(n_expert);
    for (Index t = 0; t < T; ++t) {
      kernels::softmax(logits.row(t), p);
      gates_backward(logits.row(t), gates.row(t), dgates.row(t), p, d);
      if (args.balance > 0.0) {
        double mean = 0.0;
        for (std::size_t e = 0; e < n_expert; ++e) mean += double(p[e]) * share[e];
        const double factor = args.balance * static_cast<double>(n_expert);
        for (std::size_t e = 0; e < n_expert; ++e) {
          d[e] += factor * double(p[e]) * (share[e] - mean);
        }
      }
      if (args.z_loss > 0.0) {
        const double lse = double(kernels::log_sum_exp(logits.row(t)));
        for (std::size_t e = 0; e < n_expert; ++e) d[e] += 2.0 * args.z_loss * lse * double(p[e]);
      }
      for (std::size_t e = 0; e < n_expert; ++e) {
        dlogits(t, static_cast<Index>(e)) = static_cast<float>(d[e]);
      }
    }
  }

  // One token: gates of chosen experts are s (softmax, sigmoid), perhaps divided by their sum, and
  // scaled.
  void gates_backward(std::span<const float> logits, std::span<const float> gates,
                      std::span<const float> dgates, std::span<const float> p,
                      std::vector<double>& d) const {
    using kernels::RouterScore;
    const std::size_t n = d.size();
    const double scale = double(spec_.router.scale);
    for (std::size_t e = 0; e < n; ++e) {
      d[e] = gates[e] == 0.0F ? 0.0 : double(dgates[e]) * scale;
    }
    const auto weighted_by = [&](std::span<const double> w) {
      double sum = 0.0;
      for (std::size_t e = 0; e < n; ++e) sum += w[e] * d[e];
      return sum;
    };
    std::vector<double> score(n);
    std::vector<float> sigmoid(n);
    kernels::sigmoid(logits, sigmoid);
    const bool of_chosen = spec_.router.score == RouterScore::softmax_of_chosen;
    for (std::size_t e = 0; e < n; ++e) {
      score[e] = of_chosen                                    ? double(gates[e]) / scale
                 : spec_.router.score == RouterScore::sigmoid ? double(sigmoid[e])
                                                              : double(p[e]);
    }
    if (spec_.router.normalize) {
      double sum = 1e-20;
      for (std::size_t e = 0; e < n; ++e) sum += gates[e] == 0.0F ? 0.0 : score[e];
      std::vector<double> normal(n);
      for (std::size_t e = 0; e < n; ++e) normal[e] = gates[e] == 0.0F ? 0.0 : score[e] / sum;
      const double along = weighted_by(normal);
      for (std::size_t e = 0; e < n; ++e) {
        if (gates[e] != 0.0F) d[e] = (d[e] - along) / sum;
      }
    }
    if (spec_.router.score == RouterScore::sigmoid) {
      for (std::size_t e = 0; e < n; ++e) d[e] *= score[e] * (1.0 - score[e]);
      return;
    }
    const double along = weighted_by(score);
    for (std::size_t e = 0; e < n; ++e) d[e] = score[e] * (d[e] - along);
  }

  MoeSpec spec_;
  Index d_model_;
};

}  // namespace

std::unique_ptr<const BlockGradient> gradient_of(const MoeSpec& spec, Index d_model) {
  return std::make_unique<MoeGradient>(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
