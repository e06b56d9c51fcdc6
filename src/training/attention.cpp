#include <algorithm>
#include <vector>

#include "krait/kernels/rotary.hpp"
#include "krait/kernels/softmax.hpp"
#include "training/blocks.hpp"
#include "training/products.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

// Of whole sequences: the first token has position 0. Scores of one head, [T, T], exist at a time.
class AttentionGradient final : public BlockGradient {
 public:
  AttentionGradient(const AttentionSpec& spec, Index d_model)
      : spec_(spec.resolved(d_model)), d_model_(d_model) {
    if (spec_.rotary) frequencies_ = spec_.rotary->frequencies();
  }

  void backward(const Work& work, const ParameterScope& weights,
                const BackwardArgs& args) const override {
    const Workspace::Frame frame(work.memory);
    const Index T = args.x.rows;
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    const auto q = work.memory.matrix(T, d_q);
    const auto k = work.memory.matrix(T, d_kv);
    const auto v = work.memory.matrix(T, d_kv);
    linear(work, weights.scope("q_proj"), d_q, d_model_, args.x, q);
    linear(work, weights.scope("k_proj"), d_kv, d_model_, args.x, k);
    linear(work, weights.scope("v_proj"), d_kv, d_model_, args.x, v);
    rotate(q);
    rotate(k);
    const auto out = work.memory.matrix(T, d_q);
    const auto dout = work.memory.matrix(T, d_q);
    const auto dq = work.memory.matrix(T, d_q);
    const auto dk = work.memory.matrix(T, d_kv);
    const auto dv = work.memory.matrix(T, d_kv);
    const ParameterScope o_proj = weights.scope("o_proj");
    linear_backward(work, {.weights = linear_weights(o_proj).without_gradients(),
                           .out = d_model_,
                           .in = d_q,
                           .x = out,
                           .dy = args.dy,
                           .dx = dout});
    for (Index t = 0; t < T; ++t) {
      std::ranges::fill(dk.row(t), 0.0F);
      std::ranges::fill(dv.row(t), 0.0F);
    }
    const Index group = spec_.n_head / spec_.n_kv_head;
    const auto head = [&](MatrixView<float> x, Index h) {
      return x.cols_from(h * spec_.d_head, spec_.d_head);
    };
    for (Index h = 0; h < spec_.n_head; ++h) {
      head_backward(work, head(q, h), head(k, h / group), head(v, h / group), head(out, h),
                    head(dout, h), head(dq, h), head(dk, h / group), head(dv, h / group));
    }
    linear_backward(work, o_proj, d_model_, d_q, out, args.dy, {});  // its weights
    rotate_back(dq);
    rotate_back(dk);
    const auto dx = work.memory.matrix(T, d_model_);
    const auto part = work.memory.matrix(T, d_model_);
    linear_backward(work, weights.scope("q_proj"), d_q, d_model_, args.x, dq, dx);
    linear_backward(work, weights.scope("k_proj"), d_kv, d_model_, args.x, dk, part);
    add_to(work, part, dx);
    linear_backward(work, weights.scope("v_proj"), d_kv, d_model_, args.x, dv, part);
    add_to(work, part, dx);
    copy_rows(work, dx, args.dx);
  }

  Index memory(const BackwardSize& size) const override {
    Room room(size);
    const Index T = size.tokens;
    const Index d_q = spec_.n_head * spec_.d_head;
    const Index d_kv = spec_.n_kv_head * spec_.d_head;
    room.matrix(T, d_q);
    for (int i = 0; i < 2; ++i) room.matrix(T, d_kv);
    room.linear(d_q, d_model_, T);
    room.linear(d_kv, d_model_, T);
    for (int i = 0; i < 3; ++i) room.matrix(T, d_q);
    for (int i = 0; i < 2; ++i) room.matrix(T, d_kv);
    room.linear_backward(d_model_, d_q, T, {.weights = false});
    head_memory(room);
    room.linear_backward(d_model_, d_q, T, {.inputs = false});
    for (int i = 0; i < 2; ++i) room.matrix(T, d_model_);
    room.linear_backward(d_q, d_model_, T, {});
    room.linear_backward(d_kv, d_model_, T, {});
    return room.most();
  }

 private:
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

  // Row t of the scores becomes probabilities; of their gradients, gradients of q · k.
  void score_backward(Index t, std::span<float> p, std::span<float> ds) const {
    const auto count = static_cast<std::size_t>(t) + 1;  // keys up to the token's own
    for (float& score : p.first(count)) score *= spec_.scale;
    kernels::softmax(p.first(count), p.first(count));
    const float along = dot(p.data(), ds.data(), t + 1);
    for (std::size_t j = 0; j < count; ++j) ds[j] = p[j] * (ds[j] - along) * spec_.scale;
    std::ranges::fill(p.subspan(count), 0.0F);
    std::ranges::fill(ds.subspan(count), 0.0F);
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
  std::vector<double> frequencies_;
};

}  // namespace

std::unique_ptr<const BlockGradient> gradient_of(const AttentionSpec& spec, Index d_model) {
  return std::make_unique<AttentionGradient>(spec, d_model);
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
