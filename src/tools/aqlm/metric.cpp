#include <algorithm>
#include <cmath>

#include "krait/kernels/product.hpp"
#include "tools/aqlm/fit.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// Rows that one product takes, so that its workspace stays small.
constexpr Index rows_of_error = 256;

// Y = X Wᵀ.
void multiply(Executor& executor, MatrixView<const float> X, const float* W, MatrixView<float> Y) {
  AlignedBuffer<float> workspace(std::min(rows_of_error, X.rows) *
                                 kernels::product_workspace(X.cols));
  const kernels::DenseWeights weights{W, DType::f32, Y.cols, X.cols};
  for (Index first = 0; first < X.rows; first += rows_of_error) {
    const Index count = std::min(rows_of_error, X.rows - first);
    kernels::product({executor, workspace.span()}, weights,
                     {.x = X.rows_from(first, count), .y = Y.rows_from(first, count)});
  }
}

}  // namespace

Metric::Metric(const SecondMoments& moments, Index in) : in_(in), diagonal_(in) {
  const std::vector<float>& values = moments.values;
  const bool is_full = std::ssize(values) == in * in && in > 1;
  double sum = 0.0;
  for (Index i = 0; i < in; ++i) {
    diagonal_[i] =
        values.empty() ? 1.0F : values[static_cast<std::size_t>(is_full ? i * in + i : i)];
    sum += static_cast<double>(diagonal_[i]);
  }
  const double scale = static_cast<double>(in) / sum;
  constexpr double ridge = 1e-6;
  const auto scaled = [&](float value, double more) {
    return static_cast<float>(static_cast<double>(value) * scale + more);
  };
  for (Index i = 0; i < in; ++i) diagonal_[i] = scaled(diagonal_[i], ridge);
  if (!is_full) return;
  full_ = AlignedBuffer<float>(in * in);
  for (Index i = 0; i < in; ++i) {
    for (Index k = 0; k < in; ++k) {
      // The mean of both halves: symmetric to the bit.
      const float mean = 0.5F * values[static_cast<std::size_t>(i * in + k)] +
                         0.5F * values[static_cast<std::size_t>(k * in + i)];
      full_[i * in + k] = scaled(mean, i == k ? ridge : 0.0);
    }
  }
}

void Metric::apply(Executor& executor, MatrixView<const float> X, MatrixView<float> Y) const {
  if (!is_diagonal()) return multiply(executor, X, full_.data(), Y);
  for (Index r = 0; r < X.rows; ++r) {
    for (Index i = 0; i < in_; ++i) Y(r, i) = X(r, i) * diagonal_[i];
  }
}

void Metric::apply(Executor& executor, MatrixView<const float> X, std::span<const Index> inputs,
                   MatrixView<float> Y) const {
  const Index count = std::ssize(inputs);
  if (!is_diagonal()) {
    AlignedBuffer<float> rows(count * in_);
    for (Index i = 0; i < count; ++i) {
      const float* row = full_.data() + inputs[static_cast<std::size_t>(i)] * in_;
      std::copy(row, row + in_, rows.data() + i * in_);
    }
    return multiply(executor, X, rows.data(), Y);
  }
  for (Index r = 0; r < X.rows; ++r) {
    for (Index i = 0; i < count; ++i) {
      const Index input = inputs[static_cast<std::size_t>(i)];
      Y(r, i) = X(r, input) * diagonal_[input];
    }
  }
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
