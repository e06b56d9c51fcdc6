// Matrices as the `aqlm` package has them: bound by their parts, with its weights to the bit, and
// refused by name where parts do not fit.

#include "krait/weights/aqlm.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include <limits>
#include <list>

#include "krait/io/mapped_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/models/builder.hpp"
#include "krait/weights/form.hpp"
#include "krait/weights/linear.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::aqlm_test {
namespace {

using test::random_floats;
using test::same_bits;

struct Scheme {
  const char* name;
  Index codebooks;
  int bits;
  Index in_group;
  Index out_group = 1;
};

constexpr Scheme schemes[] = {
    {"1x8g8", 1, 8, 8},      {"2x8g8", 2, 8, 8},      {"8x8g32", 8, 8, 32}, {"4x8g16", 4, 8, 16},
    {"1x16g8", 1, 16, 8},    {"1x12g8", 1, 12, 8},    {"4x4g8", 4, 4, 8},   {"8x4g16", 8, 4, 16},
    {"2x8g8h2", 2, 8, 8, 2}, {"3x4g4h3", 3, 4, 4, 3},
};

constexpr Index golden_out = 12;
constexpr Index golden_in = 96;

// The numbers that make_golden_aqlm.py gives codebooks.
std::vector<f16> codebook_numbers(Index count) {
  std::vector<f16> numbers(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::uint32_t mixed = static_cast<std::uint32_t>(i * 2654435761U + 97U);
    const int whole = static_cast<int>(mixed >> 16U & 0x7FFFU) - 16384;
    numbers[i] = i % 29 == 0 ? f16{0x8000} : to_f16(static_cast<float>(whole) / 4096.0F);
  }
  return numbers;
}

class GoldenAqlm : public testing::Test {
 protected:
  GoldenAqlm() {
    const auto path = test::data_dir() / "golden" / "aqlm.safetensors";
    EXPECT_TRUE(read_safetensors(open_file(path.string(), WeightsMode::copy).value(), store_));
    for (const Scheme& s : schemes) {
      const Shape shape{s.codebooks, Index{1} << s.bits, s.out_group, s.in_group};
      numbers_.push_back(codebook_numbers(shape.size()));
      store_.add(std::string(s.name) + ".codebooks", {numbers_.back().data(), DType::f16, shape},
                 nullptr);
    }
  }

  WeightStore store_;
  std::vector<std::vector<f16>> numbers_;
};

// What binding a matrix [out, in], or a stack of them, gives and says.
struct Bound {
  Bound(const WeightStore* store, const std::string& name, const std::string& form, Index out,
        Index in, std::optional<Index> count = {}, bool materialize = true)
      : binder(store, {.weights = {.form = form}, .materialize = materialize}) {
    const WeightScope scope = WeightScope(binder, "").scope(name);
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

  std::vector<float> rows() const {
    std::vector<float> values;
    for (const Linear& linear : linears) {
      std::vector<float> row(static_cast<std::size_t>(linear.in()));
      for (Index r = 0; r < linear.out(); ++r) {
        linear.row(r, row);
        values.insert(values.end(), row.begin(), row.end());
      }
    }
    return values;
  }

  std::vector<float> apply(Executor& executor, MatrixView<const float> x, std::size_t i = 0) const {
    std::vector<float> y(static_cast<std::size_t>(x.rows * linears[i].out()));
    AlignedBuffer<float> workspace(bookings.workspace_floats() * x.rows);
    linears[i].apply({.executor = executor, .workspace = workspace.span()}, x,
                     {y.data(), x.rows, linears[i].out()});
    return y;
  }

  WeightBinder binder;
  Bookings bookings{1};
  std::vector<Linear> linears;
  Error error{ErrorCode::bad_argument, "none"};
};

TEST_F(GoldenAqlm, WeightsAreThePackagesBitForBit) {
  for (const Scheme& s : schemes) {
    const auto* expected =
        static_cast<const float*>(store_.find(std::string(s.name) + ".weight")->tensor.data);
    for (const char* form : {"file", "aqlm", "aqlm-exact"}) {
      const Bound bound(&store_, s.name, form, golden_out, golden_in);
      ASSERT_EQ(bound.error.message, "none") << s.name << ' ' << form;
      EXPECT_TRUE(same_bits<float>({expected, golden_out * golden_in}, bound.rows()))
          << s.name << ' ' << form;
    }
    const Bound dense(&store_, s.name, "f32", golden_out, golden_in);
    ASSERT_EQ(dense.error.message, "none") << s.name;
    EXPECT_TRUE(same_bits<float>({expected, golden_out * golden_in}, dense.rows())) << s.name;
  }
}

TEST_F(GoldenAqlm, ExactProductsAreThoseOfTheDenseMatrix) {
  const auto values = random_floats(20 * golden_in, 3);
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  for (const Scheme& s : schemes) {
    const Bound dense(&store_, s.name, "f32", golden_out, golden_in);
    const Bound exact(&store_, s.name, "aqlm-exact", golden_out, golden_in);
    const Bound file(&store_, s.name, "file", golden_out, golden_in);
    ASSERT_EQ(exact.error.message, "none");
    std::vector<float> whole;
    for (const Index tokens : {20, 1, 3, 8}) {
      const MatrixView<const float> x(values.data(), tokens, golden_in);
      const auto expected = dense.apply(serial, x);
      EXPECT_TRUE(same_bits<float>(expected, exact.apply(serial, x))) << s.name << tokens;
      EXPECT_TRUE(same_bits<float>(expected, exact.apply(three, x))) << s.name << tokens;
      const auto y = file.apply(three, x);
      if (whole.empty()) whole = y;
      EXPECT_TRUE(same_bits<float>(std::span(whole).first(y.size()), y)) << s.name << tokens;
      double error = 0.0;
      double power = 0.0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double difference = static_cast<double>(y[i]) - static_cast<double>(expected[i]);
        error += difference * difference;
        power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      }
      EXPECT_LE(error, 2e-4 * power) << s.name;
      if (s.bits != 4 || s.out_group != 1) {
        EXPECT_EQ(error, 0.0) << s.name;
      }
    }
  }
}

TEST_F(GoldenAqlm, CodesAreUsedInPlaceAndPackedFromFourBits) {
  for (const Scheme& s : schemes) {
    const bool is_packed = s.bits == 4 && s.out_group == 1;
    for (const char* form : {"file", "aqlm-exact"}) {
      const Bound bound(&store_, s.name, form, golden_out, golden_in);
      const std::string name = std::string(s.name) + ".weight";
      std::vector<std::string> names;
      for (const TensorUse& use : bound.binder.uses()) {
        names.push_back(use.name.substr(use.name.find('.') + 1) + " " + use.form);
        if (use.name != name) continue;
        EXPECT_EQ(use.role, TensorRole::matrix);
        EXPECT_EQ(use.shape, (Shape{golden_out, golden_in}));
        const TensorView& codes = store_.find(std::string(s.name) + ".codes")->tensor;
        const bool is_in_place = !is_packed || form == std::string("aqlm-exact");
        EXPECT_EQ(use.placement, is_in_place ? Placement::in_place : Placement::converted);
        EXPECT_EQ(use.parts[0].data == codes.data, is_in_place) << s.name;
        EXPECT_EQ(
            bound.linears[0].matrix().bytes(),
            use.bytes +
                [&] {
                  Index other = 0;
                  for (const TensorUse& part : bound.binder.uses()) {
                    if (part.name != name) other += part.bytes;
                  }
                  return other;
                }())
            << s.name;
      }
      const std::string held = form == std::string("file") ? "aqlm" : form;
      EXPECT_EQ(names, (std::vector<std::string>{"scales f32", "weight " + held, "codebooks f32"}))
          << s.name;
      for (const std::string& unused : bound.binder.unused()) {
        EXPECT_FALSE(unused.starts_with(std::string(s.name) + ".") && !unused.ends_with(".weight"))
            << unused;
      }
    }
  }
}

// A small checkpoint whose parts can be changed.
class AqlmParts : public testing::Test {
 protected:
  static constexpr Index out = 6;
  static constexpr Index in = 16;

  AqlmParts() { set({.name = "p", .codebooks = 2, .bits = 8, .in_group = 8}); }

  void set(const Scheme& s, std::optional<Index> count = {}) {
    const Index n = count.value_or(1);
    const auto with_count = [&](std::vector<Index> extents) {
      if (count) extents.insert(extents.begin(), *count);
      return Shape::make(extents).value();
    };
    const Index blocks = out / s.out_group;
    codes_.assign(static_cast<std::size_t>(n * blocks * (in / s.in_group) * s.codebooks), 0);
    wide_.assign(codes_.size(), 0);
    for (std::size_t i = 0; i < codes_.size(); ++i) {
      const int half = 1 << (std::min(s.bits, 8) - 1);
      codes_[i] = static_cast<std::int8_t>(static_cast<int>(i * 7) % (2 * half) - half);
      wide_[i] = codes_[i];
    }
    const Index size = n * s.codebooks * (Index{1} << s.bits) * s.out_group * s.in_group;
    numbers_ = random_floats(size, 1);
    scales_ = random_floats(n * blocks, 2);
    const void* codes = s.bits <= 8 ? static_cast<const void*>(codes_.data()) : wide_.data();
    store_.add("p.codes",
               {codes, s.bits <= 8 ? DType::i8 : DType::i16,
                with_count({blocks, in / s.in_group, s.codebooks})},
               nullptr);
    store_.add("p.codebooks",
               {numbers_.data(), DType::f32,
                with_count({s.codebooks, Index{1} << s.bits, s.out_group, s.in_group})},
               nullptr);
    store_.add("p.scales", {scales_.data(), DType::f32, with_count({blocks, 1, 1, 1})}, nullptr);
  }

  std::string message(const std::string& form = "file", std::optional<Index> count = {},
                      bool materialize = true) const {
    return Bound(&store_, "p", form, out, in, count, materialize).error.message;
  }

  std::string message_with(const char* name, const TensorView& tensor) const {
    WeightStore store = store_;
    store.add(name, tensor, nullptr);
    return Bound(&store, "p", "file", out, in).error.message;
  }

  std::vector<std::int8_t> codes_;
  std::vector<std::int16_t> wide_;
  std::vector<float> numbers_;
  std::vector<float> scales_;
  WeightStore store_;
};

TEST_F(AqlmParts, AStackIsItsMatrices) {
  SerialExecutor serial;
  for (const Scheme& s : {Scheme{"p", 2, 8, 8}, Scheme{"p", 4, 4, 8}, Scheme{"p", 2, 5, 4, 2}}) {
    set(s, 3);
    const Bound stack(&store_, "p", "file", out, in, 3);
    ASSERT_EQ(stack.error.message, "none");
    const auto x = random_floats(2 * in, 5);
    for (std::size_t i = 0; i < 3; ++i) {
      WeightStore one;
      for (const char* part : {"p.codes", "p.codebooks", "p.scales"}) {
        const TensorView all = store_.find(part)->tensor;
        const auto extents = all.shape.extents();
        TensorView view{nullptr, all.dtype, Shape::make(extents.subspan(1)).value()};
        view.data = static_cast<const std::byte*>(all.data) + static_cast<Index>(i) * view.bytes();
        one.add(part, view, nullptr);
      }
      const Bound alone(&one, "p", "file", out, in);
      ASSERT_EQ(alone.error.message, "none");
      const MatrixView<const float> rows(x.data(), 2, in);
      EXPECT_TRUE(same_bits<float>(alone.apply(serial, rows), stack.apply(serial, rows, i)));
      const std::vector<float> weights = stack.rows();
      EXPECT_TRUE(
          same_bits<float>(alone.rows(), std::span(weights).subspan(i * out * in, out * in)));
    }
  }
}

TEST_F(AqlmParts, ArePlannedAsTheyAreBound) {
  for (const Scheme& s : {Scheme{"p", 2, 8, 8}, Scheme{"p", 4, 4, 8}}) {
    set(s);
    for (const char* form : {"file", "aqlm-exact"}) {
      const Bound built(&store_, "p", form, out, in);
      const Bound planned(&store_, "p", form, out, in, {}, false);
      ASSERT_EQ(planned.error.message, "none");
      EXPECT_EQ(planned.bookings.workspace_floats(), built.bookings.workspace_floats());
      ASSERT_EQ(planned.binder.uses().size(), built.binder.uses().size());
      for (std::size_t i = 0; i < built.binder.uses().size(); ++i) {
        EXPECT_EQ(planned.binder.uses()[i].bytes, built.binder.uses()[i].bytes);
        EXPECT_EQ(planned.binder.uses()[i].placement, built.binder.uses()[i].placement);
      }
    }
  }
}

TEST_F(AqlmParts, ThatDoNotFitAreRefused) {
  const void* data = numbers_.data();
  EXPECT_EQ(message(), "none");
  EXPECT_EQ(message_with("p.codes", {data, DType::i16, {6, 2, 2}}),
            "[build] p.codes: expected i8 [6,2,2], found i16 [6,2,2]");
  EXPECT_EQ(message_with("p.codes", {data, DType::i8, {2, 6, 2}}),
            "[build] p.codes: expected i8 [6,2,2], found i8 [2,6,2]");
  EXPECT_EQ(message_with("p.scales", {data, DType::f32, {5, 1, 1, 1}}),
            "[build] p.scales: expected [6,1,1,1], found f32 [5,1,1,1]");
  EXPECT_EQ(message_with("p.scales", {data, DType::i8, {6, 1, 1, 1}}),
            "[build] p.scales: expected f16, bf16 or f32, found i8 [6,1,1,1]");
  const std::string shape =
      "[build] p.codebooks: expected [codebooks, 2^bits up to 2^16, out group, in group], found ";
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 255, 1, 8}}),
            shape + "f32 [2,255,1,8]");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 256, 8}}), shape + "f32 [2,256,8]");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 131072, 1, 1}}),
            shape + "f32 [2,131072,1,1]");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {0, 256, 1, 8}}),
            shape + "f32 [0,256,1,8]");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 1, 1, 8}}), shape + "f32 [2,1,1,8]");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 256, 1, 0}}),
            shape + "f32 [2,256,1,0]");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 256, 1, 5}}),
            "[build] p.codebooks: expected groups that divide [6,16], found groups of 1 × 5");
  EXPECT_EQ(message_with("p.codebooks", {data, DType::f32, {2, 256, 4, 8}}),
            "[build] p.codebooks: expected groups that divide [6,16], found groups of 4 × 8");
}

TEST_F(AqlmParts, WithNumbersThatAreNotFiniteAreRefused) {
  numbers_[77] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(message(), "[build] p.codebooks: expected finite numbers, found another (element 77)");
  EXPECT_EQ(message("file", {}, false), "none");
  numbers_[77] = 0.0F;
  scales_[4] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message(), "[build] p.scales: expected finite numbers, found another (element 4)");
}

TEST_F(AqlmParts, WithCodesBeyondTheCodebookAreRefused) {
  set({.name = "p", .codebooks = 4, .bits = 4, .in_group = 8});
  EXPECT_EQ(message(), "none");
  codes_[9] = 8;
  codes_[30] = -9;
  const std::string expected = "[build] p.codes: expected codes from -8 to 7, found 8 (element 9)";
  EXPECT_EQ(message(), expected);
  EXPECT_EQ(message("aqlm-exact"), expected);
  EXPECT_EQ(message("file", {}, false), "none");
  set({.name = "p", .codebooks = 1, .bits = 12, .in_group = 8});
  EXPECT_EQ(message(), "none");
  wide_[3] = -2049;
  EXPECT_EQ(message(),
            "[build] p.codes: expected codes from -2048 to 2047, found -2049 (element 3)");
}

TEST_F(AqlmParts, AreToldByTheirNames) {
  EXPECT_EQ(message(), "none");
  for (const char* form : {"aqlm", "q8"}) {  // of the rest of the checkpoint
    store_.metadata[std::string(weight_form_key)] = form;
    EXPECT_EQ(message(), "none") << form;
  }
  store_.metadata[std::string(weight_form_key)] = "unknown";
  EXPECT_EQ(message().find("[build] p.weight: expected a matrix in one of the forms"), 0U);
  store_.metadata.clear();
  store_.remove("p.scales");
  EXPECT_EQ(message().find("[build] p.weight: expected a matrix in one of the forms"), 0U);
}

TEST_F(AqlmParts, AreNeitherMadeOfFloatsNorRoundedOnceMore) {
  WeightStore dense;
  dense.add("p.weight", {numbers_.data(), DType::f32, {out, in}}, nullptr);
  const auto forms_of = [&](const WeightStore& store, const std::string& form) {
    WeightBinder binder(&store, {.weights = {.form = form}});
    Bookings bookings(in);
    const auto bound = Linear::bind(WeightScope(binder, "").scope("p"), bookings, out, in, false);
    if (!bound) return bound.error().message;
    return std::ranges::find(binder.uses(), TensorRole::matrix, &TensorUse::role)->form;
  };
  EXPECT_EQ(forms_of(dense, "aqlm"), "f32");
  EXPECT_EQ(forms_of(dense, "aqlm-exact"), "f32");
  EXPECT_EQ(forms_of(store_, "q8"), "aqlm");
  EXPECT_EQ(forms_of(store_, "aqlm-exact"), "aqlm-exact");
  EXPECT_EQ(forms_of(store_, "f32"), "f32");
}

TEST_F(AqlmParts, AreComparedWithTheConfiguration) {
  const AqlmConfig config{.in_group_size = 8, .num_codebooks = 2, .nbits_per_codebook = 8};
  EXPECT_TRUE(check_aqlm_config(store_, config));
  const auto wrong = check_aqlm_config(store_, {});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message,
            "[build] p.codebooks: expected [1,2^16,1,8] as quantization_config says, found f32 "
            "[2,256,1,8]");
  const auto none = check_aqlm_config({}, config);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message,
            "[build] quantization_config: expected matrices of the method aqlm, found none");
}

// 512 rows of 1x8g8 are enough for tables of 8 bits, one less is not.
TEST(AqlmForm, MultipliesManyRowsOfEightBitsByTables) {
  constexpr Index in = 72;
  constexpr Index most = 512;
  std::vector<std::int8_t> codes(static_cast<std::size_t>(most * in / 8));
  for (std::size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::int8_t>(static_cast<int>(i * 37 % 256) - 128);
  }
  const std::vector<float> numbers = random_floats(256 * 8, 4);
  const std::vector<float> scales = random_floats(most, 5);
  const std::vector<float> values = random_floats(20 * in, 6);
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  for (const Index out : {most - 1, most}) {
    WeightStore store;
    store.add("p.codes", {codes.data(), DType::i8, {out, in / 8, 1}}, nullptr);
    store.add("p.codebooks", {numbers.data(), DType::f32, {1, 256, 1, 8}}, nullptr);
    store.add("p.scales", {scales.data(), DType::f32, {out, 1, 1, 1}}, nullptr);
    const Bound exact(&store, "p", "aqlm-exact", out, in);
    const Bound tables(&store, "p", "file", out, in);
    ASSERT_EQ(tables.error.message, "none");
    EXPECT_TRUE(same_bits<float>(exact.rows(), tables.rows()));
    std::vector<float> whole;
    for (const Index tokens : {20, 1, 3, 8}) {
      const MatrixView<const float> x(values.data(), tokens, in);
      const std::vector<float> expected = exact.apply(serial, x);
      const std::vector<float> y = tables.apply(three, x);
      if (whole.empty()) whole = y;
      EXPECT_TRUE(same_bits<float>(std::span(whole).first(y.size()), y)) << out << ' ' << tokens;
      EXPECT_EQ(same_bits<float>(expected, y), out < most) << out << ' ' << tokens;
      double error = 0.0;
      double power = 0.0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double difference = static_cast<double>(y[i]) - static_cast<double>(expected[i]);
        error += difference * difference;
        power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      }
      EXPECT_LE(error, 2e-4 * power) << out << ' ' << tokens;
    }
  }
}

// Random parts in place of every matrix of a checkpoint, of one scheme after the other.
class QuantisedCheckpoint {
 public:
  QuantisedCheckpoint(WeightStore weights, const ModelPlan& plan, bool has_tables)
      : store(std::move(weights)) {
    int next = 0;
    for (const TensorUse& use : plan.tensors) {
      if (use.role == TensorRole::matrix) replace(use, next++, has_tables);
    }
  }

  WeightStore store;

 private:
  void replace(const TensorUse& use, int i, bool has_tables) {
    const int rank = use.shape.rank();
    const Index count = rank == 3 ? use.shape[0] : 1;
    const Index out = use.shape[rank - 2];
    const Index in = use.shape[rank - 1];
    const Index g = in % 8 == 0 ? 8 : in % 4 == 0 ? 4 : 1;
    const Index h = !has_tables && i % 2 == 1 && out % 2 == 0 ? 2 : 1;
    const Index books = has_tables ? 4 : 1 + i % 3;
    const int bits = has_tables ? 4 : 8;
    const auto shape = [&](std::vector<Index> extents) {
      if (rank == 3) extents.insert(extents.begin(), count);
      return Shape::make(extents).value();
    };
    const std::string name = use.name.substr(0, use.name.size() - std::string("weight").size());
    store.remove(use.name);
    add(name + "codes", DType::i8, shape({out / h, in / g, books}), [&](std::size_t n) {
      const int half = 1 << (bits - 1);
      codes_.emplace_back(n);
      for (std::size_t k = 0; k < n; ++k) {
        codes_.back()[k] =
            static_cast<std::int8_t>(static_cast<int>(k * 37 % 255) % (2 * half) - half);
      }
      return static_cast<const void*>(codes_.back().data());
    });
    const auto floats = [&](std::size_t n) {
      numbers_.push_back(random_floats(static_cast<Index>(n), static_cast<std::uint64_t>(i)));
      return static_cast<const void*>(numbers_.back().data());
    };
    add(name + "codebooks", DType::f32, shape({books, Index{1} << bits, h, g}), floats);
    add(name + "scales", DType::f32, shape({out / h, 1, 1, 1}), floats);
  }

  template <class Make>
  void add(const std::string& name, DType dtype, const Shape& shape, Make&& make) {
    store.add(name, {make(static_cast<std::size_t>(shape.size())), dtype, shape}, nullptr);
  }

  std::list<std::vector<std::int8_t>> codes_;
  std::list<std::vector<float>> numbers_;
};

// Mixers, routers aside, experts, embedding and head.
TEST(AqlmInAModel, GivesTheSameLogitsForAnyChunksThreadsAndInstructionSets) {
  const ModelSpec spec = test::tiny_expert_spec();
  const WeightStore floats = random_weights(spec, 11, "backbone").value();
  const ModelPlan plan = plan_model(spec, &floats, "backbone", {}).value();
  for (const bool has_tables : {false, true}) {
    const QuantisedCheckpoint made(floats, plan, has_tables);
    const Model model = build_model(spec, made.store, "backbone").value();
    for (const TensorUse& use : model.plan().tensors) {
      EXPECT_EQ(use.form, use.role == TensorRole::matrix ? "aqlm" : "f32") << use.name;
    }
    const std::vector<Token> tokens = test::random_tokens(20, model.vocab(), 5);
    test::EagerThreadPool three(3);
    SerialExecutor serial;
    const auto logits = [&](const Model& of, Executor& executor, Index chunk) {
      return test::all_logits(of, tokens, executor, {.chunk = chunk});
    };
    const std::vector<float> expected = logits(model, serial, 20);
    test::for_each_isa([&](Isa isa) {
      for (const Index chunk : {20, 1, 7}) {
        EXPECT_TRUE(same_bits<float>(expected, logits(model, three, chunk)))
            << to_string(isa) << ' ' << chunk;
      }
    });
    // Without tables, and in any case if asked for, they are those of the dense model.
    const Model dense = build_model(spec, made.store, "backbone", {.form = "f32"}).value();
    const Model exact = build_model(spec, made.store, "backbone", {.form = "aqlm-exact"}).value();
    const std::vector<float> of_dense = logits(dense, serial, 20);
    EXPECT_TRUE(same_bits<float>(of_dense, logits(exact, three, 7)));
    EXPECT_EQ(same_bits<float>(of_dense, expected), !has_tables);
    EXPECT_EQ(build_model(spec, made.store, "backbone", {.form = "q8"}).error().message,
              "[build] form: expected a matrix that q8 can hold, found aqlm only");
  }
  EXPECT_EQ(build_model(spec, floats, "backbone", {.form = "aqlm"}).error().message,
            "[build] form: expected a matrix that aqlm can hold, found f32 only");
}

TEST(AqlmInAModel, MixesWithOtherForms) {
  const ModelSpec spec = test::tiny_spec();
  const WeightStore floats = random_weights(spec, 11, "backbone").value();
  ModelPlan plan = plan_model(spec, &floats, "backbone", {}).value();
  std::erase_if(plan.tensors, [](const TensorUse& use) {
    return use.name.find(".in_proj.") == std::string::npos;
  });
  const QuantisedCheckpoint made(floats, plan, true);
  for (const std::string form : {"q8", "q4", "bf16", "aqlm-exact"}) {
    const Model model = build_model(spec, made.store, "backbone", {.form = form}).value();
    for (const TensorUse& use : model.plan().tensors) {
      if (use.role != TensorRole::matrix) continue;
      const bool is_coded = use.name.find(".in_proj.") != std::string::npos;
      const std::string coded = form == "bf16" || form == "aqlm-exact" ? form : "aqlm";
      const std::string other = form == "aqlm-exact" ? "f32" : form;
      EXPECT_EQ(use.form, is_coded ? coded : other) << use.name;
    }
  }
}

}  // namespace
}  // namespace krait::aqlm_test
