// Matrices with adapters of low rank.

#include "krait/weights/adapter.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/weights/form.hpp"
#include "krait/weights/overlay.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/support.hpp"

namespace krait::adapter_test {
namespace {

using test::random_floats;
using test::same_bits;

constexpr Index out = 1100;  // more than one block of outputs
constexpr Index in = 75;
constexpr Index rank = 5;
constexpr float scale = 0.7F;

class Adapter : public testing::Test {
 protected:
  Adapter() {
    plain.add("P.weight", {W.data(), DType::f32, {out, in}}, nullptr);
    store = plain;
    attach_adapter(store, "P", {A.data(), DType::f32, {rank, in}},
                   {B.data(), DType::f32, {out, rank}}, scale, nullptr);
  }

  struct Bound {
    WeightBinder binder;
    Bookings bookings{1};
    Result<Linear> linear;

    Bound(const WeightStore& weights, const WeightOptions& options = {}, bool materialize = true)
        : binder(&weights, {.weights = options, .materialize = materialize}),
          linear(Linear::bind(WeightScope(binder, "").scope("P"), bookings, out, in, false)) {}

    std::vector<float> apply(Executor& executor, const std::vector<float>& x, Index tokens,
                             const float* bias) const {
      std::vector<float> y(static_cast<std::size_t>(tokens * out));
      AlignedBuffer<float> workspace(bookings.workspace_floats() * tokens);
      linear->with_bias(bias).apply({.executor = executor, .workspace = workspace.span()},
                                    {x.data(), tokens, in}, {y.data(), tokens, out});
      return y;
    }
  };

  // y = x Mᵀ of floats alone, by the same kernels.
  static std::vector<float> product(const std::vector<float>& M, Index rows, Index cols,
                                    const std::vector<float>& x, Index tokens) {
    Bookings bookings(1);
    const Linear linear({M.data(), DType::f32, rows, cols}, nullptr, bookings);
    std::vector<float> y(static_cast<std::size_t>(tokens * rows));
    AlignedBuffer<float> workspace(bookings.workspace_floats() * tokens);
    SerialExecutor serial;
    linear.apply({.executor = serial, .workspace = workspace.span()}, {x.data(), tokens, cols},
                 {y.data(), tokens, rows});
    return y;
  }

  std::vector<float> W = random_floats(out * in, 1);
  std::vector<float> A = random_floats(rank * in, 2);
  std::vector<float> B = random_floats(out * rank, 3);
  WeightStore plain, store;
};

TEST_F(Adapter, AddsTwoProductsToThatOfTheMatrix) {
  const auto x = random_floats(9 * in, 4);
  const auto bias = random_floats(out, 5);
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  for (const char* form : {"file", "bf16", "q8", "q4"}) {
    const Bound base(plain, {.form = form});
    const Bound adapted(store, {.form = form});
    ASSERT_TRUE(adapted.linear.has_value()) << adapted.linear.error().message;
    for (const Index tokens : {1, 2, 9}) {
      std::vector<float> t = product(A, rank, in, x, tokens);
      for (float& value : t) value *= scale;
      const std::vector<float> u = product(B, out, rank, t, tokens);
      std::vector<float> expected = base.apply(serial, x, tokens, bias.data());
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += u[i];
      test::for_each_isa([&](Isa) {
        EXPECT_TRUE(same_bits<float>(expected, adapted.apply(serial, x, tokens, bias.data())))
            << form << tokens;
      });
      EXPECT_TRUE(same_bits<float>(expected, adapted.apply(three, x, tokens, bias.data())));
    }
  }
}

TEST_F(Adapter, RowsAreThoseOfTheSum) {
  const Bound adapted(store);
  std::vector<float> row(in);
  for (const Index r : {0, 700, 1099}) {
    adapted.linear->row(r, row);
    for (Index c = 0; c < in; ++c) {
      double expected = double(W[static_cast<std::size_t>(r * in + c)]);
      for (Index k = 0; k < rank; ++k) {
        expected += double(scale) * double(B[static_cast<std::size_t>(r * rank + k)]) *
                    double(A[static_cast<std::size_t>(k * in + c)]);
      }
      EXPECT_NEAR(double(row[static_cast<std::size_t>(c)]), expected, 1e-6);
    }
  }
}

TEST_F(Adapter, IsInPlaceAndCanBeTakenOff) {
  const Bound adapted(store);
  const auto found = adapter_of(*adapted.linear);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->A, A.data());
  EXPECT_EQ(found->B, B.data());
  EXPECT_EQ(found->rank, rank);
  EXPECT_EQ(found->scale, scale);
  EXPECT_TRUE(adapted.binder.unused().empty());
  EXPECT_FALSE(adapter_of(without_adapter(*adapted.linear)).has_value());
  EXPECT_FALSE(adapter_of(*Bound(plain).linear).has_value());
  const Bound planned(store, {}, false);
  EXPECT_TRUE(planned.linear.has_value());
  EXPECT_EQ(planned.bookings.workspace_floats(), adapted.bookings.workspace_floats());
}

TEST_F(Adapter, StaysWhereTheMatrixIsReplaced) {
  const auto other = random_floats(out * in, 8);
  replace_matrix(store, "P", "f32", {{"weight", {other.data(), DType::f32, {out, in}}}}, nullptr);
  EXPECT_TRUE(adapter_of(*Bound(store).linear).has_value());
}

TEST_F(Adapter, OfAStackIsOneForEach) {
  constexpr Index count = 3;
  constexpr Index rows = out / count - 1;
  WeightStore stack;
  stack.add("P.weight", {W.data(), DType::f32, {count, rows, in}}, nullptr);
  const auto all_A = random_floats(count * rank * in, 6);
  attach_adapter(stack, "P", {all_A.data(), DType::f32, {count, rank, in}},
                 {B.data(), DType::f32, {count, rows, rank}}, scale, nullptr);
  WeightBinder binder(&stack, {});
  Bookings bookings(1);
  const auto all =
      Linear::bind_stack(WeightScope(binder, "").scope("P"), bookings, count, rows, in).value();
  for (Index i = 0; i < count; ++i) {
    const auto found = adapter_of(all[static_cast<std::size_t>(i)]);
    EXPECT_EQ(found->A, all_A.data() + i * rank * in);
    EXPECT_EQ(found->B, B.data() + i * rows * rank);
  }
}

TEST_F(Adapter, OfOtherSizesIsRefused) {
  const auto message = [&](const Shape& of_A, const Shape& of_B, float s) {
    WeightStore bad = plain;
    attach_adapter(bad, "P", {A.data(), DType::f32, of_A}, {B.data(), DType::f32, of_B}, s,
                   nullptr);
    const Bound bound(bad);
    return bound.linear ? "none" : bound.linear.error().message;
  };
  EXPECT_EQ(message({rank, in - 1}, {out, rank}, 1.0F),
            "[build] P.lora_A: expected [5,75], found f32 [5,74]");
  EXPECT_EQ(message({rank, in}, {out, rank - 1}, 1.0F),
            "[build] P.lora_B: expected [1100,5], found f32 [1100,4]");
  EXPECT_EQ(message({in}, {out, rank}, 1.0F),
            "[build] P.lora_A: expected a factor of a rank above 0, found [75]");
  EXPECT_EQ(message({rank, in}, {out, rank}, INFINITY),
            "[build] P.lora_scale: expected a finite number, found inf");
}

}  // namespace
}  // namespace krait::adapter_test
