#include "krait/core/metadata.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace krait::metadata_test {
namespace {

TEST(Metadata, GivesItsValueAsWhatItIsOnly) {
  EXPECT_TRUE(Metadata().is_null());
  EXPECT_EQ(Metadata(true).boolean(), true);
  EXPECT_FALSE(Metadata(1).boolean());
  EXPECT_EQ(Metadata(std::string("a")).number(), std::nullopt);
  EXPECT_EQ(*Metadata(std::string("a")).text(), "a");
  EXPECT_TRUE(Metadata(std::string("a")).is("a"));
  EXPECT_FALSE(Metadata().is(""));
  EXPECT_EQ(Metadata(2.5).text(), nullptr);
  EXPECT_EQ(Metadata(2.5).array(), nullptr);
  EXPECT_EQ(Metadata(2.5).object(), nullptr);
}

TEST(Metadata, NumbersKnowWhetherTheyAreWhole) {
  constexpr auto largest = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(Metadata(7).whole(), 7U);
  EXPECT_EQ(Metadata(-7).whole(), std::nullopt);
  EXPECT_EQ(Metadata(-7).integer(), -7);
  EXPECT_EQ(Metadata(largest).whole(), largest);
  EXPECT_EQ(Metadata(largest).integer(), std::nullopt);
  EXPECT_EQ(Metadata(2.0).whole(), std::nullopt);
  EXPECT_EQ(Metadata(2.0).integer(), std::nullopt);
  for (const Metadata& value : {Metadata(-7), Metadata(largest), Metadata(2.0)}) {
    EXPECT_TRUE(value.number());
  }
  EXPECT_EQ(Metadata(7), Metadata(std::uint64_t{7}));
}

TEST(Metadata, WhatIsNotThereIsNull) {
  const Metadata value(Metadata::Object{{"list", Metadata::Array{1, 2}}, {"none", {}}});
  EXPECT_EQ(value.size(), 2U);
  EXPECT_EQ(value["list"].size(), 2U);
  EXPECT_EQ(value["list"][1].whole(), 2U);
  EXPECT_TRUE(value["list"][2].is_null());
  EXPECT_TRUE(value["list"]["a"].is_null());
  EXPECT_TRUE(value["none"].is_null());
  EXPECT_TRUE(value["other"]["below"][3].is_null());
  EXPECT_TRUE(value[0].is_null());
  EXPECT_EQ(Metadata(1).size(), 0U);
}

TEST(Metadata, IsComparedAndCopiedAsAWhole) {
  const Metadata value(Metadata::Object{{"a", Metadata::Array{1, 2.5, std::string("x")}}});
  Metadata copy = value;
  EXPECT_EQ(copy, value);
  (*(*copy.object())[0].value.array())[0] = 2;
  EXPECT_NE(copy, value);
}

}  // namespace
}  // namespace krait::metadata_test
