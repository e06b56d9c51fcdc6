#include "krait/core/dtype.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "krait/core/cpu.hpp"

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace krait::dtype_test {
namespace {

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

f16 half(std::uint32_t bits) { return {static_cast<std::uint16_t>(bits)}; }

bool is_nan(f16 x) { return (x.bits & 0x7FFFU) > 0x7C00U; }

// The value of a binary16 by its definition.
double value_of(f16 x) {
  const int exponent = (x.bits >> 10) & 0x1F;
  const int mantissa = x.bits & 0x3FF;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (x.bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(F16, EveryPatternConvertsExactlyAndBack) {
  for (std::uint32_t bits = 0; bits <= 0xFFFFU; ++bits) {
    const float x = to_float(half(bits));
    const bool is_special = (bits & 0x7C00U) == 0x7C00U;
    if (is_nan(half(bits))) {
      ASSERT_TRUE(std::isnan(x));
      ASSERT_EQ(std::signbit(x), (bits & 0x8000U) != 0);
      ASSERT_EQ(to_f16(x).bits, bits | 0x200U);  // made quiet, otherwise kept
      continue;
    }
    if (is_special) {
      ASSERT_TRUE(std::isinf(x));
    } else {
      ASSERT_EQ(static_cast<double>(x), value_of(half(bits)));
    }
    ASSERT_EQ(std::signbit(x), (bits & 0x8000U) != 0);
    ASSERT_EQ(to_f16(x).bits, bits);
  }
}

// Between two neighbours everything below the middle goes down, everything above goes up, and the
// middle goes to the even one.
TEST(F16, RoundsToNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x7C00U; ++bits) {
    const double low = value_of(half(bits));
    const double high = bits == 0x7BFFU ? 65536.0 : value_of(half(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2.0);  // exact: 12 significant bits
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(to_f16(middle).bits, even);
    ASSERT_EQ(to_f16(std::nextafter(middle, 0.0F)).bits, bits);
    ASSERT_EQ(to_f16(std::nextafter(middle, 1e9F)).bits, bits + 1);
    ASSERT_EQ(to_f16(-middle).bits, even | 0x8000U);
  }
  EXPECT_EQ(to_f16(std::numeric_limits<float>::max()).bits, 0x7C00U);
  EXPECT_EQ(to_f16(std::numeric_limits<float>::denorm_min()).bits, 0U);
}

#if defined(__x86_64__)

__attribute__((target("f16c"))) std::uint32_t converted_by_hardware(float x) {
  const __m128i halves = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(halves)) & 0xFFFFU;
}

TEST(F16, AgreesWithTheConversionInstruction) {
  const auto isas = available_isas();
  if (std::find(isas.begin(), isas.end(), Isa::avx2) == isas.end()) {
    GTEST_SKIP() << "this machine has no such instruction";
  }
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32U); bits += 127) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    ASSERT_EQ(to_f16(x).bits, converted_by_hardware(x)) << bits;
  }
}

#endif

TEST(BF16, EveryPatternConvertsExactlyAndBack) {
  for (std::uint32_t bits = 0; bits <= 0xFFFFU; ++bits) {
    const bf16 x{static_cast<std::uint16_t>(bits)};
    ASSERT_EQ(bits_of(to_float(x)), bits << 16U);
    const bool nan = (bits & 0x7FFFU) > 0x7F80U;
    ASSERT_EQ(to_bf16(to_float(x)).bits, nan ? bits | 0x40U : bits);
  }
}

TEST(BF16, RoundsToNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x7F80U; ++bits) {
    const std::uint32_t middle = (bits << 16U) | 0x8000U;
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    const auto rounded = [](std::uint32_t pattern) {
      return to_bf16(std::bit_cast<float>(pattern)).bits;
    };
    ASSERT_EQ(rounded(middle), even);
    ASSERT_EQ(rounded(middle - 1), bits);
    ASSERT_EQ(rounded(middle + 1), bits + 1);
    ASSERT_EQ(rounded(middle | 0x80000000U), even | 0x8000U);
  }
}

TEST(DType, HasNamesAndSizes) {
  EXPECT_EQ(bytes_of(DType::f64), 8);
  EXPECT_EQ(bytes_of(DType::f32), 4);
  EXPECT_EQ(bytes_of(DType::bf16), 2);
  EXPECT_EQ(bytes_of(DType::boolean), 1);
  EXPECT_EQ(to_string(DType::bf16), "bf16");
  EXPECT_EQ(to_string(DType::boolean), "bool");
  EXPECT_TRUE(is_float(DType::f16));
  EXPECT_FALSE(is_float(DType::f64));
  EXPECT_EQ(dtype_of<float>, DType::f32);
  EXPECT_EQ(dtype_of<f16>, DType::f16);
  EXPECT_EQ(dtype_of<bf16>, DType::bf16);
}

}  // namespace
}  // namespace krait::dtype_test
