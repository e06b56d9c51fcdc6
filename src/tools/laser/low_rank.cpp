#include "krait/tools/low_rank.hpp"

#include <fmt/format.h>

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>

#include "krait/core/float_environment.hpp"
#include "krait/core/rng.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Result<void> check(MatrixView<const float> W) {
  if (W.rows < 1 || W.cols < 1) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[low rank] matrix: expected rows and columns, found [{},{}]", W.rows, W.cols)};
  }
  for (Index i = 0; i < W.rows; ++i) {
    for (const float w : W.row(i)) {
      if (std::isfinite(w)) continue;
      return Error{
          ErrorCode::not_finite,
          fmt::format("[low rank] matrix: expected finite weights, found {} (row {})", w, i)};
    }
  }
  return {};
}

auto as_eigen(MatrixView<const float> W) {
  return Eigen::Map<const RowMajor, 0, Eigen::OuterStride<>>(W.data, W.rows, W.cols,
                                                             Eigen::OuterStride<>(W.stride));
}

std::vector<float> values_of(const RowMajor& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

// Signs are free; with the largest number of each column of U positive they are always the same.
SingularValues decomposed(const Eigen::MatrixXf& U, const Eigen::VectorXf& s,
                          const Eigen::MatrixXf& V, Index count) {
  RowMajor u = U.leftCols(count);
  RowMajor v = V.leftCols(count);
  for (Index k = 0; k < count; ++k) {
    Eigen::Index largest = 0;
    u.col(k).cwiseAbs().maxCoeff(&largest);
    if (u(largest, k) >= 0.0F) continue;
    u.col(k) *= -1.0F;
    v.col(k) *= -1.0F;
  }
  return {U.rows(), V.rows(), values_of(u), {s.data(), s.data() + count}, values_of(v)};
}

// [rows, cols] of normal random numbers.
Eigen::MatrixXf random_normal(Index rows, Index cols, std::uint64_t seed) {
  constexpr double two_pi = 6.283185307179586;
  Eigen::MatrixXf result(rows, cols);
  for (Index i = 0; i < rows * cols; ++i) {
    RandomCounter at{.seed = seed, .position = static_cast<std::uint64_t>(i), .draw = 3};
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random_uniform(at)));
    at.draw = 4;
    result.data()[i] = static_cast<float>(radius * std::cos(two_pi * random_uniform(at)));
  }
  return result;
}

using Svd = Eigen::BDCSVD<Eigen::MatrixXf>;

// Numbers near the largest that f32 has overflow on the way.
Result<Svd> svd_of(const Eigen::MatrixXf& A) {
  Svd svd(A, Eigen::ComputeThinU | Eigen::ComputeThinV);
  if (svd.info() == Eigen::Success && svd.singularValues().allFinite() &&
      svd.matrixU().allFinite() && svd.matrixV().allFinite()) {
    return svd;
  }
  return Error{ErrorCode::not_finite,
               "[low rank] matrix: expected one that can be decomposed in f32, found numbers that "
               "overflow or do not converge"};
}

Eigen::MatrixXf orthonormal(const Eigen::MatrixXf& A) {
  const Eigen::HouseholderQR<Eigen::MatrixXf> qr(A);
  return qr.householderQ() * Eigen::MatrixXf::Identity(A.rows(), A.cols());
}

}  // namespace

Result<SingularValues> decompose(MatrixView<const float> W) {
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(check(W));
  KRAIT_ASSIGN_OR_RETURN(const Svd svd, svd_of(as_eigen(W)));
  return decomposed(svd.matrixU(), svd.singularValues(), svd.matrixV(), std::min(W.rows, W.cols));
}

Result<SingularValues> decompose_randomly(MatrixView<const float> W, Index rank,
                                          std::uint64_t seed) {
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(check(W));
  const Index largest = std::min(W.rows, W.cols);
  if (rank < 1 || rank > largest) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[low rank] rank: expected 1 to {}, found {}", largest, rank)};
  }
  // So even flat spectra lose only about a hundredth more than they must.
  const Index oversampling = 10 + rank / 2;
  constexpr int power_steps = 2;
  const auto A = as_eigen(W);
  const Index width = std::min(largest, rank + oversampling);
  Eigen::MatrixXf Q = orthonormal(A * random_normal(W.cols, width, seed));
  for (int step = 0; step < power_steps; ++step) {
    Q = orthonormal(A.transpose() * Q);
    Q = orthonormal(A * Q);
  }
  const Eigen::MatrixXf B = Q.transpose() * A;
  KRAIT_ASSIGN_OR_RETURN(const Svd svd, svd_of(B));
  return decomposed(Q * svd.matrixU(), svd.singularValues(), svd.matrixV(), rank);
}

LowRankFactors cut(const SingularValues& values, Index rank) {
  check_contract(rank >= 1 && rank <= values.count(), "[low rank] cut: expected a possible rank");
  LowRankFactors factors;
  factors.rank = rank;
  std::vector<float> roots;
  for (Index k = 0; k < rank; ++k) {
    roots.push_back(std::sqrt(std::max(0.0F, values.s[static_cast<std::size_t>(k)])));
  }
  for (Index i = 0; i < values.rows; ++i) {
    for (Index k = 0; k < rank; ++k) {
      factors.u.push_back(values.U[static_cast<std::size_t>(i * values.count() + k)] *
                          roots[static_cast<std::size_t>(k)]);
    }
  }
  for (Index k = 0; k < rank; ++k) {
    for (Index i = 0; i < values.cols; ++i) {
      factors.v.push_back(values.V[static_cast<std::size_t>(i * values.count() + k)] *
                          roots[static_cast<std::size_t>(k)]);
    }
  }
  return factors;
}

std::vector<float> multiply(const LowRankFactors& factors, Index rows, Index cols) {
  check_contract(
      std::ssize(factors.u) == rows * factors.rank && std::ssize(factors.v) == factors.rank * cols,
      "[low rank] multiply: expected factors of these sizes");
  const FloatEnvironment environment;
  const Eigen::Map<const RowMajor> u(factors.u.data(), rows, factors.rank);
  const Eigen::Map<const RowMajor> v(factors.v.data(), factors.rank, cols);
  return values_of(u * v);
}

Index marchenko_pastur_rank(const SingularValues& values) {
  const Index n = values.count();
  // Between the two neighbours, as the usual definition of quartiles has it; s is descending.
  const auto quantile = [&](double part) {
    const double at = part * static_cast<double>(n - 1);
    const auto low = static_cast<Index>(at);
    const auto ascending = [&](Index i) {
      return static_cast<double>(values.s[static_cast<std::size_t>(n - 1 - std::min(i, n - 1))]);
    };
    return ascending(low) + (at - static_cast<double>(low)) * (ascending(low + 1) - ascending(low));
  };
  const double sigma = (quantile(0.75) - quantile(0.25)) / 1.349;
  const double beta = static_cast<double>(std::min(values.rows, values.cols)) /
                      static_cast<double>(std::max(values.rows, values.cols));
  const double threshold = sigma * (1.0 + std::sqrt(beta));
  const auto kept =
      std::ranges::count_if(values.s, [&](float s) { return static_cast<double>(s) > threshold; });
  return std::max<Index>(1, kept);
}

}  // namespace v0_1
}  // namespace krait
