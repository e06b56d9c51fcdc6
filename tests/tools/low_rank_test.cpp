#include "krait/tools/low_rank.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/support.hpp"

namespace krait::low_rank_test {
namespace {

using test::random_floats;

struct Matrix {
  Index rows;
  Index cols;
  std::vector<float> values;
  MatrixView<const float> view() const { return {values.data(), rows, cols}; }
};

Matrix random_matrix(Index rows, Index cols, std::uint64_t seed) {
  return {rows, cols, random_floats(rows * cols, seed)};
}

double squared_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

double sum_of_squares(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

std::vector<float> of_rank(const Matrix& W, const SingularValues& values, Index rank) {
  return multiply(cut(values, rank), W.rows, W.cols);
}

TEST(LowRank, TheFullRankIsTheMatrix) {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{40, 24}, {24, 40}, {1, 7}, {7, 1}}) {
    const Matrix W = random_matrix(rows, cols, 1);
    const SingularValues values = decompose(W.view()).value();
    ASSERT_EQ(values.count(), std::min(rows, cols));
    EXPECT_LT(squared_distance(of_rank(W, values, values.count()), W.values),
              1e-10 * sum_of_squares(W.values));
  }
}

TEST(LowRank, CutsLoseWhatEckartAndYoungSay) {
  const Matrix W = random_matrix(96, 64, 2);
  const SingularValues values = decompose(W.view()).value();
  for (const Index rank : {1, 5, 32, 63}) {
    const double expected =
        sum_of_squares(std::span(values.s).subspan(static_cast<std::size_t>(rank)));
    EXPECT_NEAR(squared_distance(of_rank(W, values, rank), W.values), expected, 1e-4 * expected)
        << rank;
  }
}

TEST(LowRank, SingularVectorsAreOrthonormal) {
  const Matrix W = random_matrix(50, 30, 3);
  const SingularValues values = decompose(W.view()).value();
  for (Index a = 0; a < 30; ++a) {
    EXPECT_TRUE(a == 0 ||
                values.s[static_cast<std::size_t>(a)] <= values.s[static_cast<std::size_t>(a - 1)]);
    for (Index b = 0; b <= a; ++b) {
      double in_U = 0.0;
      double in_V = 0.0;
      for (Index i = 0; i < 50; ++i) {
        in_U += static_cast<double>(values.U[static_cast<std::size_t>(i * 30 + a)]) *
                static_cast<double>(values.U[static_cast<std::size_t>(i * 30 + b)]);
      }
      for (Index i = 0; i < 30; ++i) {
        in_V += static_cast<double>(values.V[static_cast<std::size_t>(i * 30 + a)]) *
                static_cast<double>(values.V[static_cast<std::size_t>(i * 30 + b)]);
      }
      EXPECT_NEAR(in_U, a == b ? 1.0 : 0.0, 1e-5);
      EXPECT_NEAR(in_V, a == b ? 1.0 : 0.0, 1e-5);
    }
  }
}

// A matrix of that rank, and noise of that size on it.
Matrix planted(Index rows, Index cols, Index rank, float noise, std::vector<float>* clean) {
  const LowRankFactors factors{rank, random_floats(rows * rank, 4), random_floats(rank * cols, 5)};
  Matrix W{rows, cols, multiply(factors, rows, cols)};
  if (clean != nullptr) *clean = W.values;
  const auto more = random_floats(rows * cols, 6, noise);
  for (std::size_t i = 0; i < more.size(); ++i) W.values[i] += more[i];
  return W;
}

TEST(LowRank, FindsAPlantedRank) {
  std::vector<float> clean;
  const Matrix W = planted(120, 80, 6, 0.1F, &clean);
  const SingularValues values = decompose(W.view()).value();
  // Cutting at the planted rank takes noise off.
  EXPECT_LT(squared_distance(of_rank(W, values, 6), clean),
            0.3 * squared_distance(W.values, clean));
  EXPECT_GT(values.s[5], 5.0F * values.s[6]);
  EXPECT_GE(marchenko_pastur_rank(values), 6);
}

TEST(LowRank, TheRandomOneIsNearlyAsGood) {
  const Matrix W = planted(150, 100, 12, 0.2F, nullptr);
  const SingularValues exact = decompose(W.view()).value();
  const SingularValues quick = decompose_randomly(W.view(), 12, 1).value();
  ASSERT_EQ(quick.count(), 12);
  for (std::size_t k = 0; k < 12; ++k) EXPECT_NEAR(quick.s[k], exact.s[k], 1e-3F * exact.s[k]);
  const double best = squared_distance(of_rank(W, exact, 12), W.values);
  EXPECT_LT(squared_distance(of_rank(W, quick, 12), W.values), 1.01 * best);
  EXPECT_EQ(decompose_randomly(W.view(), 12, 1).value().U, quick.U);
  // As many as there are.
  const Matrix small = random_matrix(9, 5, 7);
  EXPECT_LT(squared_distance(of_rank(small, decompose_randomly(small.view(), 5, 1).value(), 5),
                             small.values),
            1e-8);
}

// A random matrix, and one whose singular values fall as 1/k.
std::vector<Matrix> flat_and_decaying() {
  const Matrix flat = random_matrix(200, 120, 11);
  LowRankFactors factors{120, random_floats(200 * 120, 12), random_floats(120 * 120, 13)};
  for (std::size_t i = 0; i < factors.v.size(); ++i) {
    factors.v[i] /= static_cast<float>(1 + i / 120);
  }
  return {flat, {200, 120, multiply(factors, 200, 120)}};
}

TEST(LowRank, TheRandomOneLosesAHundredthMoreThanTheBestAtMost) {
  for (const Matrix& W : flat_and_decaying()) {
    const SingularValues exact = decompose(W.view()).value();
    for (const Index rank : {1, 6, 12, 30}) {
      const SingularValues quick = decompose_randomly(W.view(), rank, 3).value();
      const double best =
          sum_of_squares(std::span(exact.s).subspan(static_cast<std::size_t>(rank)));
      const double found = squared_distance(of_rank(W, quick, rank), W.values);
      EXPECT_LT(std::sqrt(found), 1.01 * std::sqrt(best)) << rank;
      // A lower rank is a part of it.
      const Index half = (rank + 1) / 2;
      const double best_half =
          sum_of_squares(std::span(exact.s).subspan(static_cast<std::size_t>(half)));
      EXPECT_LT(std::sqrt(squared_distance(of_rank(W, quick, half), W.values)),
                1.01 * std::sqrt(best_half))
          << half;
    }
  }
}

TEST(LowRank, TheRandomOneDependsOnTheSeedAlone) {
  const Matrix W = flat_and_decaying().front();
  const SingularValues one = decompose_randomly(W.view(), 8, 5).value();
  const SingularValues again = decompose_randomly(W.view(), 8, 5).value();
  EXPECT_EQ(one.U, again.U);
  EXPECT_EQ(one.s, again.s);
  EXPECT_EQ(one.V, again.V);
  EXPECT_NE(one.V, decompose_randomly(W.view(), 8, 6).value().V);
}

TEST(LowRank, TheRuleOfRandomMatricesIsTheReferences) {
  // Of 1 … 8: quartiles 2.75 and 6.25, σ = 3.5 / 1.349 = 2.594, threshold 2.594 · 2.
  SingularValues values{8, 8, {}, {8, 7, 6, 5, 4, 3, 2, 1}, {}};
  EXPECT_EQ(marchenko_pastur_rank(values), 3);
  values.rows = 32;  // β = 1/4: threshold 2.594 · 1.5
  EXPECT_EQ(marchenko_pastur_rank(values), 5);
  EXPECT_EQ(marchenko_pastur_rank({4, 4, {}, {0, 0, 0, 0}, {}}), 1);
}

TEST(LowRank, WhatCannotBeDecomposedIsAnError) {
  Matrix W = random_matrix(4, 3, 8);
  EXPECT_EQ(decompose({W.values.data(), 0, 3}).error().message,
            "[low rank] matrix: expected rows and columns, found [0,3]");
  EXPECT_EQ(decompose_randomly(W.view(), 4, 1).error().message,
            "[low rank] rank: expected 1 to 3, found 4");
  EXPECT_EQ(decompose_randomly(W.view(), 0, 1).error().code, ErrorCode::bad_argument);
  W.values[4] = NAN;
  EXPECT_EQ(decompose(W.view()).error().message,
            "[low rank] matrix: expected finite weights, found nan (row 1)");
}

}  // namespace
}  // namespace krait::low_rank_test
