#include <algorithm>
#include <string>
#include <vector>

#include "krait/kernels/rotary.hpp"
#include "krait/kernels/softmax.hpp"
#include "training/blocks.hpp"
#include "training/conv_backward.hpp"
#include "training/products.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

// Of whole sequences: the first token has position 0. Scores of one head, [T, T], exist at a time.
class AttentionGradient final : public InnerGradient {
 public:
  AttentionGradient(const AttentionSpec& spec, Index d_model, Index d_input)
      : spec_(spec.resolved(d_model)), d_model_(d_model), d_input_(d_input) {
    if (spec_.rotary) frequencies_ = spec_.rotary->frequencies();
  }

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    const Workspace::Frame frame(work.memory);
    const Index T = args.x.rows;
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    const Index d_qkv = d_q + 2 * d_kv;
    const auto [raw, qkv] = project(work, weights, args.x);
    const auto dqkv = work.memory.matrix(T, d_qkv);
    ConvBackward conv{.x = raw, .dy = dqkv, .dx = {}, .d_conv = spec_.d_conv, .silu = false};
    const auto out = work.memory.matrix(T, d_q);
    const auto dout = work.memory.matrix(T, d_q);
    const ParameterScope out_proj = weights.scope(spec_.names.out);
    linear_backward(work, {.weights = linear_weights(out_proj).without_gradients(),
                           .out = d_model_,
                           .in = d_q,
                           .x = out,
                           .dy = args.dy,
                           .dx = dout});
    for (Index t = 0; t < T; ++t) std::ranges::fill(dqkv.cols_from(d_q, 2 * d_kv).row(t), 0.0F);
    const Index group = spec_.n_head / spec_.n_kv_head;
    for (Index h = 0; h < spec_.n_head; ++h) {
      head_backward(work, head(qkv, 0, h), head(qkv, d_q, h / group),
                    head(qkv, d_q + d_kv, h / group), head(out, 0, h), head(dout, 0, h),
                    head(dqkv, 0, h), head(dqkv, d_q, h / group),
                    head(dqkv, d_q + d_kv, h / group));
    }
    linear_backward(work, out_proj, d_model_, d_q, out, args.dy, {});  // its weights
    rotate_back(dqkv.cols_from(0, d_q));
    rotate_back(dqkv.cols_from(d_q, d_kv));
    MatrixView<float> draw = dqkv;
    if (spec_.d_conv > 0) {
      conv.dx = draw = work.memory.matrix(T, d_qkv);
      conv_backward(work, weights.scope(spec_.names.conv), conv);
    }
    inputs_backward(work, weights, args, draw);
  }

  void forward(const Work& work, const ParameterScope& weights, MatrixView<const float> x,
               MatrixView<float> y) const override {
    const Workspace::Frame frame(work.memory);
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    const auto qkv = project(work, weights, x).qkv;
    const auto out = work.memory.matrix(x.rows, d_q);
    const Index group = spec_.n_head / spec_.n_kv_head;
    for (Index h = 0; h < spec_.n_head; ++h) {
      head_forward(work, head(qkv, 0, h), head(qkv, d_q, h / group),
                   head(qkv, d_q + d_kv, h / group), head(out, 0, h));
    }
    linear(work, weights.scope(spec_.names.out), d_model_, d_q, out, y);
  }

  Index forward_memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    const Index d_q = spec_.n_head * spec_.d_head;
    project_memory(room);
    room.matrix(T, d_q);
    {
      const Room::Frame frame(room);
      room.matrix(T, T);
      room.matrix(T, spec_.d_head);
      for (const Index in : {spec_.d_head, T}) room.multiply(in, T);
    }
    room.linear(d_model_, d_q, T);
    return room.most();
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_qkv = d_q + 2 * spec_.n_kv_head * spec_.d_head;
    project_memory(room);
    room.matrix(T, d_qkv);
    for (int i = 0; i < 2; ++i) room.matrix(T, d_q);
    room.linear_backward(d_model_, d_q, T, {.weights = false});
    head_memory(room);
    room.linear_backward(d_model_, d_q, T, {.inputs = false});
    if (spec_.d_conv > 0) {
      room.matrix(T, d_qkv);
      room.conv_backward(d_qkv, spec_.d_conv);
    }
    for (int i = 0; i < (projections().size() > 1 ? 2 : 1); ++i) room.matrix(T, d_input_);
    for (const Projection& one : projections()) {
      room.adapted_linear_backward(one.rows, d_input_, spec_.adapter_rank, T);
    }
    return room.most();
  }

 private:
  // A matrix that gives some of the columns of [queries; keys; values].
  struct Projection {
    const std::string& name;
    const std::string& adapter;
    Index rank = 0;  // of the adapter
    Index first = 0;
    Index rows = 0;

    LinearWeights weights(const ParameterScope& scope) const {
      const LinearWeights matrix = linear_weights(scope.scope(name));
      return rank == 0 ? matrix : with_adapter(matrix, scope.scope(adapter), rank);
    }
  };
  std::vector<Projection> projections() const {
    const AttentionNames& names = spec_.names;
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    const Index rank = spec_.adapter_rank;
    if (!names.qkv.empty()) return {{names.qkv, names.q_adapter, 0, 0, d_q + 2 * d_kv}};
    return {{names.q, names.q_adapter, rank, 0, d_q},
            {names.k, names.k_adapter, rank, d_q, d_kv},
            {names.v, names.v_adapter, rank, d_q + d_kv, d_kv}};
  }

  MatrixView<float> head(MatrixView<float> x, Index first, Index h) const {
    return x.cols_from(first + h * spec_.d_head, spec_.d_head);
  }

  // [queries; keys; values] in front of the convolution, if there is one, and rotated behind it.
  struct Projected {
    MatrixView<float> raw, qkv;
  };
  Projected project(const Work& work, const ParameterScope& weights,
                    MatrixView<const float> x) const {
    const Index T = x.rows;
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    Projected result;
    result.raw = result.qkv = work.memory.matrix(T, d_q + 2 * d_kv);
    for (const Projection& one : projections()) {
      linear(work, one.weights(weights), one.rows, x.cols, x,
             result.raw.cols_from(one.first, one.rows));
    }
    if (spec_.d_conv > 0) {
      result.qkv = work.memory.matrix(T, d_q + 2 * d_kv);
      const ConvBackward conv{
          .x = result.raw, .dy = {}, .dx = {}, .d_conv = spec_.d_conv, .silu = false};
      conv_forward(work, weights.scope(spec_.names.conv), conv, result.qkv);
    }
    rotate(result.qkv.cols_from(0, d_q));
    rotate(result.qkv.cols_from(d_q, d_kv));
    return result;
  }
  void project_memory(Room& room) const {
    const Index T = room.tokens();
    const Index d_qkv = (spec_.n_head + 2 * spec_.n_kv_head) * spec_.d_head;
    room.matrix(T, d_qkv);
    for (const Projection& one : projections()) {
      room.adapted_linear(one.rows, d_input_, spec_.adapter_rank, T);
    }
    if (spec_.d_conv == 0) return;
    room.matrix(T, d_qkv);
    room.conv_forward(d_qkv, spec_.d_conv);
  }

  // The projections' weights, and dx, which may be the block's dy.
  void inputs_backward(const Work& work, const ParameterScope& weights, const BackwardArgs& args,
                       MatrixView<const float> draw) const {
    const auto dx = work.memory.matrix(args.x.rows, args.x.cols);
    const auto all = projections();
    const auto part = all.size() > 1 ? work.memory.matrix(dx.rows, dx.cols) : dx;
    for (const Projection& one : all) {
      const MatrixView<float> to = one.first == 0 ? dx : part;
      linear_backward(work, {.weights = one.weights(weights),
                             .out = one.rows,
                             .in = dx.cols,
                             .x = args.x,
                             .dy = draw.cols_from(one.first, one.rows),
                             .dx = to});
      if (one.first > 0) add_to(work, part, dx);
    }
    copy_rows(work, dx, args.dx);
  }

  // What head_backward takes.
  void head_memory(Room& room) const {
    const Room::Frame frame(room);
    const Index T = room.tokens();
    for (int i = 0; i < 2; ++i) room.matrix(T, T);
    for (int i = 0; i < 2; ++i) room.matrix(T, spec_.d_head);
    room.matrix(T, T);
    for (const auto& [in, rows] : {std::pair{spec_.d_head, T}, {T, T}, {T, spec_.d_head}}) {
      room.multiply(in, rows);
    }
  }

  // One head of queries: out and dq, and what it adds to dk and dv of its keys and values.
  void head_backward(const Work& work, MatrixView<const float> q, MatrixView<const float> k,
                     MatrixView<const float> v, MatrixView<float> out, MatrixView<const float> dout,
                     MatrixView<float> dq, MatrixView<float> dk, MatrixView<float> dv) const {
    const Workspace::Frame frame(work.memory);
    const Index T = q.rows;
    const Index d = spec_.d_head;
    const auto p = work.memory.matrix(T, T);
    const auto ds = work.memory.matrix(T, T);
    const auto rows = work.memory.matrix(T, d);     // of keys or values
    const auto columns = work.memory.matrix(d, T);  // the same, transposed
    const auto turned = work.memory.matrix(T, T);
    copy_rows(work, k, rows);
    multiply(work, rows.data, T, d, q, nullptr, p);
    copy_rows(work, v, rows);
    multiply(work, rows.data, T, d, dout, nullptr, ds);
    parallel_for(work.executor, T, 4, ItemCost::of(0, 40 * T), [&](Range range) {
      for (Index t = range.begin; t < range.end; ++t) score_backward(t, p.row(t), ds.row(t));
    });
    transpose(work, v, columns);
    multiply(work, columns.data, d, T, p, nullptr, out);  // out = p v
    transpose(work, k, columns);
    multiply(work, columns.data, d, T, ds, nullptr, dq);  // dq = ds k
    transpose(work, ds, turned);
    transpose(work, q, columns);
    multiply(work, columns.data, d, T, turned, nullptr, rows);  // dk = dsᵀ q
    add_to(work, rows, dk);
    transpose(work, p, turned);
    transpose(work, dout, columns);
    multiply(work, columns.data, d, T, turned, nullptr, rows);  // dv = pᵀ dout
    add_to(work, rows, dv);
  }

  // One head of queries: its part of out.
  void head_forward(const Work& work, MatrixView<const float> q, MatrixView<const float> k,
                    MatrixView<const float> v, MatrixView<float> out) const {
    const Workspace::Frame frame(work.memory);
    const Index T = q.rows;
    const Index d = spec_.d_head;
    const auto p = work.memory.matrix(T, T);
    const auto other = work.memory.matrix(T, d);  // keys, and values transposed
    copy_rows(work, k, other);
    multiply(work, other.data, T, d, q, nullptr, p);
    parallel_for(work.executor, T, 4, ItemCost::of(0, 30 * T), [&](Range range) {
      for (Index t = range.begin; t < range.end; ++t) probabilities(t, p.row(t));
    });
    transpose(work, v, {other.data, d, T});
    multiply(work, other.data, d, T, p, nullptr, out);
  }

  // The keys that token t sees: up to its own, of a window those in it.
  Range seen_by(Index t) const {
    return {spec_.window > 0 ? std::max(Index{0}, t + 1 - spec_.window) : 0, t + 1};
  }

  // Row t of the scores becomes probabilities.
  void probabilities(Index t, std::span<float> p) const {
    const Range keys = seen_by(t);
    const auto begin = static_cast<std::size_t>(keys.begin);
    const std::span<float> seen = p.subspan(begin, static_cast<std::size_t>(keys.size()));
    for (float& score : seen) score *= spec_.scale;
    kernels::softmax(seen, seen);
    std::ranges::fill(p.first(begin), 0.0F);
    std::ranges::fill(p.subspan(static_cast<std::size_t>(keys.end)), 0.0F);
  }

  // Row t of the scores becomes probabilities; of their gradients, gradients of q · k.
  void score_backward(Index t, std::span<float> p, std::span<float> ds) const {
    const Range keys = seen_by(t);
    probabilities(t, p);
    const float along = dot(p.data() + keys.begin, ds.data() + keys.begin, keys.size());
    for (Index j = 0; j < std::ssize(ds); ++j) {
      const auto at = static_cast<std::size_t>(j);
      const bool is_seen = j >= keys.begin && j < keys.end;
      ds[at] = is_seen ? p[at] * (ds[at] - along) * spec_.scale : 0.0F;
    }
  }

  void rotate(MatrixView<float> x) const {
    if (frequencies_.empty()) return;
    kernels::rotary({.x = x,
                     .position = 0,
                     .d_head = spec_.d_head,
                     .frequencies = frequencies_,
                     .interleaved = spec_.rotary->interleaved});
  }

  // By the same angles backwards: the second element of each pair changes its sign before and
  // after.
  void rotate_back(MatrixView<float> x) const {
    if (frequencies_.empty()) return;
    const auto mirror = [&] {
      const Index pairs = std::ssize(frequencies_);
      for (Index t = 0; t < x.rows; ++t) {
        for (Index first = 0; first < x.cols; first += spec_.d_head) {
          for (Index i = 0; i < pairs; ++i) {
            float& second = x(t, first + (spec_.rotary->interleaved ? 2 * i + 1 : pairs + i));
            second = -second;
          }
        }
      }
    };
    mirror();
    rotate(x);
    mirror();
  }

  AttentionSpec spec_;
  Index d_model_;
  Index d_input_;  // columns of x
  std::vector<double> frequencies_;
};

}  // namespace

std::unique_ptr<const InnerGradient> inner_gradient(const AttentionSpec& spec, Index d_model,
                                                    Index d_input) {
  return std::make_unique<AttentionGradient>(spec, d_model, d_input);
}

std::unique_ptr<const BlockGradient> gradient_of(const AttentionSpec& spec, Index d_model) {
  return inner_gradient(spec, d_model, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
