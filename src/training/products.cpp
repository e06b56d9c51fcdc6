#include "training/products.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/product.hpp"
#include "training/frozen.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

constexpr Index row_block = 16;
constexpr Index column_block = 64;

ItemCost row_cost(Index cols) { return ItemCost::of(12 * cols, 8 * cols); }

}  // namespace

void multiply(const Work& work, const float* W, Index out, Index in, MatrixView<const float> x,
              const float* bias, MatrixView<float> y) {
  if (x.rows == 0) return;
  const Workspace::Frame frame(work.memory);
  const std::span<float> packed = work.memory.floats(
      std::max(kernels::product_workspace(in), round_up(in, Index{16})) * x.rows);
  kernels::product({work.executor, packed}, {W, DType::f32, out, in},
                   {.x = x, .bias = bias, .y = y});
}

namespace {

// Four floats, in what registers every processor has.
using Four = float __attribute__((vector_size(16)));

Four load_four(const float* from) {
  Four value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// to[c, k] = from[k, c] for 4 x 4 floats.
void transpose_block(const float* from, Index from_stride, float* to, Index to_stride) {
  const Four a = load_four(from);
  const Four b = load_four(from + from_stride);
  const Four c = load_four(from + 2 * from_stride);
  const Four d = load_four(from + 3 * from_stride);
  const Four ac_low = __builtin_shufflevector(a, c, 0, 4, 1, 5);
  const Four ac_high = __builtin_shufflevector(a, c, 2, 6, 3, 7);
  const Four bd_low = __builtin_shufflevector(b, d, 0, 4, 1, 5);
  const Four bd_high = __builtin_shufflevector(b, d, 2, 6, 3, 7);
  const Four columns[] = {__builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5),
                          __builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7),
                          __builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5),
                          __builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7)};
  for (const Four& column : columns) {
    std::memcpy(to, &column, sizeof column);
    to += to_stride;
  }
}

}  // namespace

void transpose(const Work& work, MatrixView<const float> from, MatrixView<float> to) {
  // Lines of `to` are written whole: a power of two apart, few of them fit into the cache at a
  // time.
  constexpr Index tile = 16;
  parallel_for(work.executor, from.cols, tile, row_cost(from.rows), [&](Range cols) {
    for (Index first = cols.begin; first < cols.end; first += tile) {
      const Index last = std::min(cols.end, first + tile);
      for (Index r = 0; r < from.rows; r += tile) {
        const Index end = std::min(from.rows, r + tile);
        const Index whole = r + (end - r) / 4 * 4;
        Index c = first;
        for (; c + 4 <= last; c += 4) {
          Index k = r;
          for (; k < whole; k += 4) {
            transpose_block(&from(k, c), from.stride, &to(c, k), to.stride);
          }
          for (; k < end; ++k) {
            for (Index i = c; i < c + 4; ++i) to(i, k) = from(k, i);
          }
        }
        for (; c < last; ++c) {
          for (Index k = r; k < end; ++k) to(c, k) = from(k, c);
        }
      }
    }
  });
}

void add_to(const Work& work, const float* from, Index count, float* to) {
  parallel_for(work.executor, count, 4096, ItemCost::of(12, 1), [&](Range range) {
    for (Index i = range.begin; i < range.end; ++i) to[i] += from[i];
  });
}

void add_to(const Work& work, MatrixView<const float> x, MatrixView<float> y) {
  parallel_for(work.executor, x.rows, row_block, row_cost(x.cols), [&](Range rows) {
    for (Index t = rows.begin; t < rows.end; ++t) kernels::add(y.row(t), x.row(t), y.row(t));
  });
}

void copy_rows(const Work& work, MatrixView<const float> from, MatrixView<float> to) {
  parallel_for(work.executor, from.rows, row_block, row_cost(from.cols), [&](Range rows) {
    for (Index t = rows.begin; t < rows.end; ++t) std::ranges::copy(from.row(t), to.row_data(t));
  });
}

LinearWeights LinearWeights::without_gradients() const {
  LinearWeights inputs = *this;
  inputs.dW = inputs.db = inputs.dA = inputs.dB = nullptr;
  return inputs;
}

LinearWeights linear_weights(const ParameterScope& linear, Index i, Index size) {
  LinearWeights weights;
  if (linear.contains("bias")) {
    weights.bias = linear.value("bias");
    weights.db = linear.gradient("bias");
  }
  const Frozen* frozen = linear.frozen();
  weights.frozen = frozen == nullptr ? nullptr : frozen->find(linear.path(), i);
  if (frozen != nullptr && weights.frozen == nullptr) {
    weights.frozen = frozen->find(linear.owner_path(), i);
  }
  if (weights.frozen == nullptr) {  // in training, or small, as a router's
    weights.W = linear.value("weight") + i * size;
    weights.dW = linear.gradient("weight");
    if (weights.dW != nullptr) weights.dW += i * size;
    return weights;
  }
  weights.workspace = frozen->workspace;
  if (const auto adapter = adapter_of(*weights.frozen)) {
    weights.dA = linear.gradient_of(adapter->A);
    weights.dB = linear.gradient_of(adapter->B);
  }
  return weights;
}

LinearWeights with_adapter(LinearWeights weights, const ParameterScope& adapter, Index rank) {
  const ParameterScope A = adapter.scope("0");
  const ParameterScope B = adapter.scope("1");
  weights.own = {.rank = rank, .A = A.value("weight"), .B = B.value("weight"), .scale = 1.0F};
  if (weights.frozen == nullptr) {
    weights.dA = A.gradient("weight");
    weights.dB = B.gradient("weight");
  }
  return weights;
}

void linear(const Work& work, const LinearWeights& weights, Index out, Index in,
            MatrixView<const float> x, MatrixView<float> y) {
  if (x.rows == 0) return;
  const Workspace::Frame frame(work.memory);
  if (weights.frozen == nullptr) {
    multiply(work, weights.W, out, in, x, weights.bias, y);
  } else {
    const Workspace::Frame inner(work.memory);
    const std::span<float> workspace = work.memory.floats(weights.workspace * x.rows);
    weights.frozen->with_bias(weights.bias).apply({work.executor, workspace}, x, y);
  }
  const LowRankAdapter& own = weights.own;
  if (own.rank == 0) return;
  const MatrixView<float> t = work.memory.matrix(x.rows, own.rank);
  const MatrixView<float> u = work.memory.matrix(x.rows, out);
  multiply(work, own.A, own.rank, in, x, nullptr, t);
  multiply(work, own.B, out, own.rank, t, nullptr, u);
  add_to(work, u, y);
}

void linear(const Work& work, const ParameterScope& linear, Index out, Index in,
            MatrixView<const float> x, MatrixView<float> y) {
  training::linear(work, linear_weights(linear), out, in, x, y);
}

void multiply_transposed(const Work& work, MatrixView<const float> M, MatrixView<const float> x,
                         MatrixView<float> y) {
  const Workspace::Frame frame(work.memory);
  const MatrixView<float> transposed = work.memory.matrix(M.cols, M.rows);
  transpose(work, M, transposed);
  multiply(work, transposed.data, M.cols, M.rows, x, nullptr, y);
}

namespace {

// to [a.cols, b.cols] += aᵀ b.
void add_products(const Work& work, MatrixView<const float> a, MatrixView<const float> b,
                  float* to) {
  const Workspace::Frame frame(work.memory);
  const MatrixView<float> x = work.memory.matrix(b.cols, b.rows);
  const MatrixView<float> dy = work.memory.matrix(a.cols, a.rows);
  const MatrixView<float> sum = work.memory.matrix(a.cols, b.cols);
  transpose(work, b, x);
  transpose(work, a, dy);
  multiply(work, x.data, b.cols, b.rows, dy, nullptr, sum);
  add_to(work, sum.data, a.cols * b.cols, to);
}

void scale_rows(MatrixView<float> x, float factor) {
  for (Index t = 0; t < x.rows; ++t) {
    for (float& value : x.row(t)) value *= factor;
  }
}

// What the adapter adds to dx, and its own gradients.
void adapter_backward(const Work& work, const LinearBackward& args, const LowRankAdapter& adapter,
                      float* dA, float* dB) {
  const Workspace::Frame frame(work.memory);
  const Index T = args.x.rows;
  const MatrixView<const float> A(adapter.A, adapter.rank, args.in);
  const MatrixView<const float> B(adapter.B, args.out, adapter.rank);
  const MatrixView<float> dt = work.memory.matrix(T, adapter.rank);
  multiply_transposed(work, B, args.dy, dt);
  scale_rows(dt, adapter.scale);
  if (args.dx.data != nullptr) {
    const MatrixView<float> part = work.memory.matrix(T, args.in);
    multiply_transposed(work, A, dt, part);
    add_to(work, part, args.dx);
  }
  if (dA != nullptr) add_products(work, dt, args.x, dA);
  if (dB != nullptr) {
    const MatrixView<float> t = work.memory.matrix(T, adapter.rank);
    multiply(work, adapter.A, adapter.rank, args.in, args.x, nullptr, t);
    scale_rows(t, adapter.scale);
    add_products(work, args.dy, t, dB);
  }
}

// dx = dy W, with the rows of W as floats.
void frozen_backward(const Work& work, const LinearBackward& args) {
  const Workspace::Frame frame(work.memory);
  const Linear base = without_adapter(*args.weights.frozen);
  const MatrixView<float> W = work.memory.matrix(args.out, args.in);
  parallel_for(work.executor, args.out, row_block, row_cost(args.in), [&](Range rows) {
    for (Index r = rows.begin; r < rows.end; ++r) base.row(r, W.row(r));
  });
  multiply_transposed(work, W, args.dy, args.dx);
}

}  // namespace

void linear_backward(const Work& work, const LinearBackward& args) {
  if (args.x.rows == 0) return;
  const LinearWeights& weights = args.weights;
  if (args.dx.data != nullptr) {
    weights.frozen == nullptr
        ? multiply_transposed(work, {weights.W, args.out, args.in}, args.dy, args.dx)
        : frozen_backward(work, args);
  }
  const bool is_frozen = weights.frozen != nullptr;
  if (weights.own.rank > 0) {
    adapter_backward(work, args, weights.own, is_frozen ? nullptr : weights.dA,
                     is_frozen ? nullptr : weights.dB);
  }
  if (const auto adapter = is_frozen ? adapter_of(*weights.frozen) : std::nullopt) {
    adapter_backward(work, args, *adapter, weights.dA, weights.dB);
  }
  if (weights.dW != nullptr) add_products(work, args.dy, args.x, weights.dW);
  if (weights.db != nullptr) add_column_sums(work, args.dy, {}, weights.db);
}

void linear_backward(const Work& work, const ParameterScope& linear, Index out, Index in,
                     MatrixView<const float> x, MatrixView<const float> dy, MatrixView<float> dx) {
  linear_backward(
      work, {.weights = linear_weights(linear), .out = out, .in = in, .x = x, .dy = dy, .dx = dx});
}

void add_column_sums(const Work& work, MatrixView<const float> a, MatrixView<const float> b,
                     float* sum) {
  parallel_for(work.executor, a.cols, column_block, row_cost(a.rows), [&](Range cols) {
    for (Index first = cols.begin; first < cols.end; first += column_block) {
      const Index width = std::min(column_block, cols.end - first);
      float total[column_block] = {};
      for (Index t = 0; t < a.rows; ++t) {
        const float* from = a.row_data(t) + first;
        if (b.data == nullptr) {
          for (Index c = 0; c < width; ++c) total[c] += from[c];
        } else {
          const float* other = b.row_data(t) + first;
          for (Index c = 0; c < width; ++c) total[c] += from[c] * other[c];
        }
      }
      for (Index c = 0; c < width; ++c) sum[first + c] += total[c];
    }
  });
}

float dot(const float* a, const float* b, Index n) noexcept {
  float sum = 0.0F;
  kernels::matvec({.W = {a, DType::f32, 1, n}, .x = b, .y = &sum, .outputs = {0, 1}});
  return sum;
}

void silu_backward(std::span<const float> x, std::span<const float> dy,
                   std::span<float> dx) noexcept {
  constexpr std::size_t piece = 256;
  float sigmoid[piece];
  for (std::size_t first = 0; first < x.size(); first += piece) {
    const std::size_t count = std::min(piece, x.size() - first);
    kernels::sigmoid(x.subspan(first, count), {sigmoid, count});
    for (std::size_t i = 0; i < count; ++i) {
      const float s = sigmoid[i];
      dx[first + i] = dy[first + i] * (s * (1.0F + x[first + i] * (1.0F - s)));
    }
  }
}

namespace {

// One row: the normalised input goes to n, the gradient to dx.
void norm_backward_row(const NormBackward& args, Index t, std::span<const float> ones,
                       std::span<float> n, std::span<float> v) {
  const Index d = args.x.cols;
  const auto size = static_cast<float>(d);
  const float* x = args.x.row_data(t);
  const float* dy = args.dy.row_data(t);
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  float mean = 0.0F;
  if (!args.is_rms) mean = dot(x, ones.data(), d) / size;
  for (Index i = 0; i < d; ++i) n[at(i)] = args.is_rms ? x[i] : x[i] - mean;
  const float scale = 1.0F / std::sqrt(dot(n.data(), n.data(), d) / size + args.eps);
  for (Index i = 0; i < d; ++i) n[at(i)] *= scale;
  for (Index i = 0; i < d; ++i) v[at(i)] = args.weight == nullptr ? dy[i] : dy[i] * args.weight[i];
  const float along = dot(v.data(), n.data(), d) / size;
  const float centre = args.is_rms ? 0.0F : dot(v.data(), ones.data(), d) / size;
  float* dx = args.dx.row_data(t);
  for (Index i = 0; i < d; ++i) dx[i] = scale * ((v[at(i)] - centre) - n[at(i)] * along);
}

}  // namespace

void norm_backward(const Work& work, const NormBackward& args) {
  const Workspace::Frame frame(work.memory);
  const Index d = args.x.cols;
  const MatrixView<float> n = work.memory.matrix(args.x.rows, d);
  const MatrixView<float> v = work.memory.matrix(args.x.rows, d);
  MatrixView<const float> dy = args.dy;
  const bool is_wanted = args.dweight != nullptr || args.dbias != nullptr;
  if (is_wanted && args.dx.data == args.dy.data) {  // the sums below still need it
    const MatrixView<float> copy = work.memory.matrix(args.x.rows, d);
    copy_rows(work, args.dy, copy);
    dy = copy;
  }
  const std::span<float> ones = work.memory.floats(d);
  std::ranges::fill(ones, 1.0F);
  parallel_for(work.executor, args.x.rows, row_block, row_cost(4 * d), [&](Range rows) {
    for (Index t = rows.begin; t < rows.end; ++t) {
      norm_backward_row(args, t, ones, n.row(t), v.row(t));
    }
  });
  if (args.dweight != nullptr) add_column_sums(work, dy, n, args.dweight);
  if (args.dbias != nullptr) add_column_sums(work, dy, {}, args.dbias);
}

void norm_backward(const Work& work, const NormSpec& spec, const ParameterScope& norm,
                   MatrixView<const float> x, MatrixView<const float> dy, MatrixView<float> dx) {
  const bool is_rms = std::holds_alternative<RmsNormSpec>(spec);
  norm_backward(work, {.is_rms = is_rms,
                       .eps = std::visit([](const auto& kind) { return kind.eps; }, spec),
                       .weight = norm.value("weight"),
                       .x = x,
                       .dy = dy,
                       .dx = dx,
                       .dweight = norm.gradient("weight"),
                       .dbias = is_rms ? nullptr : norm.gradient("bias")});
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
