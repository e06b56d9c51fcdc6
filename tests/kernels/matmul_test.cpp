#include "krait/kernels/matmul.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "krait/kernels/ref/matmul.hpp"
#include "tests/support/weights.hpp"

namespace krait::matmul_test {
namespace {

using kernels::MatmulArgs;
using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;
using test::StoredMatrix;
using test::weight_types;

constexpr float untouched = -77.0F;

struct Problem {
  Index tokens;
  Index rows;
  Index cols;
  Index offset = 0;   // elements by which every array is misaligned
  Index padding = 0;  // elements between the rows of x and of y
  bool has_bias = true;
  Range outputs = {0, rows};
};

// matmul_packed, with packed tokens that have nothing beyond their end.
void multiply_packed(const MatmulArgs& args) noexcept {
  const Index size = args.x.rows * round_up(args.x.cols, Index{16});
  const std::unique_ptr<float[]> packed(new float[static_cast<std::size_t>(size)]);
  kernels::pack_tokens(args.x, packed.get());
  MatmulArgs with_packed = args;
  with_packed.packed = packed.get();
  kernels::matmul_packed(with_packed);
}

// Random data of one problem; `run` gives the whole block that y lies in.
class Data {
 public:
  Data(const Problem& problem, DType dtype)
      : problem_(problem),
        W_(dtype, random_floats(problem.rows * problem.cols, 1), problem.rows, problem.cols,
           problem.offset),
        x_(random_floats(problem.tokens * (problem.cols + problem.padding), 2), problem.offset),
        bias_(random_floats(problem.rows, 3), problem.offset) {}

  std::vector<float> run(void (*multiply)(const MatmulArgs&) noexcept) {
    const Problem& p = problem_;
    const auto size = static_cast<std::size_t>(p.tokens * (p.rows + p.padding));
    auto y = misaligned(std::vector<float>(size, untouched), p.offset);
    multiply({.W = W_.view(),
              .x = {x_.data(), p.tokens, p.cols, p.cols + p.padding},
              .bias = p.has_bias ? bias_.data() : nullptr,
              .y = {y.data(), p.tokens, p.rows, p.rows + p.padding},
              .outputs = p.outputs});
    return {y.span().begin(), y.span().end()};
  }

 private:
  Problem problem_;
  StoredMatrix W_;
  test::Misaligned<float> x_;
  test::Misaligned<float> bias_;
};

void expect_model_bits(const Problem& problem) {
  for (const DType dtype : weight_types) {
    Data data(problem, dtype);
    const std::vector<float> expected = data.run(ref::matmul);
    for_each_isa([&](Isa isa) {
      if (isa == Isa::scalar) return;  // is the model
      for (const auto multiply : {kernels::matmul, multiply_packed}) {
        ASSERT_TRUE(same_bits<float>(expected, data.run(multiply)))
            << to_string(isa) << ' ' << to_string(dtype) << " tokens=" << problem.tokens
            << " rows=" << problem.rows << " cols=" << problem.cols << " offset=" << problem.offset
            << " padding=" << problem.padding << " bias=" << problem.has_bias
            << (multiply == multiply_packed ? " tiles" : "");
      }
    });
  }
}

TEST(Matmul, EqualsTheModelForEveryLength) {
  for (Index cols = 0; cols <= 70; ++cols) {
    for (const Index tokens : {1, 3, 7, 13}) {
      expect_model_bits({.tokens = tokens, .rows = 9, .cols = cols, .has_bias = cols % 2 == 0});
    }
  }
}

TEST(Matmul, EqualsTheModelForLongRows) {
  for (const Index cols : {96, 127, 128, 255, 256, 768, 1536, 2049, 4100}) {
    expect_model_bits({.tokens = 5, .rows = 6, .cols = cols});
    expect_model_bits({.tokens = 14, .rows = 9, .cols = cols});
  }
}

TEST(Matmul, EqualsTheModelForEveryTile) {
  for (Index rows = 1; rows <= 20; ++rows) {
    for (Index tokens = 1; tokens <= 17; ++tokens) {
      expect_model_bits({.tokens = tokens, .rows = rows, .cols = 35, .has_bias = rows % 2 == 0});
    }
    expect_model_bits({.tokens = 33, .rows = rows, .cols = 35});
  }
}

TEST(Matmul, EqualsTheModelForEveryTileWithEveryRest) {
  test::for_each_tile_and_rest([](Index rows, Index tokens, Index cols) {
    expect_model_bits({.tokens = tokens, .rows = rows, .cols = cols, .has_bias = cols % 2 == 0});
  });
}

TEST(Matmul, EqualsTheModelForEveryAlignmentAndStride) {
  for (const Index offset : {0, 1, 3}) {
    for (const Index padding : {0, 1, 5, 16}) {
      for (const bool has_bias : {false, true}) {
        for (const Index tokens : {2, 4, 11}) {
          expect_model_bits({.tokens = tokens,
                             .rows = 13,
                             .cols = 61,
                             .offset = offset,
                             .padding = padding,
                             .has_bias = has_bias});
        }
      }
    }
  }
}

TEST(Matmul, EqualsTheModelWhenManyTokensMeetManyRows) {
  expect_model_bits({.tokens = 150, .rows = 70, .cols = 48});
  expect_model_bits({.tokens = 100, .rows = 40, .cols = 800});
}

TEST(Matmul, WritesOnlyTheOutputsAskedFor) {
  constexpr Index rows = 14;
  for (const Index tokens : {1, 2, 9, 24}) {
    for (Index begin = 0; begin <= rows; ++begin) {
      for (Index end = begin; end <= rows; ++end) {
        expect_model_bits(
            {.tokens = tokens, .rows = rows, .cols = 19, .padding = 3, .outputs = {begin, end}});
      }
    }
  }
}

TEST(Matmul, GivesEachTokenTheBitsOfMatvec) {
  constexpr Index max_tokens = 40;
  constexpr Index rows = 45;
  constexpr Index cols = 777;
  const auto x = random_floats(max_tokens * cols, 4);
  for (const DType dtype : weight_types) {
    StoredMatrix W(dtype, random_floats(rows * cols, 5), rows, cols);
    for_each_isa([&](Isa isa) {
      if (isa == Isa::scalar) return;
      std::vector<float> single(static_cast<std::size_t>(max_tokens * rows));
      for (Index t = 0; t < max_tokens; ++t) {
        kernels::matvec({.W = W.view(),
                         .x = x.data() + t * cols,
                         .y = single.data() + t * rows,
                         .outputs = {0, rows}});
      }
      for (Index tokens = 1; tokens <= max_tokens; ++tokens) {
        const auto size = static_cast<std::size_t>(tokens * rows);
        std::vector<float> y(size);
        kernels::matmul({.W = W.view(),
                         .x = {x.data(), tokens, cols},
                         .y = {y.data(), tokens, rows},
                         .outputs = {0, rows}});
        ASSERT_TRUE(same_bits<float>(y, std::span<const float>(single).first(size)))
            << to_string(isa) << ' ' << to_string(dtype) << " tokens=" << tokens;
      }
    });
  }
}

TEST(Matmul, IsCloseToTheOracle) {
  constexpr Index tokens = 9;
  constexpr Index rows = 12;
  constexpr Index cols = 768;
  const auto x = random_floats(tokens * cols, 6);
  const auto bias = random_floats(rows, 7);
  for (const DType dtype : weight_types) {
    StoredMatrix W(dtype, random_floats(rows * cols, 8), rows, cols);
    std::vector<float> y(tokens * rows);
    std::vector<double> exact(y.size());
    const MatmulArgs args{.W = W.view(),
                          .x = {x.data(), tokens, cols},
                          .bias = bias.data(),
                          .y = {y.data(), tokens, rows},
                          .outputs = {0, rows}};
    ref::matmul_oracle(args, {exact.data(), tokens, rows});
    for_each_isa([&](Isa isa) {
      for (const auto multiply : {kernels::matmul, multiply_packed}) {
        std::fill(y.begin(), y.end(), untouched);
        multiply(args);
        for (std::size_t i = 0; i < y.size(); ++i) {
          ASSERT_NEAR(static_cast<double>(y[i]), exact[i], 1e-5)
              << to_string(isa) << (multiply == multiply_packed ? " tiles" : "");
        }
      }
    });
  }
}

}  // namespace
}  // namespace krait::matmul_test
