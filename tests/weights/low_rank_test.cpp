// Matrices that a checkpoint has as products of two factors.

#include <gtest/gtest.h>

#include <algorithm>

#include "krait/weights/form.hpp"
#include "krait/weights/linear.hpp"
#include "krait/weights/overlay.hpp"
#include "tests/support/byte_form.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/support.hpp"

namespace krait::low_rank_test {
namespace {

using test::random_floats;
using test::same_bits;

constexpr Index out = 37;
constexpr Index in = 75;
constexpr Index rank = 21;

// What binding a matrix gives and says.
struct Bound {
  Bound(const WeightStore& store, const std::string& name, WeightOptions options,
        MatrixShape shape = {out, in}, bool materialize = true)
      : binder(&store, {.weights = std::move(options), .materialize = materialize}) {
    WeightScope scope(binder, "");
    scope = name.ends_with(".u") || name.ends_with(".v") ? scope.factor(name) : scope.scope(name);
    auto result = shape.count
                      ? Linear::bind_stack(scope, bookings, *shape.count, shape.out, shape.in)
                      : [&]() -> Result<std::vector<Linear>> {
      KRAIT_ASSIGN_OR_RETURN(Linear one, Linear::bind(scope, bookings, shape.out, shape.in, false));
      return std::vector<Linear>{one};
    }();
    if (result) linears = std::move(*result);
    if (!result) error = result.error().message;
  }

  std::vector<float> apply(Executor& executor, const std::vector<float>& x, Index tokens,
                           const float* bias = nullptr, std::size_t i = 0) const {
    const Linear linear = linears[i].with_bias(bias);
    std::vector<float> y(static_cast<std::size_t>(tokens * linear.out()));
    AlignedBuffer<float> workspace(bookings.workspace_floats() * tokens);
    linear.apply({.executor = executor, .workspace = workspace.span()},
                 {x.data(), tokens, linear.in()}, {y.data(), tokens, linear.out()});
    return y;
  }

  WeightBinder binder;
  Bookings bookings{1};
  std::vector<Linear> linears;
  std::string error = "none";
};

class LowRankForm : public testing::Test {
 protected:
  LowRankForm() { put({out, rank}, {rank, in}); }

  void put(const Shape& u_shape, const Shape& v_shape) {
    u = random_floats(u_shape.size(), 1);
    v = random_floats(v_shape.size(), 2);
    store.add("P.u", {u.data(), DType::f32, u_shape}, nullptr);
    store.add("P.v", {v.data(), DType::f32, v_shape}, nullptr);
  }

  std::vector<float> u;
  std::vector<float> v;
  WeightStore store;
};

TEST_F(LowRankForm, IsOneProductAfterTheOther) {
  const auto x = random_floats(40 * in, 3);
  const auto bias = random_floats(out, 4);
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  for (const char* form : {"file", "f32", "bf16", "f16", "q8", "q4"}) {
    const Bound whole(store, "P", {.form = form});
    ASSERT_EQ(whole.error, "none") << form;
    const Bound first(store, "P.v", {.form = form}, {rank, in});
    const Bound second(store, "P.u", {.form = form}, {out, rank});
    for (const Index tokens : {1, 2, 5, 8, 40}) {
      const auto expected =
          second.apply(serial, first.apply(serial, x, tokens), tokens, bias.data());
      EXPECT_TRUE(same_bits<float>(expected, whole.apply(serial, x, tokens, bias.data()))) << form;
      EXPECT_TRUE(same_bits<float>(expected, whole.apply(three, x, tokens, bias.data()))) << form;
    }
    EXPECT_EQ(whole.linears[0].matrix().bytes(),
              first.linears[0].matrix().bytes() + second.linears[0].matrix().bytes());
  }
}

TEST_F(LowRankForm, ProductsAreThoseOfTheMatrix) {
  const auto x = random_floats(3 * in, 3);
  SerialExecutor serial;
  const Bound bound(store, "P", {});
  const auto y = bound.apply(serial, x, 3);
  std::vector<float> row(in);
  for (Index i = 0; i < out; ++i) {
    bound.linears[0].row(i, row);
    for (Index c = 0; c < in; ++c) {
      float expected = 0.0F;
      for (Index k = 0; k < rank; ++k) {
        const float product =
            u[static_cast<std::size_t>(i * rank + k)] * v[static_cast<std::size_t>(k * in + c)];
        expected += product;
      }
      EXPECT_EQ(row[static_cast<std::size_t>(c)], expected);
    }
    for (Index t = 0; t < 3; ++t) {
      double sum = 0.0;
      for (Index c = 0; c < in; ++c) {
        sum += static_cast<double>(row[static_cast<std::size_t>(c)]) *
               static_cast<double>(x[static_cast<std::size_t>(t * in + c)]);
      }
      EXPECT_NEAR(static_cast<double>(y[static_cast<std::size_t>(t * out + i)]), sum, 1e-4);
    }
  }
}

TEST_F(LowRankForm, FactorsAreUsedInPlaceAndListed) {
  for (const bool materialize : {true, false}) {
    const Bound bound(store, "P", {}, {out, in}, materialize);
    const auto& uses = bound.binder.uses();
    ASSERT_EQ(uses.size(), 2U);
    EXPECT_EQ(uses[0].name, "P.u");
    EXPECT_EQ(uses[1].path, "P.v");
    EXPECT_EQ(uses[1].shape, (Shape{rank, in}));
    for (const TensorUse& use : uses) {
      EXPECT_EQ(use.role, TensorRole::matrix);
      EXPECT_EQ(use.form, "f32");
      EXPECT_EQ(use.placement, Placement::in_place);
    }
    EXPECT_TRUE(bound.binder.unused().empty());
  }
  const Bound held(store, "P", {.form = "q8"}, {out, in}, false);
  EXPECT_EQ(held.binder.uses()[0].form, "q8");
  EXPECT_EQ(held.binder.uses()[0].placement, Placement::converted);
}

TEST_F(LowRankForm, AStackHasOneMatrixForEach) {
  put({3, out, rank}, {3, rank, in});
  const Bound all(store, "P", {}, {out, in, 3});
  ASSERT_EQ(all.error, "none");
  const auto x = random_floats(2 * in, 3);
  SerialExecutor serial;
  for (std::size_t i = 0; i < 3; ++i) {
    WeightStore one;
    one.add("P.u", {u.data() + i * out * rank, DType::f32, {out, rank}}, nullptr);
    one.add("P.v", {v.data() + i * rank * in, DType::f32, {rank, in}}, nullptr);
    EXPECT_TRUE(same_bits<float>(Bound(one, "P", {}).apply(serial, x, 2),
                                 all.apply(serial, x, 2, nullptr, i)));
  }
}

// The parts of a factor in q8, which the store gets.
void add_coded(WeightStore& store, const std::string& name, const TensorView& floats) {
  const RowForm& form = *find_form("q8")->row_form();
  std::vector<std::byte*> data;
  SerialExecutor serial;
  std::vector<std::pair<std::string, TensorView>> parts;
  for (const WeightPart& part : form.parts(floats.shape[0], floats.shape[1])) {
    auto memory = std::make_shared<AlignedBuffer<std::byte>>(
        TensorView{nullptr, part.dtype, part.shape}.bytes());
    data.push_back(memory->data());
    store.add(name + "." + part.name, {memory->data(), part.dtype, part.shape}, memory);
  }
  EXPECT_FALSE(form.encode(serial, floats, data));
}

TEST_F(LowRankForm, FactorsMayBeCoded) {
  WeightStore coded;
  add_coded(coded, "P.u", store.find("P.u")->tensor);
  add_coded(coded, "P.v", store.find("P.v")->tensor);
  EXPECT_EQ(Bound(coded, "P", {}).error,
            "[build] P.v: expected a factor of a rank from 1 to 37, found none, and no krait.rank "
            "in the metadata");
  for (const char* wrong : {"0", "38", "x", "21 ", "-1", "99999999999999999999"}) {
    coded.metadata["krait.rank:P"] = wrong;
    EXPECT_EQ(Bound(coded, "P", {}).error,
              std::string("[build] P.v: expected a factor of a rank from 1 to 37, found '") +
                  wrong + "' in the metadata");
  }
  coded.metadata["krait.rank:P"] = "21";
  EXPECT_TRUE(has_parts(coded, "P"));
  const auto x = random_floats(4 * in, 3);
  SerialExecutor serial;
  const auto expected = Bound(store, "P", {.form = "q8"}).apply(serial, x, 4);
  EXPECT_TRUE(same_bits<float>(expected, Bound(coded, "P", {}).apply(serial, x, 4)));
  for (const char* form : {"q8", "low-rank"}) {
    coded.metadata["krait.form:P"] = form;
    EXPECT_TRUE(same_bits<float>(expected, Bound(coded, "P", {}).apply(serial, x, 4)));
  }
  // A form that nobody knows may have parts of any name.
  coded.metadata["krait.form:P"] = "novel";
  EXPECT_EQ(Bound(coded, "P", {}).error.find("[build] P.weight: expected a matrix in one of"), 0U)
      << Bound(coded, "P", {}).error;
  // Another matrix takes the place of all of it.
  const auto W = random_floats(out * in, 5);
  replace_matrix(coded, "P", "f32", {{"weight", {W.data(), DType::f32, {out, in}}}}, nullptr);
  EXPECT_EQ(coded.size(), 1U);
  EXPECT_EQ(Bound(coded, "P", {}).error, "none");
}

TEST_F(LowRankForm, FactorsThatDoNotFitAreNamed) {
  const auto error = [&](const Shape& u_shape, const Shape& v_shape) {
    put(u_shape, v_shape);
    return Bound(store, "P", {}).error;
  };
  const std::string ranks = "[build] P.v: expected a factor of a rank from 1 to 37, found ";
  EXPECT_EQ(error({out, 0}, {0, in}), ranks + "[0,75]");
  EXPECT_EQ(error({out, 38}, {38, in}), ranks + "[38,75]");
  EXPECT_EQ(error({out, rank}, {rank * in}), ranks + "[1575]");
  EXPECT_EQ(error({out, rank}, {rank, in + 1}), "[build] P.v: expected [21,75], found f32 [21,76]");
  EXPECT_EQ(error({out, rank + 1}, {rank, in}), "[build] P.u: expected [37,21], found f32 [37,22]");
  put({out, rank}, {rank, in});
  store.remove("P.u");
  EXPECT_EQ(Bound(store, "P", {}).error, "[build] P.u: expected a tensor [37,21], found none");
  put({out, rank}, {rank, in});
  store.remove("P.v");
  EXPECT_EQ(Bound(store, "P", {}).error, ranks + "none, and no krait.rank in the metadata");
}

TEST_F(LowRankForm, FormsOfApplicationsHoldFactorsToo) {
  const WeightOptions options{.form = "bytes",
                              .forms = {std::make_shared<test::ByteForm>("bytes")}};
  const Bound bound(store, "P", options);
  ASSERT_EQ(bound.error, "none");
  EXPECT_EQ(bound.binder.uses()[1].form, "bytes");
}

}  // namespace
}  // namespace krait::low_rank_test
