#include "krait/kernels/quant.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "krait/kernels/ref/matvec.hpp"
#include "krait/kernels/ref/quant.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/grouped.hpp"
#include "tests/support/weights.hpp"

namespace krait::quant_test {
namespace {

using kernels::GroupedForm;
using kernels::Int8Activations;
using test::for_each_isa;
using test::grouped_forms;
using test::GroupedMatrix;
using test::misaligned;
using test::random_floats;

// Values, scales and sums, as bytes.
std::vector<std::byte> rounded(MatrixView<const float> x, Range tokens,
                               void (*quantize)(MatrixView<const float>, Range,
                                                const Int8Activations&) noexcept) {
  AlignedBuffer<float> memory(x.rows * Int8Activations::floats_per_token(x.cols));
  quantize(x, tokens, {memory.data(), x.rows, x.cols});
  const auto bytes = std::as_bytes(memory.span());
  return {bytes.begin(), bytes.end()};
}

TEST(QuantizeActivations, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (Index cols = 0; cols <= 70; ++cols) {
    for (const Index offset : {0, 1, 3}) {
      auto x = misaligned(random_floats(3 * (cols + 2), 5), offset);
      const MatrixView<const float> rows(x.data(), 3, cols, cols + 2);
      for (const Range tokens : {Range{0, 3}, Range{1, 2}, Range{2, 2}}) {
        const auto expected = rounded(rows, tokens, ref::quantize_activations);
        for_each_isa([&](Isa isa) {
          ASSERT_EQ(expected, rounded(rows, tokens, kernels::quantize_activations))
              << to_string(isa) << " cols=" << cols;
        });
      }
    }
  }
}

TEST(QuantizeActivations, TakesExtremeGroups) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float largest = std::numeric_limits<float>::max();
  const float smallest = std::numeric_limits<float>::denorm_min();
  // In the last but one, the scale rounds so that the quotient would be 190.
  for (const float value : {0.0F, -0.0F, infinity, -infinity, nan, -nan, largest, -largest,
                            smallest, 190 * smallest, 64 * smallest, 1e-38F}) {
    for (const Index at : {0, 15, 31}) {
      std::vector<float> x(32, 0.0F);
      x[static_cast<std::size_t>(at)] = value;
      x[7] = std::isfinite(value) ? value / 3 : 1.0F;
      const MatrixView<const float> rows(x.data(), 1, 32);
      const auto expected = rounded(rows, {0, 1}, ref::quantize_activations);
      for_each_isa([&](Isa isa) {
        ASSERT_EQ(expected, rounded(rows, {0, 1}, kernels::quantize_activations))
            << to_string(isa) << ' ' << value << " at " << at;
        const test::RoundedActivations a(rows);
        ASSERT_EQ(std::isnan(a.view().scales[0]), !std::isfinite(value));
        if (!std::isfinite(value)) {
          ASSERT_EQ(a.view().sums[0], 0);
        }
      });
    }
  }
}

TEST(QuantizeActivations, RoundsToWithinHalfAScale) {
  const auto x = random_floats(640, 8);
  const test::RoundedActivations a({x.data(), 4, 160});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float scale = a.view().scales[i / 32];
    EXPECT_NEAR(x[i], scale * static_cast<float>(a.view().values[i]), 0.5001F * scale);
  }
  for (std::size_t g = 0; g < 20; ++g) {
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < 32; ++i) sum += a.view().values[g * 32 + i];
    EXPECT_EQ(a.view().sums[g], sum);
  }
}

TEST(QuantizeWeights, IsCloseAndDequantizesExactly) {
  for (const GroupedForm form : grouped_forms) {
    for (const Index cols : {1, 31, 32, 33, 48, 160}) {
      constexpr Index rows = 21;
      const auto values = random_floats(rows * cols, 3);
      const GroupedMatrix W(form, values, rows, cols);
      std::vector<float> row(static_cast<std::size_t>(cols));
      double error = 0.0;
      double power = 0.0;
      for (Index r = 0; r < rows; ++r) {
        kernels::dequantize_row(W.view(), r, row);
        for (Index k = 0; k < cols; ++k) {
          const double w = values[static_cast<std::size_t>(r * cols + k)];
          const double q = row[static_cast<std::size_t>(k)];
          ASSERT_EQ(q, static_cast<double>(ref::code_at(W.view(), r, k)) *
                           static_cast<double>(ref::scale_at(W.view(), r, k / 32)));
          error += (w - q) * (w - q);
          power += w * w;
        }
      }
      // Uniform values: a step of 2/254 or about 2/15.5 of the range, its square over 12.
      const double bound = form == GroupedForm::q8 ? 2e-5 : 6e-3;
      EXPECT_LT(error / power, bound) << to_string(form) << ' ' << cols;
    }
  }
}

TEST(QuantizeWeights, ReadsEveryStorageTypeAtAnyAddress) {
  for (const GroupedForm form : grouped_forms) {
    for (const DType dtype : test::weight_types) {
      test::StoredMatrix stored(dtype, random_floats(18 * 40, 6), 18, 40, 1);
      std::vector<float> widened(18 * 40);
      const TensorView W{stored.view().data, dtype, {18, 40}};
      for (Index i = 0; i < 18 * 40; ++i) {
        widened[static_cast<std::size_t>(i)] =
            static_cast<float>(ref::weight_at(stored.view(), i / 40, i % 40));
      }
      const GroupedMatrix expected(form, widened, 18, 40);
      std::vector<std::byte> moved(1 + static_cast<std::size_t>(W.bytes()));
      std::memcpy(moved.data() + 1, W.data, static_cast<std::size_t>(W.bytes()));
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(4 * block_bytes(form)));
      std::vector<f16> scales(4 * 16);
      ASSERT_FALSE(kernels::quantize(form, {moved.data() + 1, dtype, {18, 40}}, {0, 2},
                                     codes.data(), scales.data()));
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), expected.view().codes));
      EXPECT_TRUE(std::equal(scales.begin(), scales.end(), expected.view().scales));
    }
  }
}

TEST(QuantizeWeights, IsTheSameSharedBetweenThreads) {
  constexpr Index rows = 101;
  constexpr Index cols = 70;
  test::EagerThreadPool pool(3);
  auto values = random_floats(rows * cols, 7);
  for (const GroupedForm form : grouped_forms) {
    const GroupedMatrix expected(form, values, rows, cols);
    const kernels::GroupedWeights& W = expected.view();
    std::vector<std::uint8_t> codes(
        static_cast<std::size_t>(W.row_blocks() * W.groups() * block_bytes(form)));
    std::vector<f16> scales(
        static_cast<std::size_t>(W.row_blocks() * W.groups() * kernels::row_block));
    const TensorView source{values.data(), DType::f32, {rows, cols}};
    EXPECT_FALSE(kernels::quantize(pool, form, source, codes.data(), scales.data()));
    EXPECT_EQ(std::memcmp(codes.data(), W.codes, codes.size()), 0);
    EXPECT_EQ(std::memcmp(scales.data(), W.scales, scales.size() * sizeof(f16)), 0);
    // Of several bad weights it names the first row's, whichever thread meets one first.
    auto bad = values;
    for (const Index row : {98, 40, 60}) {
      bad[static_cast<std::size_t>(row * cols + 5)] = std::numeric_limits<float>::quiet_NaN();
    }
    const TensorView odd{bad.data(), DType::f32, {rows, cols}};
    const auto found = kernels::quantize(pool, form, odd, codes.data(), scales.data());
    ASSERT_TRUE(found);
    EXPECT_EQ(found->row, 40);
    EXPECT_EQ(found->col, 5);
  }
}

TEST(QuantizeWeights, PadsWithZeros) {
  for (const GroupedForm form : grouped_forms) {
    const GroupedMatrix W(form, random_floats(17 * 40, 4), 17, 40);
    kernels::GroupedWeights whole = W.view();
    for (Index r = 0; r < 32; ++r) {
      for (Index k = 0; k < 64; ++k) {
        if (r >= 17) {
          ASSERT_EQ(ref::scale_at(whole, r, k / 32), 0.0F);
        }
        if (r >= 17 || k >= 40) {
          ASSERT_EQ(ref::code_at(whole, r, k), 0) << r << ' ' << k;
        }
      }
    }
  }
}

TEST(QuantizeWeights, RepresentsZerosAndWholeMultiplesExactly) {
  for (const GroupedForm form : grouped_forms) {
    std::vector<float> values(64);
    for (std::size_t k = 0; k < 32; ++k) {
      values[32 + k] = 0.25F * (static_cast<float>(k % 16) - 8.0F);
    }
    if (form == GroupedForm::q8) values[32] = 127.0F * 0.25F;
    const GroupedMatrix W(form, values, 2, 32);
    std::vector<float> row(32);
    for (Index r = 0; r < 2; ++r) {
      kernels::dequantize_row(W.view(), r, row);
      for (std::size_t k = 0; k < 32; ++k) {
        ASSERT_EQ(row[k], values[static_cast<std::size_t>(r) * 32 + k]) << to_string(form);
      }
    }
  }
}

TEST(QuantizeWeights, NamesAWeightThatCannotBeRepresented) {
  for (const GroupedForm form : grouped_forms) {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e30F}) {
      auto values = random_floats(20 * 70, 5);
      values[17 * 70 + 66] = bad;
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(6 * block_bytes(form)));
      std::vector<f16> scales(6 * 16);
      const TensorView W{values.data(), DType::f32, {20, 70}};
      EXPECT_FALSE(kernels::quantize(form, W, {0, 1}, codes.data(), scales.data()));
      const auto found = kernels::quantize(form, W, {0, 2}, codes.data(), scales.data());
      ASSERT_TRUE(found);
      EXPECT_EQ(found->row, 17);
      EXPECT_EQ(found->col, 66);
    }
  }
}

}  // namespace
}  // namespace krait::quant_test
