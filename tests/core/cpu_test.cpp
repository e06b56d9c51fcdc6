#include "krait/core/cpu.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace krait::cpu_test {
namespace {

TEST(Cpu, EveryNameParsesBack) {
  for (int i = 0; i < isa_count; ++i) {
    const Isa isa = static_cast<Isa>(i);
    const auto parsed = parse_isa(to_string(isa));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(*parsed, isa);
  }
}

TEST(Cpu, UnknownNamesAreErrorsThatListTheKnownOnes) {
  for (const char* name : {"", "AVX2", "avx", "avx512 "}) {
    const auto parsed = parse_isa(name);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code, ErrorCode::bad_argument);
    EXPECT_NE(parsed.error().message.find("scalar, neon, sse4, avx2"), std::string::npos);
  }
}

TEST(Cpu, TheListBeginsWithScalarAndForcingWorks) {
  const auto isas = available_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::scalar);
  const Isa before = active_isa();
  for (const Isa isa : isas) {
    ASSERT_TRUE(force_isa(isa));
    EXPECT_EQ(active_isa(), isa);
  }
  ASSERT_TRUE(force_isa(before));
}

TEST(Cpu, ForcingAnAbsentLevelFailsAndChangesNothing) {
  const auto isas = available_isas();
  const Isa before = active_isa();
  int absent = 0;
  for (int i = 0; i < isa_count; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (std::find(isas.begin(), isas.end(), isa) != isas.end()) continue;
    ++absent;
    const auto status = force_isa(isa);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::unsupported);
    EXPECT_NE(status.error().message.find(to_string(isa)), std::string::npos);
    EXPECT_EQ(active_isa(), before);
  }
  EXPECT_GT(absent, 0);  // no machine has both x86 levels and NEON
}

}  // namespace
}  // namespace krait::cpu_test
