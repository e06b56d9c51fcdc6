#include "krait/core/scratch.hpp"

#include <gtest/gtest.h>

#include <cstdint>

namespace krait::scratch_test {
namespace {

TEST(ScratchLayout, RoundsUpAndRemembersThePeak) {
  ScratchLayout layout;
  const ScratchSlot kept = layout.book(20);
  EXPECT_EQ(kept.offset, 0);
  EXPECT_EQ(kept.floats_per_token, 32);
  const Index mark = layout.mark();
  const ScratchSlot first = layout.book(100);
  EXPECT_EQ(first.offset, 32);
  layout.release_to(mark);
  const ScratchSlot second = layout.book(16);
  EXPECT_EQ(second.offset, first.offset);  // one block after another: the same memory
  EXPECT_EQ(layout.floats_per_token(), 32 + 112);
}

TEST(Scratch, GrantsAlignedSlotsThatDoNotOverlap) {
  ScratchLayout layout;
  const ScratchSlot a = layout.book(3);
  const ScratchSlot b = layout.book(17);
  const ScratchSlot nothing = layout.book(0);
  for (const Index tokens : {1, 2, 5}) {
    Scratch scratch(layout, tokens);
    EXPECT_EQ(scratch.max_tokens(), tokens);
    EXPECT_EQ(scratch.bytes(), static_cast<std::size_t>(48 * tokens) * sizeof(float));
    const auto x = scratch.grant(a);
    const auto y = scratch.grant(b);
    EXPECT_EQ(x.size(), static_cast<std::size_t>(16 * tokens));
    EXPECT_EQ(y.size(), static_cast<std::size_t>(32 * tokens));
    EXPECT_EQ(x.data() + x.size(), y.data());
    EXPECT_TRUE(scratch.grant(nothing).empty());
    for (const float* p : {x.data(), y.data()}) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % alignment, 0U);
    }
  }
}

TEST(AlignedBuffer, IsZeroedAlignedAndCopiesDeeply) {
  AlignedBuffer<float> a(100);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % alignment, 0U);
  for (const float value : a.span()) ASSERT_EQ(value, 0.0F);
  a[3] = 2.0F;
  AlignedBuffer<float> b = a;
  b[3] = 5.0F;
  EXPECT_EQ(a[3], 2.0F);
  const AlignedBuffer<float> c = std::move(b);
  EXPECT_EQ(c[3], 5.0F);
  a = c;
  EXPECT_EQ(a[3], 5.0F);
  const AlignedBuffer<float> empty(0);
  EXPECT_EQ(empty.data(), nullptr);
  EXPECT_EQ(AlignedBuffer<float>(empty).size(), 0);
}

}  // namespace
}  // namespace krait::scratch_test
