#include "krait/core/function.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace krait::function_test {
namespace {

int twice(int x) { return 2 * x; }

TEST(Function, CallsLambdasFunctionsAndOtherOwners) {
  int three = 3;
  EXPECT_EQ(Function<int(int)>([three](int x) { return three * x; })(5), 15);
  EXPECT_EQ(Function<int(int)>(twice)(5), 10);
  EXPECT_EQ(Function<int(int)>(&twice)(5), 10);
  EXPECT_EQ(Function<int(int)>(std::function<int(int)>(twice))(5), 10);
  EXPECT_EQ(Function<double(int)>(Function<int(int)>(twice))(5), 10.0);
  Function<void(int)> ignores = twice;  // whose result nobody asked for
  ignores(5);
}

TEST(Function, IsEmptyWhereThereIsNothingToCall) {
  EXPECT_FALSE((Function<int(int)>()));
  EXPECT_FALSE((Function<int(int)>(nullptr)));
  EXPECT_TRUE(Function<int(int)>() == nullptr);
  EXPECT_TRUE(Function<int(int)>(twice) != nullptr);
  EXPECT_FALSE((Function<int(int)>(static_cast<int (*)(int)>(nullptr))));
  EXPECT_FALSE((Function<int(int)>(std::function<int(int)>())));
  EXPECT_FALSE((Function<double(int)>(Function<int(int)>())));
  Function<int(int)> function = twice;
  EXPECT_TRUE(function);
  const Function<int(int)> moved = std::move(function);
  EXPECT_TRUE(moved);
  function = nullptr;
  EXPECT_FALSE(function);
  EXPECT_FALSE((Function<int(int)>(function)));
}

TEST(Function, OwnsWhatItCalls) {
  auto shared = std::make_shared<int>(7);
  const std::weak_ptr<int> watch = shared;
  {
    Function<int()> function = [shared] { return *shared; };
    shared.reset();
    const Function<int()> copy = function;
    function = {};
    EXPECT_EQ(copy(), 7);
    EXPECT_EQ(watch.use_count(), 1);
  }
  EXPECT_TRUE(watch.expired());
}

TEST(Function, CopiesAreIndependent) {
  const Function<int()> first = [count = 0]() mutable { return ++count; };
  EXPECT_EQ(first(), 1);
  Function<int()> second = first;
  EXPECT_EQ(second(), 2);
  EXPECT_EQ(second(), 3);
  EXPECT_EQ(first(), 2);
  second = first;
  EXPECT_EQ(second(), 3);
  second = *&second;
  EXPECT_EQ(second(), 4);
}

TEST(Function, PassesReferencesAndMoveOnlyArgumentsOn) {
  int value = 1;
  const Function<void(int&)> increment = [](int& x) { ++x; };
  increment(value);
  EXPECT_EQ(value, 2);
  const Function<int(std::unique_ptr<int>)> take = [](std::unique_ptr<int> x) { return *x; };
  EXPECT_EQ(take(std::make_unique<int>(9)), 9);
  const Function<int&()> same = [&value]() -> int& { return value; };
  EXPECT_EQ(&same(), &value);
}

TEST(Function, TakesOnlyCopyableCallablesOfItsSignature) {
  const auto move_only = [p = std::make_unique<int>(1)] { return *p; };
  static_assert(!std::is_constructible_v<Function<int()>, decltype(move_only)>);
  static_assert(!std::is_constructible_v<Function<int(int)>, int (*)(std::string)>);
  static_assert(!std::is_constructible_v<Function<std::string()>, int (*)()>);
  static_assert(std::is_nothrow_move_constructible_v<Function<int()>>);
  static_assert(std::is_nothrow_move_assignable_v<Function<int()>>);
  static_assert(!std::is_nothrow_copy_assignable_v<Function<int()>>);
  EXPECT_EQ(move_only(), 1);
}

TEST(Function, LetsExceptionsThrough) {
  const Function<void()> fails = [] { throw std::runtime_error("stop"); };
  EXPECT_THROW(fails(), std::runtime_error);
}

}  // namespace
}  // namespace krait::function_test
