#include "krait/tools/machine.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "krait/core/thread_pool.hpp"

namespace krait::machine_test {
namespace {

TEST(MachineMemory, HoldsWhatWasAskedFor) {
  for (const MemoryKind kind : {MemoryKind::file, MemoryKind::huge_pages}) {
    const MachineMemory memory = MachineMemory::create(kind, Index{3} << 20).value();
    ASSERT_EQ(memory.size(), Index{3} << 20);
    // Every page is there, and rows of a matrix in it differ.
    EXPECT_NE(std::memcmp(memory.data(), memory.data() + 4096, 4096), 0);
    std::uint32_t all = 0;
    for (Index i = 0; i < memory.size(); i += 4096)
      all |= std::to_integer<unsigned>(memory.data()[i]);
    EXPECT_NE(all, 0U);
  }
}

TEST(MachineMemory, MovesWithItsBytes) {
  MachineMemory first = MachineMemory::create(MemoryKind::file, 1 << 20).value();
  const std::byte* data = first.data();
  MachineMemory second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(first.data(), nullptr);  // NOLINT: what is left is empty
  EXPECT_EQ(first.size(), 0);
  MachineMemory third = MachineMemory::create(MemoryKind::huge_pages, 1 << 20).value();
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
}

TEST(MachineMemory, RefusesSizesThatAreNone) {
  for (const Index bytes : {Index{0}, Index{-1}, Index{1}, Index{255}}) {
    const auto made = MachineMemory::create(MemoryKind::file, bytes);
    ASSERT_FALSE(made) << bytes;
    EXPECT_EQ(made.error().code, ErrorCode::bad_argument);
    EXPECT_EQ(made.error().message,
              "[machine] memory: expected at least 256 bytes, found " + std::to_string(bytes));
  }
  const auto made = MachineMemory::create(MemoryKind::huge_pages, Index{1} << 60);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::no_memory);
}

TEST(Machine, ReadsSomethingPerSecond) {
  EXPECT_GE(last_level_cache_bytes(), Index{64} << 10);
  const MachineMemory memory = MachineMemory::create(MemoryKind::file, Index{4} << 20).value();
  SerialExecutor serial;
  ThreadPool threads(3);
  for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&threads)}) {
    const double speed = read_bandwidth(memory, *executor, 2);
    EXPECT_GT(speed, 0.01);
    EXPECT_LT(speed, 1e5);
  }
}

TEST(Machine, MultipliesAtTheLevelsItHas) {
  SerialExecutor serial;
  for (const Isa isa : available_isas()) {
    const bool has_fma = isa == Isa::neon || isa >= Isa::avx2;
    const auto peak = [&](double value, bool expected) {
      if (expected) {
        EXPECT_GT(value, 0.1) << to_string(isa);
        EXPECT_LT(value, 1e5) << to_string(isa);
      } else {
        EXPECT_EQ(value, 0.0) << to_string(isa);
      }
    };
    peak(fma_peak(isa, serial, 1), has_fma);
    peak(bf16_peak(isa, serial, 1), isa >= Isa::avx512_bf16);
    peak(int8_peak(isa, serial, 1), isa >= Isa::avx512_vnni);
  }
}

}  // namespace
}  // namespace krait::machine_test
