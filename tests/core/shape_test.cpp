#include "krait/core/shape.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "krait/core/tensor_view.hpp"

namespace krait::shape_test {
namespace {

constexpr Index largest = std::numeric_limits<Index>::max();

TEST(CheckedProduct, RefusesNegativesAndOverflow) {
  EXPECT_EQ(checked_product(0, largest), 0);
  EXPECT_EQ(checked_product(largest, 0), 0);
  EXPECT_EQ(checked_product(1, largest), largest);
  EXPECT_EQ(checked_product(Index{1} << 31U, Index{1} << 31U), Index{1} << 62U);
  EXPECT_FALSE(checked_product(Index{1} << 32U, Index{1} << 31U));
  EXPECT_FALSE(checked_product(2, largest / 2 + 1));
  EXPECT_FALSE(checked_product(-1, 3));
  EXPECT_FALSE(checked_product(3, -1));
}

TEST(Shape, MakeRefusesWhatIsNoShape) {
  EXPECT_FALSE(Shape::make(std::vector<Index>{2, -1}));
  EXPECT_FALSE(Shape::make(std::vector<Index>{Index{1} << 40U, Index{1} << 40U}));
  EXPECT_FALSE(Shape::make(std::vector<Index>(9, 1)));
  const auto shape = Shape::make(std::vector<Index>(8, 2));
  ASSERT_TRUE(shape);
  EXPECT_EQ(shape->rank(), 8);
  EXPECT_EQ(shape->size(), 256);
}

TEST(Shape, HasExtentsSizeAndText) {
  const Shape shape{1536, 16};
  EXPECT_EQ(shape.rank(), 2);
  EXPECT_EQ(shape[0], 1536);
  EXPECT_EQ(shape.size(), 24576);
  EXPECT_EQ(to_string(shape), "[1536,16]");
  EXPECT_EQ(Shape().size(), 1);
  EXPECT_EQ(to_string(Shape()), "[]");
  EXPECT_EQ((Shape{3, 0, 5}).size(), 0);
  EXPECT_EQ(shape, (Shape{1536, 16}));
  EXPECT_NE(shape, (Shape{16, 1536}));
  EXPECT_NE(shape, (Shape{1536}));
}

TEST(MatrixView, FindsRowsAndColumns) {
  std::vector<float> values(12);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const MatrixView<float> view(values.data(), 3, 2, 4);
  EXPECT_EQ(view(2, 1), 9.0F);
  EXPECT_EQ(view.row(1).size(), 2U);
  EXPECT_EQ(view.row(1)[0], 4.0F);
  const MatrixView<const float> rows = view.rows_from(1, 2);
  EXPECT_EQ(rows.rows, 2);
  EXPECT_EQ(rows(0, 0), 4.0F);
  EXPECT_EQ(view.cols_from(1, 1)(2, 0), 9.0F);
}

}  // namespace
}  // namespace krait::shape_test
