#include "krait/kernels/matmul_panels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "krait/kernels/ref/matmul.hpp"
#include "krait/kernels/ref/matmul_bf16.hpp"
#include "krait/kernels/ref/matmul_panels.hpp"
#include "tests/support/weights.hpp"

namespace krait::matmul_panels_test {
namespace {

using kernels::LaneOrder;
using kernels::PanelActivations;
using kernels::PanelLayout;
using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;
using test::StoredMatrix;
using test::weight_types;

constexpr float untouched = -77.0F;

struct Problem {
  LaneOrder order = LaneOrder::single;
  Index tokens = 0;
  Index rows = 0;
  Index cols = 0;
  Index offset = 0;   // elements by which every array is misaligned
  Index padding = 0;  // elements between the rows of x and of y
  bool has_bias = true;
  Range outputs = {0, rows};
  Index panels = 1;  // that the memory has room for
};

// Whole rows of y of the problem by `ref::matmul` or `ref::matmul_bf16`, from operands as they are.
std::vector<float> expected_result(const Problem& p, StoredMatrix& W, MatrixView<const float> x,
                                   const float* bias) {
  std::vector<float> y(static_cast<std::size_t>(p.tokens * (p.rows + p.padding)), untouched);
  const MatrixView<float> view{y.data(), p.tokens, p.rows, p.rows + p.padding};
  if (p.order == LaneOrder::single) {
    ref::matmul({.W = W.view(), .x = x, .bias = bias, .y = view, .outputs = p.outputs});
  } else {
    using kernels::Bf16Activations;
    AlignedBuffer<float> memory(p.tokens * Bf16Activations::floats_per_token(p.cols));
    const Bf16Activations rounded(memory.data(), p.cols);
    ref::round_activations(x, {0, p.tokens}, rounded);
    ref::matmul_bf16({.W = W.view(), .x = rounded, .bias = bias, .y = view, .outputs = p.outputs});
  }
  return y;
}

void expect_the_bits(const Problem& p, DType dtype, std::vector<float> weights,
                     std::vector<float> input) {
  StoredMatrix W(dtype, std::move(weights), p.rows, p.cols, p.offset);
  auto x = misaligned(std::move(input), p.offset);
  auto bias = misaligned(random_floats(p.rows, 3), p.offset);
  const MatrixView<const float> x_view{x.data(), p.tokens, p.cols, p.cols + p.padding};
  const float* b = p.has_bias ? bias.data() : nullptr;
  const std::vector<float> expected = expected_result(p, W, x_view, b);
  for_each_isa([&](Isa isa) {
    std::vector<float> packed(
        static_cast<std::size_t>(PanelActivations::floats(p.order, p.tokens, p.cols)));
    std::vector<float> panels(
        static_cast<std::size_t>(p.panels * kernels::panel_floats(p.order, p.cols)));
    auto y = misaligned(std::vector<float>(expected.size(), untouched), p.offset);
    const PanelActivations activations{packed.data(), p.tokens, p.cols, p.order};
    // In two parts, as two threads would.
    const Index middle =
        p.tokens / 2 / PanelActivations::panel_tokens * PanelActivations::panel_tokens;
    kernels::pack_activations(x_view, {middle, p.tokens}, activations);
    kernels::pack_activations(x_view, {0, middle}, activations);
    kernels::matmul_panels({.W = W.view(),
                            .x = activations,
                            .bias = b,
                            .y = {y.data(), p.tokens, p.rows, p.rows + p.padding},
                            .outputs = p.outputs,
                            .panels = panels});
    ASSERT_TRUE(same_bits<float>(expected, y.span()))
        << to_string(isa) << ' ' << to_string(dtype) << " pairs=" << (p.order == LaneOrder::pairs)
        << " tokens=" << p.tokens << " rows=" << p.rows << " cols=" << p.cols
        << " offset=" << p.offset << " padding=" << p.padding << " bias=" << p.has_bias
        << " panels=" << p.panels;
  });
}

// Both orders, every type of weights.
void expect_the_bits(Problem p) {
  for (const DType dtype : weight_types) {
    p.order = LaneOrder::single;
    const auto weights = random_floats(p.rows * p.cols, 1);
    const auto input = random_floats(p.tokens * (p.cols + p.padding), 2);
    expect_the_bits(p, dtype, weights, input);
    if (dtype != DType::bf16) continue;
    p.order = LaneOrder::pairs;
    expect_the_bits(p, dtype, weights, input);
  }
}

TEST(MatmulPanels, EqualTheModelForEveryLength) {
  for (Index cols = 0; cols <= 70; ++cols) {
    for (const Index tokens : {1, 6, 14}) {
      expect_the_bits({.tokens = tokens, .rows = 18, .cols = cols, .has_bias = cols % 2 == 0});
    }
  }
}

TEST(MatmulPanels, EqualTheModelForLongRows) {
  for (const Index cols : {96, 127, 128, 255, 768, 1536, 2049}) {
    expect_the_bits({.tokens = 9, .rows = 16, .cols = cols});
  }
}

TEST(MatmulPanels, EqualTheModelForEveryTileAndEveryNumberOfPanels) {
  for (Index tokens = 1; tokens <= 25; ++tokens) {
    expect_the_bits({.tokens = tokens, .rows = 32, .cols = 37, .panels = tokens % 3 + 1});
  }
  for (Index rows = 1; rows <= 70; ++rows) {
    expect_the_bits({.tokens = 8, .rows = rows, .cols = 40, .panels = rows % 4 + 1});
  }
}

TEST(MatmulPanels, EqualTheModelForEveryTileWithEveryRest) {
  test::for_each_tile_and_rest([](Index rows, Index tokens, Index cols) {
    expect_the_bits({.tokens = tokens, .rows = rows, .cols = cols, .has_bias = cols % 2 == 0});
  });
}

TEST(MatmulPanels, EqualTheModelForEveryAlignmentAndStride) {
  for (const Index offset : {0, 1, 3}) {
    for (const Index padding : {0, 1, 5, 16}) {
      for (const bool has_bias : {false, true}) {
        expect_the_bits({.tokens = 11,
                         .rows = 21,
                         .cols = 61,
                         .offset = offset,
                         .padding = padding,
                         .has_bias = has_bias});
      }
    }
  }
}

TEST(MatmulPanels, WriteOnlyTheOutputsAskedFor) {
  constexpr Index rows = 20;
  for (Index begin = 0; begin <= rows; begin += 3) {
    for (Index end = begin; end <= rows; ++end) {
      expect_the_bits(
          {.tokens = 7, .rows = rows, .cols = 19, .padding = 3, .outputs = {begin, end}});
    }
  }
}

// Infinities, numbers that are none, and zeros and subnormals of both signs.
TEST(MatmulPanels, EqualTheModelForSpecialNumbers) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float special[] = {0.0F, -0.0F, 1e-40F, -1e-40F, 1e-30F, -1e-30F, 3e38F, infinity, 1.0F};
  for (const Index cols : {16, 33, 64, 97}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const LaneOrder order : {LaneOrder::single, LaneOrder::pairs}) {
        if (order == LaneOrder::pairs && dtype != DType::bf16) continue;
        auto weights = random_floats(16 * cols, 5);
        auto input = random_floats(7 * cols, 6);
        for (std::size_t i = 0; i < weights.size(); i += 2) weights[i] = special[i / 2 % 7];
        // One token in which everything is finite but tiny; the others see all of it.
        for (std::size_t i = 0; i < input.size(); i += 3) {
          input[i] = special[i / 3 % (i < static_cast<std::size_t>(6 * cols) ? 9 : 6)];
        }
        expect_the_bits({.order = order, .tokens = 7, .rows = 16, .cols = cols}, dtype, weights,
                        input);
      }
    }
  }
}

TEST(MatmulPanels, PackedActivationsEqualTheModel) {
  for (const LaneOrder order : {LaneOrder::single, LaneOrder::pairs}) {
    for (Index cols = 0; cols <= 70; ++cols) {
      constexpr Index tokens = 12;
      auto values = random_floats(tokens * cols, 7);
      if (!values.empty()) values[values.size() / 2] = std::numeric_limits<float>::quiet_NaN();
      const MatrixView<const float> x(values.data(), tokens, cols);
      const auto size = static_cast<std::size_t>(PanelActivations::floats(order, tokens, cols));
      std::vector<float> expected(size);
      ref::pack_activations(x, {0, tokens}, {expected.data(), tokens, cols, order});
      for_each_isa([&](Isa isa) {
        std::vector<float> packed(size);
        kernels::pack_activations(x, {0, tokens}, {packed.data(), tokens, cols, order});
        ASSERT_TRUE(same_bits<float>(expected, packed)) << to_string(isa) << ' ' << cols;
      });
    }
  }
}

TEST(PanelLayout, GivesEveryElementAPlaceOfItsOwn) {
  for (const LaneOrder order : {LaneOrder::single, LaneOrder::pairs}) {
    for (Index cols = 0; cols <= 100; ++cols) {
      const PanelLayout layout(order, cols);
      std::set<Index> places;
      for (Index k = 0; k < layout.length(); ++k) places.insert(layout.position(k));
      ASSERT_EQ(static_cast<Index>(places.size()), layout.length());
      if (cols > 0) {
        Index gaps = 15;  // before the last lane that has elements
        while (layout.steps()[static_cast<std::size_t>(gaps)] == 0) --gaps;
        ASSERT_EQ(*places.begin(), 0);
        ASSERT_EQ(*places.rbegin(), layout.length() - 1 + gaps);
        ASSERT_LT(*places.rbegin(), PanelLayout::places(order, cols));
      }
    }
  }
}

}  // namespace
}  // namespace krait::matmul_panels_test
