#include "krait/kernels/codeword_search.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "krait/kernels/ref/codeword_search.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::codeword_search_test {
namespace {

using kernels::CodewordChoice;
using test::for_each_isa;
using test::random_floats;

struct Problem {
  Problem(Index hypotheses, Index group, Index count, Index keep)
      : residuals(random_floats(hypotheses * group, 1, 1.0F)),
        codewords(random_floats(group * count, 2, 1.0F)),
        costs(squares(residuals, hypotheses, group, 1)),
        norms(squares(codewords, count, group, count)) {
    args = {.residuals = {residuals.data(), hypotheses, group},
            .costs = costs.data(),
            .codewords = {codewords.data(), group, count},
            .norms = norms.data(),
            .keep = keep};
  }

  static std::vector<float> squares(const std::vector<float>& values, Index vectors, Index group,
                                    Index step) {
    std::vector<float> sums(static_cast<std::size_t>(vectors));
    for (Index v = 0; v < vectors; ++v) {
      for (Index d = 0; d < group; ++d) {
        const float x = values[static_cast<std::size_t>(step == 1 ? v * group + d : d * step + v)];
        sums[static_cast<std::size_t>(v)] += x * x;
      }
    }
    return sums;
  }

  std::vector<CodewordChoice> run(bool model) const {
    std::vector<CodewordChoice> best(static_cast<std::size_t>(args.keep));
    const Index found = model ? ref::search_codewords(args, best.data())
                              : kernels::search_codewords(args, best.data());
    best.resize(static_cast<std::size_t>(found));
    return best;
  }

  std::vector<float> residuals;
  std::vector<float> codewords;
  std::vector<float> costs;
  std::vector<float> norms;
  kernels::CodewordSearchArgs args;
};

TEST(CodewordSearch, EqualsTheModelOnEveryInstructionSet) {
  for (const Index hypotheses : {1, 3, 8}) {
    for (const Index group : {1, 4, 8, 13, 16, 32}) {
      for (const Index count : {16, 32, 256}) {
        for (const Index keep : {1, 2, 8, 32}) {
          const Problem problem(hypotheses, group, count, keep);
          const auto expected = problem.run(true);
          for_each_isa([&](Isa) { EXPECT_EQ(problem.run(false), expected); });
        }
      }
    }
  }
}

TEST(CodewordSearch, TheCheapestHasTheSmallestDistance) {
  const Problem problem(4, 8, 64, 1);
  double smallest = std::numeric_limits<double>::infinity();
  for (Index h = 0; h < 4; ++h) {
    for (Index k = 0; k < 64; ++k) {
      double distance = 0.0;
      for (Index d = 0; d < 8; ++d) {
        const double difference = static_cast<double>(problem.args.residuals(h, d)) -
                                  static_cast<double>(problem.args.codewords(d, k));
        distance += difference * difference;
      }
      smallest = std::min(smallest, distance);
    }
  }
  EXPECT_NEAR(static_cast<double>(problem.run(false).front().cost), smallest, 1e-5);
}

TEST(CodewordSearch, OfEqualCostsTheFirstComesFirst) {
  Problem problem(2, 4, 32, 40);
  std::fill(problem.codewords.begin(), problem.codewords.end(), 0.0F);
  std::fill(problem.norms.begin(), problem.norms.end(), 1.0F);
  std::fill(problem.costs.begin(), problem.costs.end(), 1.0F);
  for_each_isa([&](Isa) {
    const auto best = problem.run(false);
    ASSERT_EQ(best.size(), 40U);
    for (std::size_t i = 0; i < best.size(); ++i) {
      EXPECT_EQ(best[i], (CodewordChoice{2.0F, static_cast<std::int32_t>(i / 32),
                                         static_cast<std::int32_t>(i % 32)}));
    }
  });
}

TEST(CodewordSearch, CodesOfInfiniteNormAreNone) {
  Problem problem(1, 8, 16, 16);
  std::fill(problem.norms.begin() + 4, problem.norms.end(), std::numeric_limits<float>::infinity());
  for_each_isa([&](Isa) {
    const auto best = problem.run(false);
    ASSERT_EQ(best.size(), 4U);
    for (const CodewordChoice& choice : best) EXPECT_LT(choice.code, 4);
  });
}

}  // namespace
}  // namespace krait::codeword_search_test
