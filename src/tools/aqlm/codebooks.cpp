#include <algorithm>
#include <cmath>

#include "tools/aqlm/fit.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// Sums over all rows are made of this many parts, whatever the number of threads.
constexpr Index shards = 16;

// Adds up, for every component of every codeword, the values of X [out, in] at the groups that use
// it, each times its row's scale.
std::vector<double> gather(const Fit& fit, MatrixView<const float> X) {
  const std::size_t size = fit.codebooks.size();
  std::vector<double> parts(size * shards);
  parallel_for(*fit.executor, shards, 1, [&](Range range) {
    for (Index shard = range.begin; shard < range.end; ++shard) {
      double* sums = parts.data() + static_cast<std::size_t>(shard) * size;
      const Index last = fit.out() * (shard + 1) / shards;
      for (Index i = fit.out() * shard / shards; i < last; ++i) {
        const auto scale = static_cast<double>(fit.scales[static_cast<std::size_t>(i)]);
        for (Index j = 0; j < fit.groups(); ++j) {
          const std::uint16_t* codes = fit.codes_of(i, j);
          const float* x = X.row_data(i) + j * fit.scheme.in_group;
          for (Index m = 0; m < fit.scheme.codebooks; ++m) {
            double* sum = sums + (m * fit.scheme.codewords() + codes[m]) * fit.scheme.in_group;
            for (Index d = 0; d < fit.scheme.in_group; ++d)
              sum[d] += scale * static_cast<double>(x[d]);
          }
        }
      }
    }
  });
  std::vector<double> sums(size);
  for (Index shard = 0; shard < shards; ++shard) {
    const double* part = parts.data() + static_cast<std::size_t>(shard) * size;
    for (std::size_t i = 0; i < size; ++i) sums[i] += part[i];
  }
  return sums;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void multiply_rows(const Fit& fit, MatrixView<float> X) {
  for (Index i = 0; i < fit.out(); ++i) {
    const float scale = fit.scales[static_cast<std::size_t>(i)];
    for (float& value : X.row(i)) value *= scale;
  }
}

}  // namespace

void expand(const Fit& fit, MatrixView<float> U) {
  const Index M = fit.scheme.codebooks;
  const Index g = fit.scheme.in_group;
  parallel_for(*fit.executor, fit.out(), 16, [&](Range rows) {
    for (Index i = rows.begin; i < rows.end; ++i) {
      for (Index j = 0; j < fit.groups(); ++j) {
        const std::uint16_t* codes = fit.codes_of(i, j);
        float* u = U.row_data(i) + j * g;
        const float* first = fit.codeword(0, codes[0]);
        std::copy(first, first + g, u);
        for (Index m = 1; m < M; ++m) {
          const float* codeword = fit.codeword(m, codes[m]);
          for (Index d = 0; d < g; ++d) u[d] += codeword[d];
        }
      }
    }
  });
}

void update_error(Fit& fit) {
  expand(fit, fit.E());
  for (Index i = 0; i < fit.out(); ++i) {
    const float scale = fit.scales[static_cast<std::size_t>(i)];
    float* e = fit.E().row_data(i);
    for (Index k = 0; k < fit.in(); ++k) e[k] = fit.W(i, k) - scale * e[k];
  }
}

double squared_error(const Fit& fit, MatrixView<const float> E) {
  AlignedBuffer<float> product(E.rows * E.cols);
  const MatrixView<float> EH(product.data(), E.rows, E.cols);
  fit.H->apply(*fit.executor, E, EH);
  double sum = 0.0;
  for (Index i = 0; i < E.rows; ++i) {
    for (Index k = 0; k < E.cols; ++k) {
      sum += static_cast<double>(E(i, k)) * static_cast<double>(EH(i, k));
    }
  }
  return sum;
}

// The error is quadratic in the codebooks. With A the map from a change of theirs to that of the
// gradient and r the gradient now, the change that makes it 0 solves A c = r; a ridge keeps
// codewords that no code names where they are.
void improve_codebooks(Fit& fit, Index steps) {
  const std::size_t size = fit.codebooks.size();
  AlignedBuffer<float> memory(fit.out() * fit.in());
  AlignedBuffer<float> changed(fit.out() * fit.in());
  const MatrixView<float> X(changed.data(), fit.out(), fit.in());
  const MatrixView<float> XH(memory.data(), fit.out(), fit.in());

  // How often and how strongly each component counts: the diagonal of A.
  for (Index i = 0; i < fit.out(); ++i) {
    const float scale = fit.scales[static_cast<std::size_t>(i)];
    for (Index k = 0; k < fit.in(); ++k) X(i, k) = scale * fit.H->diagonal(k);
  }
  std::vector<double> diagonal = gather(fit, X);
  double mean = 0.0;
  for (const double value : diagonal) mean += value;
  mean /= static_cast<double>(size);
  const double ridge = 1e-4 * mean;
  if (!(ridge > 0.0)) return;  // rows of zeros only
  for (double& value : diagonal) value += ridge;

  fit.H->apply(*fit.executor, fit.E(), XH);
  std::vector<double> residual = gather(fit, XH);
  std::vector<double> change(size);
  std::vector<double> preconditioned(size);
  std::vector<double> direction(size);
  const std::vector<float> before = fit.codebooks;
  double rho = 0.0;
  for (Index step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < size; ++i) preconditioned[i] = residual[i] / diagonal[i];
    const double next_rho = dot(residual, preconditioned);
    if (!(next_rho > 0.0)) break;
    const double beta = step == 0 ? 0.0 : next_rho / rho;
    rho = next_rho;
    for (std::size_t i = 0; i < size; ++i) {
      direction[i] = preconditioned[i] + beta * direction[i];
      fit.codebooks[i] = static_cast<float>(direction[i]);
    }
    expand(fit, X);
    multiply_rows(fit, X);
    fit.H->apply(*fit.executor, X, XH);
    std::vector<double> image = gather(fit, XH);
    for (std::size_t i = 0; i < size; ++i) image[i] += ridge * direction[i];
    const double curvature = dot(direction, image);
    if (!(curvature > 0.0)) break;
    const double alpha = rho / curvature;
    for (std::size_t i = 0; i < size; ++i) {
      change[i] += alpha * direction[i];
      residual[i] -= alpha * image[i];
    }
  }
  for (std::size_t i = 0; i < size; ++i) {
    fit.codebooks[i] = static_cast<float>(static_cast<double>(before[i]) + change[i]);
  }
  update_error(fit);
}

void improve_scales(Fit& fit) {
  AlignedBuffer<float> sums(fit.out() * fit.in());
  AlignedBuffer<float> products(fit.out() * fit.in());
  const MatrixView<float> U(sums.data(), fit.out(), fit.in());
  const MatrixView<float> UH(products.data(), fit.out(), fit.in());
  expand(fit, U);
  fit.H->apply(*fit.executor, U, UH);
  for (Index i = 0; i < fit.out(); ++i) {
    double with_W = 0.0;
    double with_U = 0.0;
    for (Index k = 0; k < fit.in(); ++k) {
      with_W += static_cast<double>(UH(i, k)) * static_cast<double>(fit.W(i, k));
      with_U += static_cast<double>(UH(i, k)) * static_cast<double>(U(i, k));
    }
    float& scale = fit.scales[static_cast<std::size_t>(i)];
    // A row that its codewords turn away from is better left out than with the other sign.
    if (scale != 0.0F && with_U > 0.0 && with_W > 0.0) scale = static_cast<float>(with_W / with_U);
  }
  update_error(fit);
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
