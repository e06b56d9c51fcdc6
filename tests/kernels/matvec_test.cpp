#include "krait/kernels/matvec.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "krait/kernels/ref/matvec.hpp"
#include "tests/support/weights.hpp"

namespace krait::matvec_test {
namespace {

using kernels::MatvecArgs;
using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;
using test::StoredMatrix;
using test::weight_types;

constexpr float untouched = -77.0F;

struct Shape2 {
  Index rows;
  Index cols;
};

std::vector<Shape2> shapes() {
  std::vector<Shape2> all;
  for (Index k = 0; k <= 70; ++k) all.push_back({11, k});
  for (Index rows = 1; rows <= 20; ++rows) all.push_back({rows, 53});
  for (const Index rows : {33, 50, 67}) all.push_back({rows, 53});  // several rows of each stream
  for (const Index k : {96, 127, 128, 255, 256, 768, 1536, 2049, 4100}) all.push_back({9, k});
  return all;
}

TEST(Matvec, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (const DType dtype : weight_types) {
    for (const Shape2 shape : shapes()) {
      const auto values = random_floats(shape.rows * shape.cols, 1);
      const auto bias = random_floats(shape.rows, 2);
      const auto input = random_floats(shape.cols, 3);
      for (const Index offset : {0, 1, 3}) {
        StoredMatrix W(dtype, values, shape.rows, shape.cols, offset);
        auto x = misaligned(input, offset);
        auto b = misaligned(bias, offset);
        for (const bool has_bias : {false, true}) {
          std::vector<float> expected(bias.size(), untouched);
          MatvecArgs args{.W = W.view(),
                          .x = x.data(),
                          .bias = has_bias ? b.data() : nullptr,
                          .y = expected.data(),
                          .outputs = {0, shape.rows}};
          ref::matvec(args);
          for_each_isa([&](Isa isa) {
            auto y = misaligned(std::vector<float>(bias.size(), untouched), offset);
            args.y = y.data();
            kernels::matvec(args);
            ASSERT_TRUE(same_bits<float>(expected, y.span()))
                << to_string(isa) << ' ' << to_string(dtype) << " rows=" << shape.rows
                << " cols=" << shape.cols << " offset=" << offset << " bias=" << has_bias;
          });
        }
      }
    }
  }
}

TEST(Matvec, WritesOnlyTheOutputsAskedFor) {
  constexpr Index rows = 21;
  constexpr Index cols = 37;
  const auto x = random_floats(cols, 4);
  const auto bias = random_floats(rows, 5);
  for (const DType dtype : weight_types) {
    StoredMatrix W(dtype, random_floats(rows * cols, 6), rows, cols);
    for (Index begin = 0; begin <= rows; ++begin) {
      for (Index end = begin; end <= rows; ++end) {
        std::vector<float> expected(rows, untouched);
        MatvecArgs args{.W = W.view(),
                        .x = x.data(),
                        .bias = bias.data(),
                        .y = expected.data(),
                        .outputs = {begin, end}};
        ref::matvec(args);
        for_each_isa([&](Isa isa) {
          std::vector<float> y(rows, untouched);
          args.y = y.data();
          kernels::matvec(args);
          ASSERT_EQ(expected, y) << to_string(isa) << ' ' << begin << ' ' << end;
        });
      }
    }
  }
}

TEST(Matvec, IsTheSameForEveryStorageTypeOfTheSameValues) {
  constexpr Index rows = 13;
  constexpr Index cols = 331;
  std::vector<float> values = random_floats(rows * cols, 7);
  // Representable in all three types.
  for (float& value : values) value = to_float(to_bf16(std::round(value * 128.0F) / 128.0F));
  const auto x = random_floats(cols, 8);
  for_each_isa([&](Isa) {
    std::vector<float> first;
    for (const DType dtype : weight_types) {
      StoredMatrix W(dtype, values, rows, cols);
      std::vector<float> y(rows);
      kernels::matvec({.W = W.view(), .x = x.data(), .y = y.data(), .outputs = {0, rows}});
      if (first.empty()) first = y;
      ASSERT_TRUE(same_bits<float>(first, y)) << to_string(dtype);
    }
  });
}

TEST(Matvec, WidensEveryBitPatternExactly) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::vector<float> values;
    for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
      const auto half = static_cast<std::uint16_t>(bits);
      const float value = dtype == DType::f16 ? to_float(f16{half}) : to_float(bf16{half});
      values.push_back(value);
    }
    // One column, so that every output is one weight.
    const auto rows = static_cast<Index>(values.size());
    StoredMatrix W(dtype, values, rows, 1);
    const float one = 1.0F;
    for_each_isa([&](Isa) {
      std::vector<float> y(values.size());
      kernels::matvec({.W = W.view(), .x = &one, .y = y.data(), .outputs = {0, rows}});
      // +0 + (-0) is +0, so a negative zero comes out positive; == ignores that.
      for (std::size_t i = 0; i < y.size(); ++i) {
        ASSERT_TRUE(y[i] == values[i] || (std::isnan(y[i]) && std::isnan(values[i])))
            << to_string(dtype) << ' ' << i;
      }
    });
  }
}

TEST(Matvec, LeavesLanesWithoutAnElementAlone) {
  // Lanes 0 … 15 become -0 (a product that underflows from below); lanes beyond the tail must stay
  // so, though fma(0, 0, -0) would make them +0; and infinity beyond the end must not be read.
  const float tiny = 1e-30F;
  for (Index cols = 17; cols < 32; ++cols) {
    constexpr Index rows = 9;
    std::vector<float> values(static_cast<std::size_t>(rows * cols), -tiny);
    std::vector<float> x(static_cast<std::size_t>(cols), tiny);
    StoredMatrix W(DType::f32, values, rows, cols);
    std::vector<float> expected(rows);
    MatvecArgs args{.W = W.view(), .x = x.data(), .y = expected.data(), .outputs = {0, rows}};
    ref::matvec(args);
    for_each_isa([&](Isa) {
      std::vector<float> y(rows, untouched);
      args.y = y.data();
      kernels::matvec(args);
      ASSERT_TRUE(same_bits<float>(expected, y));
    });
  }
}

// What a kernel with two accumulators per output would compute.
float dot_with_two_accumulators(const float* w, const float* x, Index n) {
  ref::Lanes even{};
  ref::Lanes odd{};
  for (Index k = 0; k < n; ++k) {
    float& lane = (k / 16 % 2 == 0 ? even : odd)[static_cast<std::size_t>(k % 16)];
    lane = std::fma(w[k], x[k], lane);
  }
  for (std::size_t i = 0; i < 16; ++i) even[i] += odd[i];
  return ref::reduce(even);
}

TEST(Matvec, WouldNoticeTwoAccumulatorsPerOutput) {
  constexpr Index rows = 32;
  constexpr Index cols = 256;
  const auto values = random_floats(rows * cols, 9);
  const auto x = random_floats(cols, 10);
  StoredMatrix W(DType::f32, values, rows, cols);
  std::vector<float> y(rows);
  kernels::matvec({.W = W.view(), .x = x.data(), .y = y.data(), .outputs = {0, rows}});
  int different = 0;
  for (Index r = 0; r < rows; ++r) {
    const float wrong = dot_with_two_accumulators(values.data() + r * cols, x.data(), cols);
    if (wrong != y[static_cast<std::size_t>(r)]) ++different;
  }
  EXPECT_GT(different, 0);
}

TEST(Matvec, IsCloseToTheOracle) {
  constexpr Index rows = 64;
  constexpr Index cols = 1536;
  const auto x = random_floats(cols, 11);
  for (const DType dtype : weight_types) {
    StoredMatrix W(dtype, random_floats(rows * cols, 12), rows, cols);
    std::vector<float> y(rows);
    std::vector<double> exact(rows);
    const MatvecArgs args{.W = W.view(), .x = x.data(), .y = y.data(), .outputs = {0, rows}};
    kernels::matvec(args);
    ref::matvec_oracle(args, exact);
    // 96 roundings per lane of sums below 20, then four more.
    for (std::size_t r = 0; r < y.size(); ++r)
      ASSERT_NEAR(static_cast<double>(y[r]), exact[r], 2e-5);
  }
}

}  // namespace
}  // namespace krait::matvec_test
