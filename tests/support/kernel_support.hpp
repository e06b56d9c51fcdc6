#pragma once

/// \file
/// What the kernel tests share.

#include <gtest/gtest.h>

#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/cpu.hpp"
#include "krait/kernels/matmul_panels.hpp"
#include "tests/support/support.hpp"

namespace krait::test {

/// Puts back the instruction set that was active when it was made.
class IsaGuard {
 public:
  IsaGuard() = default;
  ~IsaGuard() { EXPECT_TRUE(force_isa(before_)); }
  IsaGuard(const IsaGuard&) = delete;
  IsaGuard& operator=(const IsaGuard&) = delete;

 private:
  Isa before_ = active_isa();
};

/// Calls body(isa) with each instruction set of this machine forced, then restores the former one.
template <class Body>
void for_each_isa(Body body) {
  const IsaGuard guard;
  for (const Isa isa : available_isas()) {
    SCOPED_TRACE(std::string("instruction set ") + std::string(to_string(isa)));
    ASSERT_TRUE(force_isa(isa));
    ASSERT_EQ(active_isa(), isa);
    body(isa);
  }
}

/// make() under an instruction set whose kernels need the most working memory, if the machine has
/// one: a model whose sessions reach every path of every instruction set that is forced later.
template <class Make>
auto with_memory_for_every_isa(Make make) {
  const IsaGuard guard;
  for (const Isa isa : available_isas()) {
    EXPECT_TRUE(force_isa(isa));
    if (kernels::panels_pay(1 << 20, DType::f32)) break;
  }
  return make();
}

/// Calls body(rows, tokens, cols) for 1 to 8 rows and tokens and every rest of 32 columns behind
/// one whole group: each register tile with each tail, which is where a compiler that gets one
/// instance of a template wrong shows.
template <class Body>
void for_each_tile_and_rest(Body body) {
  for (Index rows = 1; rows <= 8; ++rows) {
    for (Index tokens = 1; tokens <= 8; ++tokens) {
      for (Index cols = 32; cols < 64; ++cols) {
        body(rows, tokens, cols);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

/// Values that start `offset` elements after a 64-byte boundary, with nothing readable in between
/// that a sanitizer would not notice: the block ends with the last value.
template <class T>
class Misaligned {
 public:
  Misaligned(const std::vector<T>& values, Index offset)
      : block_(static_cast<Index>(values.size()) + offset), offset_(offset) {
    for (std::size_t i = 0; i < values.size(); ++i) data()[i] = values[i];
  }
  T* data() { return block_.data() + offset_; }
  std::span<const T> span() { return {data(), static_cast<std::size_t>(block_.size() - offset_)}; }

 private:
  AlignedBuffer<T> block_;
  Index offset_;
};

template <class T>
Misaligned<T> misaligned(const std::vector<T>& values, Index offset) {
  return {values, offset};
}

}  // namespace krait::test
