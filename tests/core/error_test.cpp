#include "krait/core/error.hpp"

#include <gtest/gtest.h>

#include <memory>

namespace krait::error_test {
namespace {

Result<int> half_of(int x) {
  if (x % 2 != 0) return Error{ErrorCode::bad_argument, "[test] x: expected even"};
  return x / 2;
}

Result<int> quarter_of(int x) {
  KRAIT_ASSIGN_OR_RETURN(const int half, half_of(x));
  KRAIT_RETURN_IF_ERROR(half_of(half));
  return half / 2;
}

Result<void> check_even(int x) {
  KRAIT_RETURN_IF_ERROR(half_of(x));
  return {};
}

TEST(Result, HoldsAValueOrAnError) {
  const auto good = half_of(6);
  ASSERT_TRUE(good);
  EXPECT_TRUE(good.has_value());
  EXPECT_EQ(*good, 3);
  EXPECT_EQ(good.value(), 3);
  const auto bad = half_of(7);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::bad_argument);
  EXPECT_EQ(half_of(7).value_or(-1), -1);
  EXPECT_EQ(half_of(8).value_or(-1), 4);
}

TEST(Result, ValueThrowsTheError) {
  const auto bad = half_of(7);
  try {
    static_cast<void>(bad.value());
    FAIL() << "nothing was thrown";
  } catch (const Exception& exception) {
    EXPECT_EQ(exception.error(), bad.error());
    EXPECT_STREQ(exception.what(), "[test] x: expected even");
  }
  EXPECT_THROW(check_even(3).value(), Exception);
  EXPECT_NO_THROW(check_even(4).value());
}

TEST(Result, MacrosPassErrorsOn) {
  EXPECT_EQ(*quarter_of(8), 2);
  EXPECT_FALSE(quarter_of(6));
  EXPECT_FALSE(quarter_of(5));
  EXPECT_TRUE(check_even(2));
  EXPECT_EQ(check_even(3).error().message, "[test] x: expected even");
}

TEST(Result, MovesWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(5));
  const std::unique_ptr<int> value = *std::move(result);
  EXPECT_EQ(*value, 5);
}

TEST(Error, EveryCodeHasAName) {
  EXPECT_EQ(to_string(ErrorCode::not_found), "not_found");
  for (int code = static_cast<int>(ErrorCode::not_found);
       code <= static_cast<int>(ErrorCode::no_memory); ++code) {
    EXPECT_NE(to_string(static_cast<ErrorCode>(code)), "unknown");
  }
}

struct Marker {
  std::string message;
};

TEST(Contract, TheHandlerHearsOfBreaches) {
  EXPECT_NO_THROW(check_contract(true, "never"));
  EXPECT_THROW(check_contract(false, "broken"), ContractError);
  const ContractHandler before =
      set_contract_handler([](std::string_view message) { throw Marker{std::string(message)}; });
  try {
    check_contract(false, "told");
    FAIL() << "the handler was not called";
  } catch (const Marker& marker) {
    EXPECT_EQ(marker.message, "told");
  }
  EXPECT_NE(set_contract_handler(nullptr), before);
  EXPECT_THROW(check_contract(false, "broken"), ContractError);
}

TEST(ContractDeathTest, AHandlerThatReturnsEndsTheProgram) {
  EXPECT_DEATH(
      {
        set_contract_handler([](std::string_view) {});
        check_contract(false, "ignored");
      },
      "");
}

}  // namespace
}  // namespace krait::error_test
