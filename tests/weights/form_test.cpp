// Forms of an application: made, found, multiplied with and listed as krait's own, and refused by
// name where they, or the parts of a checkpoint, are not what they say.

#include "krait/weights/form.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "krait/models/builder.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/linear.hpp"
#include "tests/support/byte_form.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/form_names.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::form_test {
namespace {

using test::ByteForm;
using test::ByteMatrix;
using test::random_floats;
using test::same_bits;

constexpr Index block = test::ByteForm::rows_of_block;

// W = u v, of a rank that the file has: parts that are not made of rows.
class LowRankForm final : public WeightForm {
 public:
  class Matrix final : public WeightMatrix {
   public:
    Matrix(const TensorView& u, const TensorView& v)
        : WeightMatrix(u.shape[0], v.shape[1], u.bytes() + v.bytes()), u_(u), v_(v) {}
    void product(const ProductContext&, const ProductArgs& args) const noexcept override {
      for (Index t = 0; t < args.x.rows; ++t) {
        for (Index r = 0; r < out(); ++r) {
          float sum = 0.0F;
          for (Index k = 0; k < in(); ++k) sum += at(r, k) * args.x(t, k);
          args.y(t, r) = sum;
        }
      }
    }
    void row(Index r, std::span<float> values) const noexcept override {
      for (Index k = 0; k < in(); ++k) values[static_cast<std::size_t>(k)] = at(r, k);
    }

   private:
    float at(Index r, Index k) const noexcept {
      float sum = 0.0F;
      const Index rank = v_.shape[0];
      for (Index i = 0; i < rank; ++i) {
        sum += static_cast<const float*>(u_.data)[r * rank + i] *
               static_cast<const float*>(v_.data)[i * in() + k];
      }
      return sum;
    }
    TensorView u_;
    TensorView v_;
  };

  std::string_view name() const noexcept override { return "uv"; }
  bool recognises(const WeightScope& weights) const override {
    return weights.contains("u") && weights.contains("v");
  }
  Result<Matrices> bind(const WeightScope& weights, Bookings&,
                        const MatrixShape& shape) const override {
    const TensorView* u = weights.stored("u");
    const Index rank = u->shape.rank() == 2 ? u->shape[1] : 1;
    KRAIT_ASSIGN_OR_RETURN(const auto parts,
                           weights.stored_parts(name(), {shape.out, shape.in},
                                                {{"u", DType::f32, {shape.out, rank}},
                                                 {"v", DType::f32, {rank, shape.in}}}));
    return Matrices{std::make_shared<Matrix>(parts[0], parts[1])};
  }
  Result<Matrices> make(const WeightScope& weights, Bookings&, const MatrixShape&) const override {
    return Error{ErrorCode::unsupported, "[build] " + weights.name("weight") +
                                             ": expected u and v, found no tool to make them"};
  }
};

WeightOptions with(std::shared_ptr<const WeightForm> form, std::string name = "file") {
  WeightOptions options{.form = std::move(name)};
  options.forms.push_back(std::move(form));
  return options;
}

// What binding the matrix "p" [out, in], or a stack of them, gives and says.
struct Bound {
  Bound(const WeightStore* store, const WeightOptions& options, Index out, Index in,
        std::optional<Index> count = {}, bool materialize = true)
      : binder(store, {.weights = options, .materialize = materialize}) {
    const WeightScope scope = WeightScope(binder, "").scope("p");
    if (count) {
      auto result = Linear::bind_stack(scope, bookings, *count, out, in);
      if (result) linears = std::move(*result);
      if (!result) error = result.error();
    } else {
      auto result = Linear::bind(scope, bookings, out, in, false);
      if (result) linears.push_back(std::move(*result));
      if (!result) error = result.error();
    }
  }
  WeightBinder binder;
  Bookings bookings{1};
  std::vector<Linear> linears;
  Error error{ErrorCode::bad_argument, "none"};
};

std::string refusal(const WeightStore& store, const WeightOptions& options, Index out, Index in,
                    std::optional<Index> count = {}) {
  return Bound(&store, options, out, in, count).error.message;
}

std::vector<float> apply(const Linear& linear, Executor& executor, MatrixView<const float> x) {
  std::vector<float> y(static_cast<std::size_t>(x.rows * linear.out()));
  linear.apply({.executor = executor, .workspace = {}}, x, {y.data(), x.rows, linear.out()});
  return y;
}

class OwnForm : public testing::Test {
 protected:
  static constexpr Index count = 3;
  static constexpr Index out = 6;  // one block and a half
  static constexpr Index in = 10;

  OwnForm() { store_.add("p.weight", {values_.data(), DType::f32, {out, in}}, nullptr); }

  // The parts of a bound matrix, as a checkpoint has them.
  static WeightStore stored(const Bound& bound) {
    WeightStore store;
    const auto& parts = bound.binder.uses()[0].parts;
    store.add("p.q", parts[0], nullptr);
    store.add("p.s", parts[1], nullptr);
    store.metadata[std::string(weight_form_key)] = "bytes";
    return store;
  }

  std::vector<float> values_ = random_floats(count * out * in, 1);
  std::vector<float> x_ = random_floats(8 * in, 2);
  WeightStore store_;
  std::shared_ptr<const ByteForm> form_ = std::make_shared<ByteForm>();
  SerialExecutor serial_;
};

TEST_F(OwnForm, IsMadeOfFloats) {
  const Bound bound(&store_, with(form_, "bytes"), out, in);
  ASSERT_EQ(bound.error.message, "none");
  const Linear& linear = bound.linears[0];
  EXPECT_EQ(linear.out(), out);
  EXPECT_EQ(linear.in(), in);
  EXPECT_EQ(bound.bookings.workspace_floats(), round_up(3 * in, Index{16}));
  ASSERT_EQ(bound.binder.uses().size(), 1U);
  const TensorUse& use = bound.binder.uses()[0];
  EXPECT_EQ(use.name, "p.weight");
  EXPECT_EQ(use.form, "bytes");
  EXPECT_EQ(use.shape, (Shape{out, in}));
  EXPECT_EQ(use.bytes, 2 * block * in + 2 * block * 4);
  EXPECT_EQ(use.placement, Placement::converted);
  EXPECT_EQ(use.role, TensorRole::matrix);
  std::vector<float> row(in);
  for (Index r = 0; r < out; ++r) {
    linear.row(r, row);
    for (Index k = 0; k < in; ++k) {
      EXPECT_NEAR(row[static_cast<std::size_t>(k)], values_[static_cast<std::size_t>(r * in + k)],
                  0.02F);
    }
  }
}

TEST_F(OwnForm, GivesTheSameBitsForAnyTokensAndThreads) {
  const Bound bound(&store_, with(form_, "bytes"), out, in);
  test::EagerThreadPool three(3);
  const MatrixView<const float> x(x_.data(), 8, in);
  const auto whole = apply(bound.linears[0], serial_, x);
  for (Executor* executor : {static_cast<Executor*>(&serial_), static_cast<Executor*>(&three)}) {
    for (Index t = 0; t < 8; ++t) {
      const auto one = apply(bound.linears[0], *executor, x.rows_from(t, 1));
      EXPECT_TRUE(
          same_bits<float>(std::span(whole).subspan(static_cast<std::size_t>(t * out), out), one));
    }
  }
}

TEST_F(OwnForm, IsPlannedAsItIsBuilt) {
  const Bound built(&store_, with(form_, "bytes"), out, in);
  for (const WeightStore* store :
       {static_cast<const WeightStore*>(&store_), static_cast<const WeightStore*>(nullptr)}) {
    const Bound planned(store, with(form_, "bytes"), out, in, {}, /*materialize=*/false);
    ASSERT_EQ(planned.error.message, "none");
    EXPECT_EQ(planned.bookings.workspace_floats(), built.bookings.workspace_floats());
    EXPECT_EQ(planned.binder.uses()[0].form, "bytes");
    EXPECT_EQ(planned.binder.uses()[0].bytes, built.binder.uses()[0].bytes);
    for (const TensorView& part : planned.binder.uses()[0].parts) EXPECT_EQ(part.data, nullptr);
  }
}

TEST_F(OwnForm, AStackIsItsMatrices) {
  store_.add("p.weight", {values_.data(), DType::f32, {count, out, in}}, nullptr);
  const Bound stack(&store_, with(form_, "bytes"), out, in, count);
  ASSERT_EQ(stack.error.message, "none");
  EXPECT_EQ(stack.binder.uses()[0].parts[0].shape, (Shape{count, 2, block, in}));
  const WeightStore coded = stored(stack);
  const Bound found(&coded, with(form_), out, in, count);
  ASSERT_EQ(found.error.message, "none");
  for (Index i = 0; i < count; ++i) {
    WeightStore one;
    one.add("p.weight", {values_.data() + i * out * in, DType::f32, {out, in}}, nullptr);
    const Bound alone(&one, with(form_, "bytes"), out, in);
    const MatrixView<const float> x(x_.data(), 8, in);
    const auto expected = apply(alone.linears[0], serial_, x);
    const auto at = static_cast<std::size_t>(i);
    EXPECT_TRUE(same_bits<float>(expected, apply(stack.linears[at], serial_, x))) << i;
    EXPECT_TRUE(same_bits<float>(expected, apply(found.linears[at], serial_, x))) << i;
  }
}

TEST_F(OwnForm, IsFoundByTheMetadataAndUsedInPlace) {
  const Bound made(&store_, with(form_, "bytes"), out, in);
  WeightStore store = stored(made);
  const MatrixView<const float> x(x_.data(), 8, in);
  for (const char* form : {"file", "bytes"}) {
    const Bound found(&store, with(form_, form), out, in);
    ASSERT_EQ(found.error.message, "none") << form;
    EXPECT_EQ(found.binder.uses()[0].placement, Placement::in_place);
    EXPECT_EQ(found.binder.uses()[0].form, "bytes");
    EXPECT_EQ(found.binder.uses()[0].parts[0].data, store.find("p.q")->tensor.data);
    EXPECT_TRUE(found.binder.unused().empty());
    EXPECT_TRUE(
        same_bits<float>(apply(made.linears[0], serial_, x), apply(found.linears[0], serial_, x)));
  }
  // One matrix among others.
  store.metadata.clear();
  store.metadata["krait.form"] = "q8";
  store.metadata["krait.form:p"] = "bytes";
  EXPECT_EQ(refusal(store, with(form_), out, in), "none");
}

TEST_F(OwnForm, GivesFloatsAndNothingElse) {
  const Bound made(&store_, with(form_, "bytes"), out, in);
  const WeightStore store = stored(made);
  for (const char* form : {"f32", "f16"}) {
    const Bound dense(&store, with(form_, form), out, in);
    ASSERT_EQ(dense.error.message, "none");
    EXPECT_EQ(dense.binder.uses().size(), 1U);
    EXPECT_EQ(dense.binder.uses()[0].form, form);
    EXPECT_EQ(dense.bookings.workspace_floats(),
              round_up(kernels::product_workspace(in), Index{16}));
    std::vector<float> row(in);
    std::vector<float> expected(in);
    for (Index r = 0; r < out; ++r) {
      dense.linears[0].row(r, row);
      made.linears[0].row(r, expected);
      if (form == std::string("f16")) {
        for (float& value : expected) value = to_float(to_f16(value));
      }
      EXPECT_EQ(row, expected);
    }
  }
  EXPECT_EQ(refusal(store, with(form_, "q8"), out, in),
            "[build] p.weight: expected floats to make q8 of, found bytes");
  WeightOptions in_bf16 = with(form_);
  in_bf16.compute = Compute::bf16;
  EXPECT_EQ(refusal(store, in_bf16, out, in),
            "[build] p.weight: expected bf16 to compute in bf16, found bytes");
}

TEST_F(OwnForm, WithPartsThatDoNotFitIsRefused) {
  const WeightStore good = stored(Bound(&store_, with(form_, "bytes"), out, in));
  // Bound keeps the parts; only their shapes matter here.
  const auto message = [&](const char* name, std::optional<TensorView> part) {
    WeightStore store = good;
    store.remove(name);
    if (part) store.add(name, *part, nullptr);
    return refusal(store, with(form_), out, in);
  };
  const void* data = values_.data();
  EXPECT_EQ(message("p.q", TensorView{data, DType::i8, {2, block, in + 1}}),
            "[build] p.q: expected i8 [2,4,10], found i8 [2,4,11]");
  EXPECT_EQ(message("p.q", TensorView{data, DType::u8, {2, block, in}}),
            "[build] p.q: expected i8 [2,4,10], found u8 [2,4,10]");
  EXPECT_EQ(message("p.s", TensorView{data, DType::f32, {out}}),
            "[build] p.s: expected f32 [2,4], found f32 [6]");
  // With a part missing it is no longer that form.
  EXPECT_EQ(message("p.s", std::nullopt),
            "[build] p.weight: expected a matrix in one of the forms " + test::form_names() +
                ", bytes, found 'bytes' in the metadata, p.q i8 [2,4,10]");
  WeightStore unnamed = good;
  unnamed.metadata.clear();
  EXPECT_EQ(refusal(unnamed, with(form_), out, in),
            "[build] p.weight: expected a matrix in one of the forms " + test::form_names() +
                ", bytes, found p.q i8 [2,4,10], p.s f32 [2,4]");
  EXPECT_EQ(refusal(good, {}, out, in),
            "[build] p.weight: expected a matrix in one of the forms " + test::form_names() +
                ", found 'bytes' in the metadata, p.q i8 [2,4,10], p.s f32 [2,4]");
}

TEST_F(OwnForm, NamesTheWeightThatHasNoPlaceInIt) {
  values_[2 * in + 7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(refusal(store_, with(form_, "bytes"), out, in),
            "[build] p.weight: expected weights that bytes can represent, found one that is not "
            "finite or too large (row 2, column 7)");
}

// Forms that do not give what they were asked for.
class LyingForm final : public ByteForm {
 public:
  enum class Lie { fewer, more, none, narrower, taller };
  explicit LyingForm(Lie lie) : ByteForm("liar"), lie_(lie) {}

  Result<Matrices> make(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    KRAIT_ASSIGN_OR_RETURN(Matrices matrices, ByteForm::make(weights, bookings, shape));
    const auto other = [](Index rows, Index cols) {
      return std::make_shared<ByteMatrix>(nullptr, nullptr, rows, cols);
    };
    if (lie_ == Lie::fewer) matrices.pop_back();
    if (lie_ == Lie::more) matrices.push_back(matrices.back());
    if (lie_ == Lie::none) matrices.back() = nullptr;
    if (lie_ == Lie::narrower) matrices.back() = other(shape.out, shape.in - 1);
    if (lie_ == Lie::taller) matrices.back() = other(shape.out + 1, shape.in);
    return matrices;
  }

 private:
  Lie lie_;
};

TEST_F(OwnForm, ThatLiesAboutItsSizesIsRefused) {
  using Lie = LyingForm::Lie;
  const auto message = [&](Lie lie, std::optional<Index> n) {
    if (n) store_.add("p.weight", {values_.data(), DType::f32, {*n, out, in}}, nullptr);
    const auto form = std::make_shared<LyingForm>(lie);
    const Bound bound(&store_, with(form, "liar"), out, in, n);
    EXPECT_EQ(bound.error.code, ErrorCode::bad_format);
    return bound.error.message;
  };
  const std::string name = "[build] p.weight: expected ";
  EXPECT_EQ(message(Lie::fewer, std::nullopt), name + "1 matrices of form liar, found 0");
  EXPECT_EQ(message(Lie::none, std::nullopt), name + "a matrix [6,10] of form liar, found none");
  EXPECT_EQ(message(Lie::narrower, std::nullopt),
            name + "a matrix [6,10] of form liar, found [6,9]");
  EXPECT_EQ(message(Lie::fewer, 3), name + "3 matrices of form liar, found 2");
  EXPECT_EQ(message(Lie::more, 3), name + "3 matrices of form liar, found 4");
  EXPECT_EQ(message(Lie::taller, 3), name + "a matrix [6,10] of form liar, found [7,10]");
}

TEST_F(OwnForm, NeedsANameOfItsOwn) {
  const std::string known = test::form_names();
  const std::string list = known + ", bytes";
  EXPECT_EQ(refusal(store_, with(form_, "q5"), out, in),
            "[build] form: expected one of file, " + list + ", found 'q5'");
  for (const char* taken : {"q8", "file", "", "f32"}) {
    EXPECT_EQ(refusal(store_, with(std::make_shared<ByteForm>(taken)), out, in),
              "[build] forms: expected forms with names of their own, found '" +
                  std::string(taken) + "'");
  }
  WeightOptions twice = with(form_);
  twice.forms.push_back(std::make_shared<ByteForm>());
  EXPECT_EQ(refusal(store_, twice, out, in),
            "[build] forms: expected forms with names of their own, found 'bytes'");
  EXPECT_EQ(refusal({}, with(nullptr), out, in),
            "[build] forms: expected forms with names of their own, found none");
  EXPECT_EQ(refusal(store_, with(nullptr), out, in),
            "[build] forms: expected forms with names of their own, found none");
  EXPECT_EQ(refusal(store_, {.form = ""}, out, in),
            "[build] form: expected one of file, " + known + ", found ''");
}

TEST_F(OwnForm, MayHavePartsOfSizesThatTheFileTells) {
  const auto form = std::make_shared<LowRankForm>();
  WeightStore store;
  store.add("p.u", {values_.data(), DType::f32, {out, 2}}, nullptr);
  store.add("p.v", {values_.data() + 20, DType::f32, {2, in}}, nullptr);
  const Bound bound(&store, with(form), out, in);
  ASSERT_EQ(bound.error.message, "none");
  EXPECT_EQ(bound.binder.uses()[0].form, "uv");
  EXPECT_EQ(bound.binder.uses()[0].bytes, 4 * 2 * (out + in));
  std::vector<float> row(in);
  bound.linears[0].row(1, row);
  EXPECT_FLOAT_EQ(row[3], values_[2] * values_[23] + values_[3] * values_[33]);
  store.add("p.v", {values_.data(), DType::f32, {3, in}}, nullptr);
  EXPECT_EQ(refusal(store, with(form), out, in),
            "[build] p.v: expected f32 [2,10], found f32 [3,10]");
  EXPECT_EQ(refusal(store_, with(form, "uv"), out, in),
            "[build] p.weight: expected u and v, found no tool to make them");
}

TEST(WeightForms, AreFoundByName) {
  std::vector<std::string> names;
  for (const WeightForm* form : weight_forms()) {
    names.emplace_back(form->name());
    EXPECT_EQ(find_form(form->name()), form);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"f32", "bf16", "f16", "q8", "q4", "aqlm", "aqlm-exact",
                                             "gguf"}));
  EXPECT_EQ(find_form("file"), nullptr);
  const auto own = std::make_shared<ByteForm>();
  EXPECT_EQ(find_form("bytes"), nullptr);
  EXPECT_EQ(find_form("bytes", with(own)), own.get());
}

// The metadata and the names of parts decide between q8 and q4; AQLM's parts have such names too.
TEST(WeightForms, GroupedOnesAreToldByMetadataAndParts) {
  const std::vector<std::uint8_t> codes(2 * 512);
  const std::vector<f16> scales(2 * 16);
  WeightStore store;
  store.add("p.codes", {codes.data(), DType::u8, {1, 2, 256}}, nullptr);
  store.add("p.scales", {scales.data(), DType::f16, {1, 2, 16}}, nullptr);
  const auto form_of = [&](const WeightStore& stored) {
    const Bound bound(&stored, {}, 16, 64);
    return bound.linears.empty() ? bound.error.message : bound.binder.uses()[0].form;
  };
  EXPECT_EQ(form_of(store), "q4");
  store.metadata["krait.form"] = "q8";
  EXPECT_EQ(form_of(store), "[build] p.codes: expected u8 [1,2,512], found u8 [1,2,256]");
  store.metadata["krait.form"] = "q4";
  EXPECT_EQ(form_of(store), "q4");
  store.add("p.codebooks", {scales.data(), DType::f16, {1, 16, 1, 2}}, nullptr);
  EXPECT_EQ(form_of(store), "[build] p.scales: expected [16,1,1,1], found f16 [1,2,16]");
}

// A whole model.
TEST(OwnFormInAModel, IsLoadedPlannedAndDescribed) {
  const ModelSpec spec = test::tiny_expert_spec();
  const WeightStore weights = random_weights(spec, 11, "backbone").value();
  const WeightOptions options = with(std::make_shared<ByteForm>(), "bytes");
  const ModelPlan plan = plan_model(spec, &weights, "backbone", options).value();
  const Model model = build_model(spec, weights, "backbone", options).value();
  EXPECT_EQ(plan.owned_bytes, model.plan().owned_bytes);
  for (const TensorUse& use : model.plan().tensors) {
    EXPECT_EQ(use.form, use.role == TensorRole::matrix ? "bytes" : "f32") << use.name;
  }
  EXPECT_NE(model.describe().find("bytes ["), std::string::npos);
  EXPECT_NE(model.fingerprint(), build_model(spec, weights, "backbone").value().fingerprint());

  const std::vector<Token> tokens = test::random_tokens(20, model.vocab(), 5);
  test::EagerThreadPool three(3);
  SerialExecutor serial;
  std::vector<float> expected;
  for (const Index chunk : {20, 1, 7}) {
    for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&three)}) {
      const std::vector<float> logits =
          test::all_logits(model, tokens, *executor, {.chunk = chunk});
      if (expected.empty()) expected = logits;
      EXPECT_TRUE(same_bits<float>(expected, logits)) << chunk;
    }
  }
}

}  // namespace
}  // namespace krait::form_test
