// The binder by itself: which tensors a place in the tree of names gives, in which form, what is
// recorded of them, and what is said of those that do not fit.

#include "krait/weights/scope.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <memory>

#include "krait/core/thread_pool.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/support.hpp"

namespace krait::scope_test {
namespace {

using Names = std::vector<std::string>;

const std::array<float, 6> six = {1.0F, -2.0F, 0.5F, 4.0F, -8.0F, 0.25F};

template <class T>
std::array<T, 6> six_as(T (*round)(float)) {
  std::array<T, 6> result;
  for (std::size_t i = 0; i < 6; ++i) result[i] = round(six[i]);
  return result;
}

const std::array<f16, 6> six_f16 = six_as<f16>([](float x) { return to_f16(x); });
const std::array<bf16, 6> six_bf16 = six_as<bf16>([](float x) { return to_bf16(x); });
const std::array<double, 6> six_f64 = six_as<double>([](float x) { return double{x}; });

TensorView six_in(DType dtype, const Shape& shape = {2, 3}) {
  const void* data = dtype == DType::f16    ? static_cast<const void*>(six_f16.data())
                     : dtype == DType::bf16 ? static_cast<const void*>(six_bf16.data())
                     : dtype == DType::f64  ? static_cast<const void*>(six_f64.data())
                                            : static_cast<const void*>(six.data());
  return {data, dtype, shape};
}

std::vector<float> floats_of(const TensorView& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.size()));
  convert_floats(tensor, DType::f32, values.data());
  return values;
}

constexpr DType float_types[] = {DType::f32, DType::f16, DType::bf16, DType::f64};
// A type to hold a matrix in; none: the one it is stored in.
constexpr std::optional<DType> held_types[] = {std::nullopt, DType::f32, DType::f16, DType::bf16};

template <class T>
std::string message_of(const Result<T>& result) {
  return result ? "none" : result.error().message;
}
template <class T>
ErrorCode code_of(const Result<T>& result) {
  return result ? ErrorCode{} : result.error().code;
}

TEST(WeightScope, IsAPlaceInTheTreeOfNames) {
  WeightStore store;
  store.add("backbone.layers.3.mixer.D", six_in(DType::f32), nullptr);
  store.add("D", six_in(DType::f16, {6}), nullptr);
  WeightBinder binder(&store, {});
  const WeightScope mixer = WeightScope(binder, "backbone").scope("layers", 3).scope("mixer");
  EXPECT_EQ(mixer.path("D"), "layers.3.mixer.D");
  EXPECT_EQ(mixer.name("D"), "backbone.layers.3.mixer.D");
  EXPECT_TRUE(mixer.contains("D"));
  EXPECT_FALSE(mixer.contains("A_log"));
  ASSERT_NE(mixer.stored("D"), nullptr);
  EXPECT_EQ(mixer.stored("D")->shape, (Shape{2, 3}));
  EXPECT_EQ(mixer.stored("D")->dtype, DType::f32);
  EXPECT_EQ(mixer.stored("A_log"), nullptr);
  EXPECT_TRUE(mixer.get<float>("D", {2, 3}));

  const WeightScope root(binder, "");
  EXPECT_EQ(root.path("D"), "D");
  EXPECT_EQ(root.name("D"), "D");
  EXPECT_EQ(root.stored("D")->shape, Shape{6});
  EXPECT_EQ(root.get<float>("D", {6}).value()[1], -2.0F);
  // A prefix is a whole word.
  EXPECT_FALSE(WeightScope(binder, "back").scope("bone").contains("layers.3.mixer.D"));
}

TEST(WeightScope, FindsNothingWithoutACheckpoint) {
  WeightBinder binder(nullptr, {});
  const WeightScope scope(binder, "p");
  EXPECT_FALSE(scope.contains("w"));
  EXPECT_EQ(scope.stored("w"), nullptr);
  EXPECT_EQ(scope.stored_form(), "");
  EXPECT_FALSE(scope.has_parts());
  EXPECT_FALSE(scope.is_stored());
  EXPECT_FALSE(scope.materialize());
  const TensorView w = scope.matrix("w", {2, 3}, DType::bf16).value();
  EXPECT_EQ(w.data, nullptr);
  EXPECT_EQ(w.dtype, DType::bf16);
  EXPECT_TRUE(scope.get<float>("b", {6}).value().empty());
  const auto never = [](std::span<const float>, std::span<float>) { ADD_FAILURE() << "called"; };
  EXPECT_TRUE(scope.derive("A_log", {2, 3}, 6, never).value().empty());
  ASSERT_EQ(binder.uses().size(), 3U);
  EXPECT_EQ(binder.uses()[0].bytes, 12);
  EXPECT_EQ(binder.uses()[1].bytes, 24);
  EXPECT_EQ(binder.uses()[2].bytes, 24);
  EXPECT_TRUE(binder.unused().empty());
  EXPECT_TRUE(binder.take_blocks().empty());
}

TEST(WeightScope, HoldsMatricesInTheTypeThatWasAskedFor) {
  for (const DType stored : float_types) {
    for (const std::optional<DType> type : held_types) {
      WeightStore store;
      store.add("p.w", six_in(stored), nullptr);
      std::vector<std::shared_ptr<const void>> blocks;
      TensorView held;
      {
        WeightBinder binder(&store, {});
        held = WeightScope(binder, "").scope("p").matrix("w", {2, 3}, type).value();
        blocks = binder.take_blocks();
        ASSERT_EQ(binder.uses().size(), 1U);
        const TensorUse& use = binder.uses()[0];
        const bool is_in_place = held.dtype == stored;
        EXPECT_EQ(use.placement, is_in_place ? Placement::in_place : Placement::converted);
        EXPECT_EQ(held.data == store.find("p.w")->tensor.data, is_in_place);
        EXPECT_EQ(blocks.size(), is_in_place ? 0U : 1U);
        EXPECT_EQ(use.name, "p.w");
        EXPECT_EQ(use.path, "p.w");
        EXPECT_EQ(use.role, TensorRole::matrix);
        EXPECT_EQ(use.form, to_string(held.dtype));
        EXPECT_EQ(use.shape, (Shape{2, 3}));
        EXPECT_EQ(use.bytes, held.bytes());
        EXPECT_EQ(use.active, 1.0);
      }
      const DType expected = type.value_or(stored == DType::f64 ? DType::f32 : stored);
      EXPECT_EQ(held.dtype, expected) << to_string(stored);
      // The blocks keep it, now that the binder is gone.
      EXPECT_EQ(floats_of(held), std::vector<float>(six.begin(), six.end()));
    }
  }
}

TEST(WeightScope, GivesParametersInF32) {
  for (const DType stored : float_types) {
    WeightStore store;
    store.add("w", six_in(stored), nullptr);
    WeightBinder binder(&store, {.weights = {.form = "bf16"}});
    const auto held = WeightScope(binder, "").get<float>("w", {2, 3}).value();
    EXPECT_TRUE(test::same_bits<float>(held, six));
    EXPECT_EQ(binder.uses()[0].role, TensorRole::parameter);
    EXPECT_EQ(binder.uses()[0].placement,
              stored == DType::f32 ? Placement::in_place : Placement::converted);
  }
}

TEST(WeightScope, ConvertsWhatIsMisaligned) {
  for (const DType dtype : float_types) {
    const TensorView aligned = six_in(dtype);
    std::vector<std::byte> bytes(static_cast<std::size_t>(aligned.bytes()) + 1);
    std::memcpy(bytes.data() + 1, aligned.data, bytes.size() - 1);
    WeightStore store;
    store.add("odd", {bytes.data() + 1, dtype, {2, 3}}, nullptr);
    WeightBinder binder(&store, {});
    const WeightScope scope(binder, "");
    EXPECT_TRUE(test::same_bits<float>(scope.get<float>("odd", {2, 3}).value(), six));
    EXPECT_EQ(floats_of(scope.matrix("odd", {2, 3}).value()),
              std::vector<float>(six.begin(), six.end()));
    for (const TensorUse& use : binder.uses()) EXPECT_EQ(use.placement, Placement::converted);
  }
}

TEST(WeightScope, TakesExtentsOfOneForNothing) {
  WeightStore store;
  store.add("w", six_in(DType::f32, {2, 1, 3}), nullptr);
  store.add("s", six_in(DType::f32, {1, 1}), nullptr);
  WeightBinder binder(&store, {});
  const WeightScope scope(binder, "");
  EXPECT_TRUE(scope.get<float>("w", {2, 3}));
  EXPECT_TRUE(scope.get<float>("w", {1, 2, 3, 1}));
  EXPECT_TRUE(scope.get<float>("s", {}));
  EXPECT_EQ(binder.uses()[0].shape, (Shape{2, 3}));
  for (const Shape& other : {Shape{3, 2}, Shape{6}, Shape{2, 3, 2}, Shape{2}}) {
    EXPECT_EQ(code_of(scope.get<float>("w", other)), ErrorCode::shape_mismatch) << to_string(other);
  }
}

TEST(WeightScope, SaysWhatDoesNotFit) {
  WeightStore store;
  store.add("p.w", six_in(DType::bf16), nullptr);
  store.add("p.named", six_in(DType::f32, {6}), nullptr, "shard-2");
  store.add("p.ids", {six.data(), DType::i64, {3}}, nullptr, "shard-1");
  store.add("p.bytes", {six.data(), DType::u8, {24}}, nullptr);
  store.add_unreadable("p.small", {.what = "F8_E4M3 [4,4]", .file = "shard-3"});
  store.add_unreadable("p.smaller", {.what = "F4 [4]", .file = ""});
  WeightBinder binder(&store, {});
  const WeightScope scope(binder, "p");
  const auto never = [](std::span<const float>, std::span<float>) { ADD_FAILURE() << "called"; };
  const auto expect_refusal = [&](const char* name, const Shape& shape, ErrorCode code,
                                  const std::string& message) {
    const auto matrix = scope.matrix(name, shape);
    const auto parameter = scope.get<float>(name, shape);
    const auto derived = scope.derive(name, shape, 1, never);
    EXPECT_EQ(message_of(matrix), message);
    EXPECT_EQ(message_of(parameter), message);
    EXPECT_EQ(message_of(derived), message);
    EXPECT_EQ(code_of(matrix), code);
    EXPECT_EQ(code_of(parameter), code);
    EXPECT_EQ(code_of(derived), code);
  };
  expect_refusal("none", {2, 3}, ErrorCode::missing_tensor,
                 "[build] p.none: expected a tensor [2,3], found none");
  expect_refusal("w", {3, 2}, ErrorCode::shape_mismatch,
                 "[build] p.w: expected [3,2], found bf16 [2,3]");
  expect_refusal("named", {2, 3}, ErrorCode::shape_mismatch,
                 "[build] p.named: expected [2,3], found f32 [6] (shard-2)");
  expect_refusal("ids", {3}, ErrorCode::dtype_mismatch,
                 "[build] p.ids: expected f32, f16, bf16 or f64 [3], found i64 [3] (shard-1)");
  expect_refusal("bytes", {24}, ErrorCode::dtype_mismatch,
                 "[build] p.bytes: expected f32, f16, bf16 or f64 [24], found u8 [24]");
  expect_refusal(
      "small", {4, 4}, ErrorCode::dtype_mismatch,
      "[build] p.small: expected f32, f16, bf16 or f64 [4,4], found F8_E4M3 [4,4] (shard-3)");
  expect_refusal("smaller", {4}, ErrorCode::dtype_mismatch,
                 "[build] p.smaller: expected f32, f16, bf16 or f64 [4], found F4 [4]");
  EXPECT_TRUE(binder.uses().empty());
  EXPECT_TRUE(binder.take_blocks().empty());
  // What was refused is not used.
  EXPECT_EQ(binder.unused(), (Names{"p.bytes", "p.ids", "p.named", "p.w", "p.small", "p.smaller"}));
}

TEST(WeightScope, SaysWhichNumberDoesNotFit) {
  std::array<float, 6> large = six;
  large[4] = 70000.0F;
  std::array<double, 6> larger = six_f64;
  larger[5] = 1e39;
  std::array<float, 6> infinite = six;
  infinite[2] = std::numeric_limits<float>::infinity();
  WeightStore store;
  store.add("w", {large.data(), DType::f32, {2, 3}}, nullptr, "file");
  store.add("x", {larger.data(), DType::f64, {2, 3}}, nullptr);
  store.add("y", {infinite.data(), DType::f32, {6}}, nullptr);
  {
    WeightBinder binder(&store, {});
    const WeightScope scope(binder, "");
    const auto w = scope.matrix("w", {2, 3}, DType::f16);
    EXPECT_EQ(message_of(w),
              "[build] w: expected weights that f16 can hold (at most 65504), found 70000 "
              "(element [1,1]) (file)");
    EXPECT_EQ(code_of(w), ErrorCode::bad_format);
    EXPECT_EQ(message_of(scope.matrix("y", {6}, DType::f16)),
              "[build] y: expected weights that f16 can hold (at most 65504), found inf "
              "(element [2])");
    EXPECT_TRUE(scope.get<float>("w", {2, 3}));  // in f32
    EXPECT_TRUE(scope.get<float>("y", {6}));
  }
  WeightBinder binder(&store, {});
  const WeightScope scope(binder, "");
  for (const auto& message :
       {message_of(scope.matrix("x", {2, 3})), message_of(scope.get<float>("x", {2, 3}))}) {
    EXPECT_EQ(message,
              "[build] x: expected weights that f32 can hold (at most 3.40282e+38), found 1e+39 "
              "(element [1,2])");
  }
}

TEST(WeightScope, ATensorMayBeTakenMoreThanOnce) {
  WeightStore store;
  store.add("embedding.weight", six_in(DType::f16), nullptr);
  WeightBinder binder(&store, {});
  const WeightScope embedding = WeightScope(binder, "").scope("embedding");
  const TensorView table = embedding.matrix("weight", {2, 3}).value();
  const TensorView head = embedding.matrix("weight", {2, 3}).value();
  EXPECT_EQ(table.data, head.data);
  EXPECT_EQ(binder.uses().size(), 2U);
  EXPECT_TRUE(binder.unused().empty());
}

TEST(WeightScope, TensorsThatNothingAskedForAreNamed) {
  WeightStore store;
  for (const char* name : {"c", "a", "b", "rope.inv_freq"}) {
    store.add(name, six_in(DType::f32), nullptr);
  }
  store.add_unreadable("masks", {.what = "BOOL [3]", .file = ""});
  WeightBinder binder(&store, {});
  EXPECT_EQ(binder.unused(), (Names{"a", "b", "c", "rope.inv_freq", "masks"}));
  EXPECT_TRUE(WeightScope(binder, "").get<float>("b", {2, 3}));
  binder.ignore("rope.inv_freq");
  binder.ignore("not there");
  EXPECT_EQ(binder.unused(), (Names{"a", "c", "masks"}));
  WeightBinder without(nullptr, {});
  EXPECT_TRUE(without.unused().empty());
}

TEST(WeightScope, RecordsWhichPartATokenNeeds) {
  WeightStore store;
  store.add("w", six_in(DType::f32), nullptr);
  WeightBinder binder(&store, {});
  const WeightScope scope(binder, "");
  EXPECT_TRUE(scope.active(2, 8).matrix("w", {2, 3}));
  EXPECT_TRUE(scope.matrix("w", {2, 3}));
  EXPECT_EQ(binder.uses()[0].active, 0.25);
  EXPECT_EQ(binder.uses()[1].active, 1.0);
}

TEST(WeightScope, DerivesFromValuesInF32) {
  for (const DType stored : float_types) {
    WeightStore store;
    store.add("p.A_log", six_in(stored), nullptr);
    std::vector<std::shared_ptr<const void>> blocks;
    std::span<const float> derived;
    {
      WeightBinder binder(&store, {});
      derived = WeightScope(binder, "p")
                    .derive("A_log", {2, 3}, 2,
                            [](std::span<const float> source, std::span<float> result) {
                              ASSERT_EQ(source.size(), 6U);
                              ASSERT_EQ(result.size(), 2U);
                              result[0] = source[0] + source[1];
                              result[1] = source[5];
                            })
                    .value();
      ASSERT_EQ(binder.uses().size(), 1U);
      const TensorUse& use = binder.uses()[0];
      EXPECT_EQ(use.placement, Placement::derived);
      EXPECT_EQ(use.name, "p.A_log");
      EXPECT_EQ(use.path, "A_log");
      EXPECT_EQ(use.shape, (Shape{2, 3}));
      EXPECT_EQ(use.form, "f32");
      EXPECT_EQ(use.bytes, 8);
      EXPECT_EQ(use.role, TensorRole::parameter);
      ASSERT_EQ(use.parts.size(), 1U);  // the file's values, which the fingerprint looks at
      EXPECT_TRUE(binder.unused().empty());
      blocks = binder.take_blocks();
      EXPECT_EQ(floats_of(use.parts[0]), std::vector<float>(six.begin(), six.end()));
    }
    EXPECT_TRUE(test::same_bits<float>(derived, std::array<float, 2>{-1.0F, 0.25F}));
  }
}

// Codes and scales, as a form of 2 bytes for each weight might have them.
const std::vector<WeightPart> two_parts = {{"codes", DType::u8, {2, 6}},
                                           {"scales", DType::f16, {2}}};

std::uint8_t* codes_of(std::span<const TensorView> parts) {
  return static_cast<std::uint8_t*>(const_cast<void*>(parts[0].data));
}
f16* scales_of(std::span<const TensorView> parts) {
  return static_cast<f16*>(const_cast<void*>(parts[1].data));
}

TEST(WeightScope, PacksOnce) {
  WeightStore store;
  store.add("p.weight", six_in(DType::bf16), nullptr);
  ThreadPool threads(2);
  WeightBinder binder(&store, {.weights = {.form = "q8", .executor = &threads}});
  const WeightScope scope(binder, "p");
  EXPECT_EQ(scope.options().executor, &threads);
  EXPECT_EQ(scope.options().form, "q8");
  int calls = 0;
  const auto fill = [&](const TensorView& weight,
                        std::span<const TensorView> parts) -> Result<void> {
    ++calls;
    EXPECT_EQ(weight.dtype, DType::bf16);
    EXPECT_EQ(weight.data, static_cast<const void*>(six_bf16.data()));
    EXPECT_EQ(weight.shape, (Shape{2, 3}));
    EXPECT_EQ(parts.size(), 2U);
    for (std::uint8_t i = 0; i < 12; ++i) codes_of(parts)[i] = i;
    for (int i = 0; i < 2; ++i) scales_of(parts)[i] = to_f16(0.5F);
    return {};
  };
  const std::vector<TensorView> coded =
      scope.encoded_parts("mine", {2, 3}, two_parts, fill).value();
  EXPECT_EQ(calls, 1);
  ASSERT_EQ(coded.size(), 2U);
  EXPECT_EQ(coded[0].dtype, DType::u8);
  EXPECT_EQ(coded[0].shape, (Shape{2, 6}));
  EXPECT_EQ(coded[0].as<std::uint8_t>()[11], 11);
  EXPECT_EQ(coded[1].dtype, DType::f16);
  EXPECT_EQ(to_float(coded[1].as<f16>()[1]), 0.5F);
  ASSERT_EQ(binder.uses().size(), 1U);
  const TensorUse& use = binder.uses()[0];
  EXPECT_EQ(use.name, "p.weight");
  EXPECT_EQ(use.path, "weight");
  EXPECT_EQ(use.form, "mine");
  EXPECT_EQ(use.shape, (Shape{2, 3}));
  EXPECT_EQ(use.bytes, 12 + 4);
  EXPECT_EQ(use.placement, Placement::converted);
  EXPECT_EQ(use.role, TensorRole::matrix);
  EXPECT_TRUE(binder.unused().empty());
}

TEST(WeightScope, PacksNothingWhilePlanning) {
  WeightStore store;
  store.add("p.weight", six_in(DType::f32), nullptr);
  const auto never = [](const TensorView&, std::span<const TensorView>) -> Result<void> {
    ADD_FAILURE() << "called";
    return {};
  };
  for (const WeightStore* planned :
       {static_cast<const WeightStore*>(&store), static_cast<const WeightStore*>(nullptr)}) {
    WeightBinder binder(planned, {.materialize = false});
    const auto coded =
        WeightScope(binder, "p").encoded_parts("q4", {2, 3}, two_parts, never).value();
    for (const TensorView& part : coded) EXPECT_EQ(part.data, nullptr);
    EXPECT_EQ(binder.uses()[0].bytes, 12 + 4);
    EXPECT_TRUE(binder.take_blocks().empty());
  }
}

TEST(WeightScope, SaysWhereACheckpointCannotBePacked) {
  WeightStore store;
  store.add("p.weight", six_in(DType::f32), nullptr);
  WeightBinder binder(&store, {});
  const auto fail = [](const TensorView&, std::span<const TensorView>) -> Result<void> {
    return Error{ErrorCode::bad_format, "expected one thing, found another"};
  };
  const WeightScope scope(binder, "p");
  const auto coded = scope.encoded_parts("q8", {2, 3}, two_parts, fail);
  EXPECT_EQ(message_of(coded), "[build] p.weight: expected one thing, found another");
  EXPECT_EQ(code_of(coded), ErrorCode::bad_format);
  EXPECT_EQ(message_of(scope.encoded_parts("q8", {3, 3}, two_parts, fail)),
            "[build] p.weight: expected [3,3], found f32 [2,3]");
  EXPECT_EQ(message_of(scope.scope("q").encoded_parts("q8", {2, 3}, two_parts, fail)),
            "[build] p.q.weight: expected a tensor [2,3], found none");
  EXPECT_TRUE(binder.uses().empty());
}

TEST(WeightScope, TakesPartsOfExactlyTheirShape) {
  alignas(2) std::array<std::uint8_t, 13> codes = {};
  alignas(2) std::array<std::byte, 5> scales = {};
  const f16 half = to_f16(0.5F);
  for (std::size_t i = 1; i < 4; i += 2) std::memcpy(&scales[i], &half, 2);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
  WeightStore store;
  WeightBinder binder(&store, {});
  const WeightScope scope(binder, "p");
  const auto coded = [&] { return scope.stored_parts("q8", {2, 3}, two_parts); };
  EXPECT_EQ(message_of(coded()), "[build] p.codes: expected u8 [2,6], found none");
  store.add("p.codes", {codes.data(), DType::u8, {2, 1, 6}}, nullptr);
  EXPECT_EQ(message_of(coded()), "[build] p.codes: expected u8 [2,6], found u8 [2,1,6]");
  EXPECT_EQ(code_of(coded()), ErrorCode::shape_mismatch);
  store.add("p.codes", {codes.data() + 1, DType::u8, {2, 6}}, nullptr);
  EXPECT_EQ(message_of(coded()), "[build] p.scales: expected f16 [2], found none");
  store.add("p.scales", {scales.data() + 1, DType::bf16, {2}}, nullptr);
  EXPECT_EQ(message_of(coded()), "[build] p.scales: expected f16 [2], found bf16 [2]");
  EXPECT_EQ(code_of(coded()), ErrorCode::dtype_mismatch);
  EXPECT_TRUE(binder.uses().empty());

  store.add("p.scales", {scales.data() + 1, DType::f16, {2}}, nullptr);
  const std::vector<TensorView> found = coded().value();
  EXPECT_EQ(found[0].data, static_cast<const void*>(codes.data() + 1));
  // Scales at an odd address are copied.
  EXPECT_NE(found[1].data, static_cast<const void*>(scales.data() + 1));
  EXPECT_EQ(to_float(found[1].as<f16>()[1]), 0.5F);
  ASSERT_EQ(binder.uses().size(), 1U);
  EXPECT_EQ(binder.uses()[0].name, "p.weight");
  EXPECT_EQ(binder.uses()[0].form, "q8");
  EXPECT_EQ(binder.uses()[0].placement, Placement::in_place);
  EXPECT_TRUE(binder.unused().empty());
}

TEST(WeightScope, DecodesRowByRowAndForgetsTheParts) {
  alignas(2) std::array<std::uint8_t, 13> codes = {};
  alignas(2) std::array<std::byte, 5> scales = {};  // at an odd address: binding copies them
  const f16 stored_scales[] = {to_f16(0.5F), to_f16(2.0F)};
  std::memcpy(&scales[1], stored_scales, sizeof stored_scales);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i);
  WeightStore store;
  store.add("p.codes", {codes.data(), DType::u8, {2, 6}}, nullptr);
  store.add("p.scales", {scales.data() + 1, DType::f16, {2}}, nullptr);
  for (const bool materialize : {true, false}) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      WeightBinder binder(&store, {.materialize = materialize});
      const WeightScope scope(binder, "p");
      std::vector<TensorView> parts;
      const auto bind = [&]() -> Result<void> {
        KRAIT_ASSIGN_OR_RETURN(parts, scope.stored_parts("mine", {2, 3}, two_parts));
        return {};
      };
      const auto decode = [&](Index row, std::span<float> values) {
        ASSERT_TRUE(materialize);
        ASSERT_EQ(values.size(), 3U);
        for (std::size_t k = 0; k < 3; ++k) {
          values[k] = to_float(parts[1].as<f16>()[static_cast<std::size_t>(row)]) *
                      parts[0].as<std::uint8_t>()[static_cast<std::size_t>(row) * 6 + k];
        }
      };
      const TensorView held = scope.decoded({2, 3}, dtype, bind, decode).value();
      EXPECT_EQ(held.dtype, dtype);
      ASSERT_EQ(binder.uses().size(), 1U);
      EXPECT_EQ(binder.uses()[0].form, to_string(dtype));
      EXPECT_EQ(binder.uses()[0].placement, Placement::converted);
      EXPECT_TRUE(binder.unused().empty());
      EXPECT_EQ(binder.take_blocks().size(), materialize ? 1U : 0U);
      if (!materialize) {
        EXPECT_EQ(held.data, nullptr);
      }
    }
  }
  WeightBinder binder(&store, {});
  const auto fail = []() -> Result<void> { return Error{ErrorCode::bad_format, "no"}; };
  const auto never = [](Index, std::span<float>) { ADD_FAILURE() << "called"; };
  EXPECT_EQ(message_of(WeightScope(binder, "p").decoded({2, 3}, DType::f32, fail, never)), "no");
}

TEST(WeightScope, TellsPartsAndTheFormThatTheMetadataGives) {
  WeightStore store;
  store.add("a.p.weight", six_in(DType::f32), nullptr);
  store.add("a.p.bias", six_in(DType::f32), nullptr);
  store.add("a.p.q.codes", six_in(DType::f32), nullptr);
  store.add("a.pp.codes", six_in(DType::f32), nullptr);
  WeightBinder binder(&store, {});
  const WeightScope scope = WeightScope(binder, "a").scope("p");
  EXPECT_FALSE(scope.has_parts());
  EXPECT_EQ(scope.stored_form(), "");
  store.add("a.p.codes", {six.data(), DType::u8, {24}}, nullptr);
  store.add("a.p.scales", six_in(DType::f16), nullptr);
  EXPECT_TRUE(scope.has_parts());
  EXPECT_TRUE(has_parts(store, "a.p"));
  EXPECT_FALSE(has_parts(store, "a"));
  EXPECT_EQ(scope.describe_parts(), "a.p.codes u8 [24], a.p.scales f16 [2,3]");
  store.metadata["krait.form"] = "q8";
  EXPECT_EQ(scope.stored_form(), "q8");
  store.metadata["krait.form:a.p"] = "q4";
  EXPECT_EQ(scope.stored_form(), "q4");
  EXPECT_EQ(scope.scope("q").stored_form(), "q8");
}

}  // namespace
}  // namespace krait::scope_test
