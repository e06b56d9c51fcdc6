// Linear by itself: every form of weights gives the bits of its scalar model, however many tokens
// come at a time and however many threads share them.

#include "krait/weights/linear.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <typeinfo>

#include "krait/core/thread_pool.hpp"
#include "krait/kernels/ref/matmul.hpp"
#include "krait/kernels/ref/matmul_bf16.hpp"
#include "krait/kernels/ref/matmul_grouped.hpp"
#include "krait/kernels/ref/quant.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/form_names.hpp"
#include "tests/support/grouped.hpp"
#include "tests/support/weights.hpp"

namespace krait::linear_test {
namespace {

using kernels::GroupedForm;
using test::for_each_isa;
using test::random_floats;
using test::same_bits;
using test::StoredMatrix;

constexpr Index max_tokens = 64;
constexpr Index x_padding = 5;  // floats between the rows of x
constexpr Index y_padding = 3;
constexpr float untouched = -77.0F;

struct Form {
  const char* name;
  DType stored;
  std::string_view form = "file";
  Compute compute = Compute::f32;

  bool is_grouped() const { return form == "q8" || form == "q4"; }
  GroupedForm grouped() const { return form == "q8" ? GroupedForm::q8 : GroupedForm::q4; }
  DType held() const {
    return form == "f32"    ? DType::f32
           : form == "f16"  ? DType::f16
           : form == "bf16" ? DType::bf16
                            : stored;
  }
  WeightOptions options(Executor* executor = nullptr) const {
    return {.form = std::string(form), .compute = compute, .executor = executor};
  }
};

constexpr Form forms[] = {
    {"f32", DType::f32},
    {"f16", DType::f16},
    {"bf16", DType::bf16},
    {"bf16_in_bf16", DType::bf16, "file", Compute::bf16},
    {"f32_as_f16", DType::f32, "f16"},
    {"f32_as_bf16_in_bf16", DType::f32, "bf16", Compute::bf16},
    {"bf16_as_f32", DType::bf16, "f32"},
    {"q8", DType::f32, "q8"},
    {"q4", DType::f32, "q4"},
    {"bf16_as_q8", DType::bf16, "q8"},
};

void PrintTo(const Form& form, std::ostream* stream) { *stream << form.name; }

// The numbers that a matrix of that type holds.
std::vector<float> rounded(DType dtype, std::vector<float> values) {
  for (float& value : values) {
    if (dtype == DType::f16) value = to_float(to_f16(value));
    if (dtype == DType::bf16) value = to_float(to_bf16(value));
  }
  return values;
}

// A checkpoint with "p.weight" [out, in], or a stack of `count` of them, and "p.bias", bound.
class Bound {
 public:
  Bound(const Form& form, Index out, Index in, Index count = 1, Executor* executor = nullptr)
      : values_(rounded(form.stored, random_floats(count * out * in, 1))),
        bias_(random_floats(out, 2)),
        weight_(form.stored, values_, count * out, in),
        binder_(&store_, {.weights = form.options(executor)}) {
    const void* data = weight_.view().data;
    const bool is_stack = count > 1;
    store_.add("p.weight", {data, form.stored, is_stack ? Shape{count, out, in} : Shape{out, in}},
               nullptr);
    store_.add("p.bias", {bias_.data(), DType::f32, {out}}, nullptr);
    const WeightScope scope = WeightScope(binder_, "").scope("p");
    if (is_stack) {
      stack_ = Linear::bind_stack(scope, bookings_, count, out, in).value();
    } else {
      stack_.push_back(Linear::bind(scope, bookings_, out, in, false).value());
    }
  }

  const Linear& linear(Index i = 0) const { return stack_[static_cast<std::size_t>(i)]; }
  const Bookings& bookings() const { return bookings_; }
  const WeightBinder& binder() const { return binder_; }
  const std::vector<float>& values() const { return values_; }
  const std::vector<float>& bias() const { return bias_; }

 private:
  std::vector<float> values_;
  std::vector<float> bias_;
  StoredMatrix weight_;
  WeightStore store_;
  WeightBinder binder_;
  Bookings bookings_{1};
  std::vector<Linear> stack_;
};

// The activations of all tests: `max_tokens` rows that lie `x_padding` apart.
class Input {
 public:
  explicit Input(Index in) : in_(in), values_(random_floats(max_tokens * (in + x_padding), 3)) {}
  MatrixView<const float> rows(Index first, Index count) const {
    return MatrixView<const float>(values_.data(), max_tokens, in_, in_ + x_padding)
        .rows_from(first, count);
  }

 private:
  Index in_;
  std::vector<float> values_;
};

// What the scalar models make of `values` [out, in] and all of x, with rows `y_padding` apart.
std::vector<float> model(const Form& form, const std::vector<float>& values, Index out,
                         MatrixView<const float> x, const float* bias) {
  std::vector<float> y(static_cast<std::size_t>(x.rows * (out + y_padding)), untouched);
  const MatrixView<float> view(y.data(), x.rows, out, out + y_padding);
  if (form.is_grouped()) {
    const test::GroupedMatrix W(form.grouped(), values, out, x.cols);
    AlignedBuffer<float> memory(x.rows * kernels::Int8Activations::floats_per_token(x.cols));
    const kernels::Int8Activations a(memory.data(), x.rows, x.cols);
    ref::quantize_activations(x, {0, x.rows}, a);
    ref::matmul_grouped({.W = W.view(), .x = a, .bias = bias, .y = view, .outputs = {0, out}});
    return y;
  }
  StoredMatrix W(form.held(), values, out, x.cols);
  if (form.compute == Compute::bf16) {
    AlignedBuffer<float> memory(x.rows * kernels::Bf16Activations::floats_per_token(x.cols));
    const kernels::Bf16Activations a(memory.data(), x.cols);
    ref::round_activations(x, {0, x.rows}, a);
    ref::matmul_bf16({.W = W.view(), .x = a, .bias = bias, .y = view, .outputs = {0, out}});
  } else {
    ref::matmul({.W = W.view(), .x = x, .bias = bias, .y = view, .outputs = {0, out}});
  }
  return y;
}

// Linear's result for x, with exactly the memory that was booked for so many tokens.
std::vector<float> apply(const Linear& linear, Index workspace_per_token, Executor& executor,
                         MatrixView<const float> x) {
  AlignedBuffer<float> workspace(workspace_per_token * x.rows);
  const ProductContext ctx{.executor = executor, .workspace = workspace.span()};
  const Index stride = linear.out() + y_padding;
  std::vector<float> y(static_cast<std::size_t>(x.rows * stride), untouched);
  linear.apply(ctx, x, {y.data(), x.rows, linear.out(), stride});
  return y;
}

class LinearForm : public testing::TestWithParam<Form> {};
INSTANTIATE_TEST_SUITE_P(Forms, LinearForm, testing::ValuesIn(forms),
                         [](const auto& test) { return std::string(test.param.name); });

struct Size {
  Index out;
  Index in;
};

// One of one; odd ones; a narrow one of long rows; many rows, of which no width takes even parts.
constexpr Size sizes[] = {{1, 1}, {7, 33}, {48, 80}, {5, 300}, {131, 257}, {261, 16}};
constexpr Index token_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 24, 64};

TEST_P(LinearForm, GivesTheModelsBitsForEveryNumberOfTokensAndThreads) {
  SerialExecutor serial;
  test::EagerThreadPool two(2);
  test::EagerThreadPool three(3);
  test::EagerThreadPool seven(7);
  Executor* const executors[] = {&serial, &two, &three, &seven};
  for (const Size& size : sizes) {
    const Index out = size.out;  // Clang 14 gives no bindings to lambdas
    const Index in = size.in;
    const Bound bound = test::with_memory_for_every_isa([&] { return Bound(GetParam(), out, in); });
    ASSERT_EQ(bound.linear().out(), out);
    ASSERT_EQ(bound.linear().in(), in);
    const Input input(in);
    for (const bool has_bias : {false, true}) {
      const float* bias = has_bias ? bound.bias().data() : nullptr;
      const Linear linear = bound.linear().with_bias(bias);
      const auto all = model(GetParam(), bound.values(), out, input.rows(0, max_tokens), bias);
      for_each_isa([&](Isa isa) {
        if (isa == Isa::scalar) return;  // is the model
        for (Executor* executor : executors) {
          for (const Index count : token_counts) {
            for (const Index first : {Index{0}, max_tokens - count}) {
              const auto expected = std::span<const float>(all).subspan(
                  static_cast<std::size_t>(first * (out + y_padding)),
                  static_cast<std::size_t>(count * (out + y_padding)));
              ASSERT_TRUE(
                  same_bits<float>(expected, apply(linear, bound.bookings().workspace_floats(),
                                                   *executor, input.rows(first, count))))
                  << "out=" << out << " in=" << in << " bias=" << has_bias
                  << " threads=" << executor->width() << " tokens=" << count << " from " << first;
            }
          }
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(LinearForm, IsCloseToSumsInDouble) {
  constexpr Index out = 40;
  constexpr Index in = 300;
  const Form& form = GetParam();
  const Bound bound(form, out, in);
  const Linear linear = bound.linear().with_bias(bound.bias().data());
  const Input input(in);
  SerialExecutor serial;
  // What rounding the activations costs; the weights are those that are held.
  const double most = form.is_grouped() ? 1e-4 : form.compute == Compute::bf16 ? 1e-5 : 1e-12;
  std::vector<float> row(in);
  for (const Index tokens : {1, 5, 40}) {
    const auto x = input.rows(0, tokens);
    const auto y = apply(linear, bound.bookings().workspace_floats(), serial, x);
    double error = 0.0;
    double power = 0.0;
    for (Index r = 0; r < out; ++r) {
      linear.row(r, row);
      for (Index t = 0; t < tokens; ++t) {
        double sum = double{bound.bias()[static_cast<std::size_t>(r)]};
        for (Index k = 0; k < in; ++k) {
          sum += double{row[static_cast<std::size_t>(k)]} * double{x(t, k)};
        }
        const double found = double{y[static_cast<std::size_t>(t * (out + y_padding) + r)]};
        error += (found - sum) * (found - sum);
        power += sum * sum;
      }
    }
    EXPECT_LT(error / power, most) << tokens;
  }
}

TEST_P(LinearForm, RowsAreTheWeightsThatAreHeld) {
  constexpr Index out = 19;
  constexpr Index in = 45;
  const Form& form = GetParam();
  const Bound bound(form, out, in);
  const auto held = rounded(form.held(), bound.values());
  for (Index r = 0; r < out; ++r) {
    std::vector<float> row(in);
    bound.linear().row(r, row);
    std::vector<float> expected(held.begin() + r * in, held.begin() + (r + 1) * in);
    if (form.is_grouped()) {
      const test::GroupedMatrix W(form.grouped(), held, out, in);
      kernels::dequantize_row(W.view(), r, expected);
      for (Index k = 0; k < in; ++k) {
        const auto at = static_cast<std::size_t>(k);
        EXPECT_NEAR(row[at], held[static_cast<std::size_t>(r * in + k)],
                    form.form == "q8" ? 0.5F / 127 : 0.125F);
      }
    }
    EXPECT_EQ(row, expected) << r;
  }
}

TEST_P(LinearForm, AStackIsItsMatrices) {
  constexpr Index count = 3;
  constexpr Index out = 20;
  constexpr Index in = 40;
  const Bound stack(GetParam(), out, in, count);
  const Input input(in);
  SerialExecutor serial;
  ASSERT_EQ(stack.binder().uses().size(), 1U);
  EXPECT_EQ(stack.binder().uses()[0].shape, (Shape{count, out, in}));
  for (Index i = 0; i < count; ++i) {
    const auto begin = stack.values().begin() + i * out * in;
    const auto x = input.rows(0, 6);
    ASSERT_EQ(stack.linear(i).out(), out);
    ASSERT_EQ(stack.linear(i).in(), in);
    EXPECT_TRUE(
        same_bits<float>(model(GetParam(), {begin, begin + out * in}, out, x, nullptr),
                         apply(stack.linear(i), stack.bookings().workspace_floats(), serial, x)))
        << "matrix " << i;
  }
}

TEST_P(LinearForm, IsPlannedAsItIsBuilt) {
  constexpr Index out = 20;
  constexpr Index in = 40;
  const Bound built(GetParam(), out, in);
  // The tensor of a planning run has no data.
  WeightStore store;
  store.add("p.weight", {nullptr, GetParam().stored, {out, in}}, nullptr);
  for (const WeightStore* planned :
       {static_cast<const WeightStore*>(&store), static_cast<const WeightStore*>(nullptr)}) {
    WeightBinder binder(planned, {.weights = GetParam().options(), .materialize = false});
    Bookings bookings(1);
    const auto linear =
        Linear::bind(WeightScope(binder, "").scope("p"), bookings, out, in, /*has_bias=*/false);
    ASSERT_TRUE(linear) << linear.error().message;
    EXPECT_EQ(linear->out(), out);
    EXPECT_EQ(linear->in(), in);
    EXPECT_EQ(typeid(linear->matrix()), typeid(built.linear().matrix()));
    EXPECT_EQ(bookings.workspace_floats(), built.bookings().workspace_floats());
    ASSERT_EQ(binder.uses().size(), 1U);
    const TensorUse& use = binder.uses()[0];
    for (const TensorView& part : use.parts) EXPECT_EQ(part.data, nullptr);
    if (planned == nullptr) continue;  // f32, if nothing else was asked for
    EXPECT_EQ(use.form, built.binder().uses()[0].form);
    EXPECT_EQ(use.bytes, built.binder().uses()[0].bytes);
    EXPECT_EQ(use.placement, built.binder().uses()[0].placement);
  }
}

TEST(Linear, NeedsNoMemoryForFloats) {
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  for (const Form& form : forms) {
    if (form.is_grouped() || form.compute == Compute::bf16) continue;
    const Bound bound(form, 33, 300);
    const Input input(300);
    const auto x = input.rows(0, max_tokens);
    const auto expected = model(form, bound.values(), 33, x, nullptr);
    for_each_isa([&](Isa) {
      for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&three)}) {
        ASSERT_TRUE(same_bits<float>(expected, apply(bound.linear(), 0, *executor, x)))
            << form.name << " threads=" << executor->width();
      }
    });
  }
}

TEST(Linear, FloatsOfTheFilesTypeStayInPlace) {
  for (const Form& form : forms) {
    const Bound bound(form, 6, 10);
    ASSERT_EQ(bound.binder().uses().size(), 1U);
    const TensorUse& use = bound.binder().uses()[0];
    const bool is_in_place = !form.is_grouped() && form.held() == form.stored;
    EXPECT_EQ(use.placement, is_in_place ? Placement::in_place : Placement::converted) << form.name;
    EXPECT_EQ(use.role, TensorRole::matrix);
    EXPECT_EQ(use.name, "p.weight");
    EXPECT_EQ(use.parts.size(), form.is_grouped() ? 2U : 1U);
    EXPECT_EQ(use.form,
              form.is_grouped() ? to_string(form.grouped()) : std::string(to_string(form.held())));
  }
}

TEST(Linear, TheThreadsThatQuantiseChangeNoBit) {
  test::EagerThreadPool two(2);
  test::EagerThreadPool five(5);
  for (const Form& form : forms) {
    if (!form.is_grouped()) continue;
    for (const Index count : {1, 3}) {
      const Bound caller(form, 83, 70, count);
      for (Executor* executor : {static_cast<Executor*>(&two), static_cast<Executor*>(&five)}) {
        const Bound shared(form, 83, 70, count, executor);
        const auto& expected = caller.binder().uses()[0].parts;
        const auto& parts = shared.binder().uses()[0].parts;
        ASSERT_EQ(parts.size(), 2U);
        for (std::size_t i = 0; i < 2; ++i) {
          ASSERT_EQ(parts[i].bytes(), expected[i].bytes());
          EXPECT_EQ(std::memcmp(parts[i].data, expected[i].data,
                                static_cast<std::size_t>(parts[i].bytes())),
                    0)
              << form.name << " threads=" << executor->width() << " part " << i;
        }
      }
    }
  }
}

// Matrices that are quantised in the checkpoint.
class StoredCodes : public testing::TestWithParam<GroupedForm> {
 protected:
  static constexpr Index out = 19;
  static constexpr Index in = 45;

  static Form made() { return {"", DType::f32, GetParam() == GroupedForm::q8 ? "q8" : "q4"}; }

  StoredCodes() : bound_(made(), out, in) {
    const auto& parts = bound_.binder().uses()[0].parts;
    store_.add("p.codes", parts[0], nullptr);
    store_.add("p.scales", parts[1], nullptr);
  }

  Result<Linear> bind(const WeightOptions& options) {
    binders_.push_back(std::make_unique<WeightBinder>(&store_, WeightBinder::Options{options}));
    Bookings bookings(1);
    return Linear::bind(WeightScope(*binders_.back(), "").scope("p"), bookings, out, in, false);
  }
  std::string refusal(const WeightOptions& options) {
    const auto linear = bind(options);
    return linear ? "none" : linear.error().message;
  }

  Bound bound_;
  WeightStore store_;
  std::vector<std::unique_ptr<WeightBinder>> binders_;
};
INSTANTIATE_TEST_SUITE_P(Forms, StoredCodes, testing::ValuesIn(test::grouped_forms),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_P(StoredCodes, AreTheMatrixThatTheyWereMadeOf) {
  SerialExecutor serial;
  const Input input(in);
  const Index workspace = bound_.bookings().workspace_floats();
  for (const std::string_view form : {std::string_view("file"), made().form}) {
    const Linear linear = bind({.form = std::string(form)}).value();
    EXPECT_EQ(binders_.back()->uses()[0].placement, Placement::in_place);
    EXPECT_TRUE(binders_.back()->unused().empty());
    const auto x = input.rows(0, 9);
    EXPECT_TRUE(same_bits<float>(apply(bound_.linear(), workspace, serial, x),
                                 apply(linear, workspace, serial, x)));
  }
}

TEST_P(StoredCodes, AreDecodedOnRequest) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const std::string form = dtype == DType::f32 ? "f32" : dtype == DType::f16 ? "f16" : "bf16";
    const Linear linear = bind({.form = form}).value();
    EXPECT_EQ(binders_.back()->uses()[0].form, to_string(dtype));
    std::vector<float> expected(in);
    std::vector<float> row(in);
    for (Index r = 0; r < out; ++r) {
      bound_.linear().row(r, expected);
      linear.row(r, row);
      EXPECT_EQ(row, rounded(dtype, expected)) << to_string(dtype) << " row " << r;
    }
  }
  EXPECT_TRUE(bind({.form = "bf16", .compute = Compute::bf16}));
}

TEST_P(StoredCodes, AreOfOneFormAndComputeInIt) {
  const bool is_q8 = GetParam() == GroupedForm::q8;
  EXPECT_EQ(refusal({.form = is_q8 ? "q4" : "q8"}),
            is_q8 ? "[build] p.weight: expected floats to make q4 of, found q8"
                  : "[build] p.weight: expected floats to make q8 of, found q4");
  EXPECT_EQ(refusal({.compute = Compute::bf16}),
            is_q8 ? "[build] p.weight: expected bf16 to compute in bf16, found q8"
                  : "[build] p.weight: expected bf16 to compute in bf16, found q4");
}

TEST_P(StoredCodes, OfTheWrongSizeAreRefused) {
  const bool is_q8 = GetParam() == GroupedForm::q8;
  const TensorView codes = store_.find("p.codes")->tensor;
  const TensorView scales = store_.find("p.scales")->tensor;

  store_.add("p.codes", {codes.data, DType::u8, {2, 2, 128}}, nullptr);
  EXPECT_EQ(refusal({}), "[build] p.weight: expected a matrix in one of the forms " +
                             test::form_names() +
                             ", found p.codes u8 [2,2,128], p.scales f16 [2,2,16]");
  store_.add("p.codes", {codes.data, DType::u8, {1, 2, is_q8 ? 512 : 256}}, nullptr);
  EXPECT_EQ(refusal({}), is_q8 ? "[build] p.codes: expected u8 [2,2,512], found u8 [1,2,512]"
                               : "[build] p.codes: expected u8 [2,2,256], found u8 [1,2,256]");
  store_.add("p.codes", {codes.data, DType::i8, codes.shape}, nullptr);
  EXPECT_EQ(refusal({}), is_q8 ? "[build] p.codes: expected u8 [2,2,512], found i8 [2,2,512]"
                               : "[build] p.codes: expected u8 [2,2,256], found i8 [2,2,256]");
  store_.add("p.codes", codes, nullptr);
  store_.add("p.scales", {scales.data, DType::f16, {2, 2, 15}}, nullptr);
  EXPECT_EQ(refusal({}), "[build] p.scales: expected f16 [2,2,16], found f16 [2,2,15]");

  WeightStore without;
  without.add("p.codes", codes, nullptr);
  store_ = without;
  EXPECT_EQ(refusal({}), "[build] p.scales: expected f16 [2,2,16], found none");
}

// What binding [3, 4] says of a checkpoint.
std::string refusal(const WeightStore& store, const Form& form, bool has_bias = false,
                    std::optional<Index> count = {}) {
  WeightBinder binder(&store, {.weights = form.options()});
  Bookings bookings(1);
  const WeightScope scope = WeightScope(binder, "").scope("p");
  Error error;
  if (count) {
    const auto bound = Linear::bind_stack(scope, bookings, *count, 3, 4);
    if (!bound) error = bound.error();
  } else {
    const auto bound = Linear::bind(scope, bookings, 3, 4, has_bias);
    if (!bound) error = bound.error();
  }
  return error.message;
}

TEST(Linear, SaysWhatItMisses) {
  const std::vector<float> values = random_floats(24, 1);
  for (const Form& form : forms) {
    SCOPED_TRACE(form.name);
    StoredMatrix owned(form.stored, values, 6, 4);
    const void* data = owned.view().data;
    WeightStore store;
    EXPECT_EQ(refusal(store, form), "[build] p.weight: expected a tensor [3,4], found none");
    EXPECT_EQ(refusal(store, form, false, 2),
              "[build] p.weight: expected a tensor [2,3,4], found none");
    const std::string type(to_string(form.stored));
    store.add("p.weight", {data, form.stored, {4, 3}}, nullptr, "file");
    EXPECT_EQ(refusal(store, form),
              "[build] p.weight: expected [3,4], found " + type + " [4,3] (file)");
    store.add("p.weight", {data, form.stored, {2, 3, 4}}, nullptr);
    EXPECT_EQ(refusal(store, form), "[build] p.weight: expected [3,4], found " + type + " [2,3,4]");
    EXPECT_EQ(refusal(store, form, false, 3),
              "[build] p.weight: expected [3,3,4], found " + type + " [2,3,4]");
    store.add("p.weight", {data, DType::i32, {3, 4}}, nullptr);
    EXPECT_EQ(refusal(store, form),
              "[build] p.weight: expected f32, f16, bf16 or f64 [3,4], found i32 [3,4]");
  }
}

TEST(Linear, MissesABiasThatItShouldHave) {
  const std::vector<float> values = random_floats(12, 1);
  const std::vector<float> bias = random_floats(4, 2);
  WeightStore store;
  store.add("p.weight", {values.data(), DType::f32, {3, 4}}, nullptr);
  EXPECT_EQ(refusal(store, forms[0]), "");
  EXPECT_EQ(refusal(store, forms[0], true), "[build] p.bias: expected a tensor [3], found none");
  store.add("p.bias", {bias.data(), DType::f32, {4}}, nullptr);
  EXPECT_EQ(refusal(store, forms[0]), "");
  EXPECT_EQ(refusal(store, forms[0], true), "[build] p.bias: expected [3], found f32 [4]");
  store.add("p.bias", {bias.data(), DType::f32, {3}}, nullptr);
  EXPECT_EQ(refusal(store, forms[0], true), "");
}

TEST(Linear, ComputesInBf16WithBf16Only) {
  const std::vector<float> values = random_floats(12, 1);
  WeightStore store;
  store.add("p.weight", {values.data(), DType::f32, {3, 4}}, nullptr);
  EXPECT_EQ(refusal(store, {"", DType::f32, "file", Compute::bf16}),
            "[build] p.weight: expected bf16 to compute in bf16, found f32");
  EXPECT_EQ(refusal(store, {"", DType::f32, "f16", Compute::bf16}),
            "[build] p.weight: expected bf16 to compute in bf16, found f16");
  for (const std::string form : {"q8", "q4"}) {
    EXPECT_EQ(refusal(store, {"", DType::f32, form, Compute::bf16}),
              "[build] p.weight: expected bf16 to compute in bf16, found " + std::string(form));
  }
  EXPECT_EQ(refusal(store, {"", DType::f32, "bf16", Compute::bf16}), "");
}

TEST(Linear, NamesTheWeightThatCannotBeQuantised) {
  std::vector<float> values = random_floats(24, 1);
  WeightStore store;
  store.add("p.weight", {values.data(), DType::f32, {3, 4}}, nullptr);
  for (const Form& form : {Form{"", DType::f32, "q8"}, {"", DType::f32, "q4"}}) {
    const std::string expected = "[build] p.weight: expected weights that " +
                                 std::string(form.form) +
                                 " can represent, found one that is not finite or too large ";
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 3e38F}) {
      values[6] = bad;
      EXPECT_EQ(refusal(store, form), expected + "(row 1, column 2)");
      values[6] = 0.5F;
      EXPECT_EQ(refusal(store, form), "");
    }
  }
  // Rows of a stack are counted from its first.
  store.add("p.weight", {values.data(), DType::f32, {2, 3, 4}}, nullptr);
  values[12 + 5] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(refusal(store, {"", DType::f32, "q8"}, false, 2),
            "[build] p.weight: expected weights that q8 can represent, found one that is not "
            "finite or too large (row 4, column 1)");
}

}  // namespace
}  // namespace krait::linear_test
