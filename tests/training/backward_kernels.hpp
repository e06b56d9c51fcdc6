#pragma once

/// \file
/// What the tests of single backward passes share.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include "krait/training/workspace.hpp"
#include "tests/support/backwards_executor.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::test {

inline double wide(float x) { return static_cast<double>(x); }

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// A matrix of random numbers, of NaN if `seed` is 0, whose rows have NaN between them.
class SpacedMatrix {
 public:
  SpacedMatrix(Index rows, Index cols, std::uint64_t seed, float scale = 1.0F)
      : values_(static_cast<std::size_t>(rows * (cols + gap)), nan), rows_(rows), cols_(cols) {
    if (seed == 0) return;
    const std::vector<float> random = random_floats(rows * cols, seed, scale);
    for (Index r = 0; r < rows; ++r)
      std::copy_n(random.data() + r * cols, cols, view().row_data(r));
  }

  MatrixView<float> view() { return {values_.data(), rows_, cols_, cols_ + gap}; }
  float operator()(Index r, Index c) const {
    return values_[static_cast<std::size_t>(r * (cols_ + gap) + c)];
  }

  /// The rows, one after the other. Fails the test if anything between them was written.
  void append_to(std::vector<float>& all) const {
    for (Index r = 0; r < rows_; ++r) {
      for (Index c = 0; c < cols_; ++c) all.push_back((*this)(r, c));
      for (Index c = cols_; c < cols_ + gap; ++c) EXPECT_TRUE(std::isnan((*this)(r, c)));
    }
  }

 private:
  static constexpr Index gap = 3;
  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();

  std::vector<float> values_;
  Index rows_;
  Index cols_;
};

/// What run(work) gives, which must have the same bits on every instruction set with work in one to
/// eight shares. The working memory holds NaN.
template <class Run>
std::vector<float> same_everywhere(Run run) {
  std::vector<float> result;
  SerialExecutor one;
  static EagerThreadPool two(2);
  BackwardsExecutor three(3);
  BackwardsExecutor eight(8);
  static const std::vector<float> nothing(1 << 15, std::numeric_limits<float>::quiet_NaN());
  Workspace memory;
  for_each_isa([&](Isa) {
    for (Executor* executor : std::initializer_list<Executor*>{&one, &two, &three, &eight}) {
      {
        const Workspace::Frame frame(memory);
        std::ranges::copy(nothing, memory.floats(std::ssize(nothing)).data());
      }
      const std::vector<float> found = run(Work{*executor, memory});
      if (result.empty()) result = found;
      ASSERT_TRUE(same_bits<float>(result, found)) << executor->width() << " threads";
    }
  });
  return result;
}

/// A number in exact arithmetic, as far as double is, and what it is a sum of.
struct Oracle {
  double value = 0.0;
  double size = 0.0;  ///< Σ |term|

  void add(double term) { add(term, std::abs(term)); }
  /// A term that is a result of roundings itself, of numbers of this size.
  void add(double term, double term_size) {
    value += term;
    size += term_size;
  }
};

/// Each number within what `roundings` of f32 may do to its sum.
inline void expect_close(std::span<const float> found, const std::vector<Oracle>& expected,
                         Index roundings) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double most = static_cast<double>(roundings) * 0x1p-24 * expected[i].size;
    ASSERT_LE(std::abs(static_cast<double>(found[i]) - expected[i].value), most) << "number " << i;
  }
}

}  // namespace krait::test
