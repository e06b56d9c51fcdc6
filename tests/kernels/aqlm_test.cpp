#include "krait/kernels/aqlm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "krait/kernels/matvec.hpp"
#include "krait/kernels/ref/aqlm.hpp"
#include "krait/kernels/ref/matmul.hpp"
#include "tests/support/aqlm.hpp"
#include "tests/support/eager_thread_pool.hpp"

namespace krait::aqlm_test {
namespace {

using kernels::AqlmScheme;
using kernels::AqlmTables;
using kernels::AqlmTableWeights;
using kernels::AqlmWeights;
using test::aqlm_schemes;
using test::AqlmMatrix;
using test::AqlmTableMatrix;
using test::for_each_isa;
using test::MadeTables;
using test::misaligned;
using test::random_floats;
using test::same_bits;
using test::to_string;

constexpr float untouched = -77.0F;

std::vector<DType> number_types(const AqlmScheme& scheme) {
  return scheme.bits > 4 ? std::vector<DType>{DType::f32, DType::f16}
                         : std::vector<DType>{DType::f32};
}

// Columns of so many groups, about `cols`.
Index whole_groups(const AqlmScheme& scheme, Index cols) {
  return std::max(Index{1}, cols / scheme.in_group) * scheme.in_group;
}

// Compares all instruction sets with the model, with and without a bias.
void compare(const AqlmScheme& scheme, DType numbers, Index rows, Index cols, Index tokens,
             Index offset) {
  rows = round_up(rows, scheme.out_group);
  cols = whole_groups(scheme, cols);
  const AqlmMatrix W(scheme, rows, cols, numbers, offset);
  auto x = misaligned(random_floats(tokens * (cols + 3), 2), offset);
  auto bias = misaligned(random_floats(rows, 3), offset);
  const Index stride = rows + 3;
  for (const bool has_bias : {false, true}) {
    std::vector<float> expected(static_cast<std::size_t>(tokens * stride), untouched);
    kernels::MatmulAqlmArgs args{.W = W.view(),
                                 .x = {x.data(), tokens, cols, cols + 3},
                                 .bias = has_bias ? bias.data() : nullptr,
                                 .y = {expected.data(), tokens, rows, stride},
                                 .outputs = {0, rows}};
    ref::matmul_aqlm(args);
    for_each_isa([&](Isa isa) {
      auto y = misaligned(std::vector<float>(expected.size(), untouched), offset);
      args.y.data = y.data();
      kernels::matmul_aqlm(args);
      ASSERT_TRUE(same_bits<float>(expected, y.span()))
          << to_string(isa) << ' ' << to_string(scheme) << " rows=" << rows << " cols=" << cols
          << " tokens=" << tokens << " offset=" << offset << " bias=" << has_bias;
    });
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(DecodeAqlm, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (const AqlmScheme& scheme : aqlm_schemes) {
    for (const DType numbers : number_types(scheme)) {
      for (const Index cols : {1, 8, 24, 48, 264, 560}) {
        const AqlmMatrix W(scheme, 6, whole_groups(scheme, cols), numbers, cols % 3);
        std::vector<float> expected(static_cast<std::size_t>(4 * W.view().cols));
        ref::decode_aqlm(W.view(), {1, 5}, expected.data());
        for_each_isa([&](Isa isa) {
          std::vector<float> out(expected.size());
          kernels::decode_aqlm(W.view(), {1, 5}, out.data());
          ASSERT_TRUE(same_bits<float>(expected, out)) << to_string(isa) << to_string(scheme);
        });
      }
    }
  }
}

TEST(DecodeAqlm, UnwrapsCodesAtTheirWidth) {
  // The codes -1 and -2^(B-1) are the last and the middle codeword.
  for (const int bits : {4, 8, 12, 16}) {
    const AqlmScheme scheme{.codebooks = 1, .bits = bits, .in_group = 1};
    std::vector<float> numbers(static_cast<std::size_t>(scheme.codewords()));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
    const std::int16_t codes[] = {-1, static_cast<std::int16_t>(-(1 << (bits - 1))), 0, 1};
    const std::int8_t narrow[] = {static_cast<std::int8_t>(codes[0]),
                                  static_cast<std::int8_t>(codes[1]), 0, 1};
    const float scale = 2.0F;
    const bool is_narrow = bits <= 8;
    const AqlmWeights W{.scheme = scheme,
                        .codes = is_narrow ? static_cast<const void*>(narrow) : codes,
                        .code_type = is_narrow ? DType::i8 : DType::i16,
                        .codebooks = numbers.data(),
                        .scales = &scale,
                        .rows = 1,
                        .cols = 4};
    for_each_isa([&](Isa isa) {
      float out[4];
      kernels::decode_aqlm(W, {0, 1}, out);
      const auto count = static_cast<float>(scheme.codewords());
      EXPECT_EQ(out[0], 2 * count - 2) << to_string(isa) << bits;
      EXPECT_EQ(out[1], count) << to_string(isa) << bits;
      EXPECT_EQ(out[2], 0.0F);
      EXPECT_EQ(out[3], 2.0F);
    });
  }
}

TEST(MatmulAqlm, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (const AqlmScheme& scheme : aqlm_schemes) {
    for (const DType numbers : number_types(scheme)) {
      for (Index cols = 8; cols <= 104; cols += 8) compare(scheme, numbers, 5, cols, 2, cols % 3);
      for (Index rows = 1; rows <= 9; ++rows) compare(scheme, numbers, rows, 72, 1, rows % 2);
      for (Index tokens = 1; tokens <= 19; ++tokens) compare(scheme, numbers, 6, 56, tokens, 1);
      for (const Index cols : {512, 776}) compare(scheme, numbers, 5, cols, 3, 0);
    }
  }
}

TEST(MatmulAqlm, HasTheBitsOfADenseMatrix) {
  for (const AqlmScheme& scheme : aqlm_schemes) {
    const Index cols = whole_groups(scheme, 100);
    const AqlmMatrix W(scheme, 36, cols);
    std::vector<float> dense(static_cast<std::size_t>(36 * cols));
    kernels::decode_aqlm(W.view(), {0, 36}, dense.data());
    const auto x = random_floats(3 * cols, 7);
    std::vector<float> expected(3 * 36);
    std::vector<float> y(expected.size());
    ref::matmul({.W = {dense.data(), DType::f32, 36, cols},
                 .x = {x.data(), 3, cols},
                 .y = {expected.data(), 3, 36},
                 .outputs = {0, 36}});
    kernels::matmul_aqlm(
        {.W = W.view(), .x = {x.data(), 3, cols}, .y = {y.data(), 3, 36}, .outputs = {0, 36}});
    EXPECT_TRUE(same_bits<float>(expected, y)) << to_string(scheme);
  }
}

TEST(MatmulAqlm, WritesOnlyTheOutputsAskedFor) {
  for (const AqlmScheme& scheme : {aqlm_schemes[1], aqlm_schemes[2], aqlm_schemes[7]}) {
    constexpr Index rows = 38;
    const AqlmMatrix W(scheme, rows, 64);
    const auto x = random_floats(2 * 64, 7);
    for (Index begin = 0; begin < rows; begin += 16) {
      for (Index end = begin; end <= 48; end += 16) {
        std::vector<float> expected(2 * rows, untouched);
        kernels::MatmulAqlmArgs args{.W = W.view(),
                                     .x = {x.data(), 2, 64},
                                     .y = {expected.data(), 2, rows},
                                     .outputs = {begin, std::min(end, rows)}};
        ref::matmul_aqlm(args);
        for_each_isa([&](Isa isa) {
          std::vector<float> y(2 * rows, untouched);
          args.y.data = y.data();
          kernels::matmul_aqlm(args);
          ASSERT_EQ(expected, y) << to_string(isa) << ' ' << begin << ' ' << end;
        });
      }
    }
  }
}

TEST(MatmulAqlm, IsCloseToTheOracle) {
  for (const AqlmScheme& scheme : aqlm_schemes) {
    const Index cols = whole_groups(scheme, 768);
    const AqlmMatrix W(scheme, 6, cols);
    const auto x = random_floats(2 * cols, 9);
    std::vector<float> y(12);
    std::vector<double> exact(12);
    const kernels::MatmulAqlmArgs args{
        .W = W.view(), .x = {x.data(), 2, cols}, .y = {y.data(), 2, 6}, .outputs = {0, 6}};
    kernels::matmul_aqlm(args);
    ref::matmul_aqlm_oracle(args, {exact.data(), 2, 6});
    for (std::size_t i = 0; i < y.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(y[i]), exact[i], 2e-4) << to_string(scheme);
    }
  }
}

constexpr AqlmScheme few_codewords{.codebooks = 4, .bits = 4, .in_group = 8};
constexpr AqlmScheme many_codewords{.codebooks = 2, .bits = 8, .in_group = 8};

// Schemes for tables: of one block, of several, of groups that lie across blocks.
constexpr AqlmScheme table_schemes[] = {
    {.codebooks = 4, .bits = 4, .in_group = 8},  {.codebooks = 8, .bits = 4, .in_group = 16},
    {.codebooks = 1, .bits = 4, .in_group = 8},  {.codebooks = 3, .bits = 4, .in_group = 8},
    {.codebooks = 5, .bits = 4, .in_group = 7},  {.codebooks = 2, .bits = 4, .in_group = 4},
    {.codebooks = 40, .bits = 4, .in_group = 1}, {.codebooks = 2, .bits = 8, .in_group = 8},
    {.codebooks = 1, .bits = 8, .in_group = 8},  {.codebooks = 8, .bits = 8, .in_group = 32},
    {.codebooks = 3, .bits = 8, .in_group = 5},  {.codebooks = 20, .bits = 8, .in_group = 2},
};

// Of 8 bits, which may have tokens beside each other.
std::vector<Index> lanes_of(const AqlmScheme& scheme) {
  return scheme.bits == 8 ? std::vector<Index>{1, AqlmTables::wide} : std::vector<Index>{1};
}

using MakeTables = void (*)(const AqlmTableWeights&, MatrixView<const float>, Range,
                            const AqlmTables&) noexcept;

// The memory of the tables of `blocks`, of which only `items` are made.
std::vector<std::byte> tables(const AqlmTableWeights& W, MatrixView<const float> x, Range blocks,
                              Index lanes, Range items, MakeTables make) {
  AlignedBuffer<float> memory(round_up(x.rows, lanes) * blocks.size() *
                              AqlmTables::floats_per_block(W));
  make(W, x, items, {memory.data(), x.rows, W, blocks, lanes});
  const auto bytes = std::as_bytes(memory.span());
  return {bytes.begin(), bytes.end()};
}

TEST(MakeAqlmTables, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (const AqlmScheme& scheme : table_schemes) {
    for (const Index cols : {1, 8, 16, 24, 40, 64, 200}) {
      const AqlmMatrix W(scheme, 3, whole_groups(scheme, cols));
      const AqlmTableMatrix packed(W.view());
      const Index all = packed.view().blocks();
      auto x = misaligned(random_floats(3 * (W.view().cols + 2), 5), cols % 3);
      const MatrixView<const float> rows(x.data(), 3, W.view().cols, W.view().cols + 2);
      for (const Index lanes : lanes_of(scheme)) {
        for (const Range blocks : {Range{0, all}, Range{all / 2, all}, Range{0, 1}}) {
          const Index count = round_up(3, lanes) / lanes * blocks.size();
          for (const Range items : {Range{0, count}, Range{count / 3, count}, Range{1, 1}}) {
            const auto expected =
                tables(packed.view(), rows, blocks, lanes, items, ref::make_aqlm_tables);
            for_each_isa([&](Isa isa) {
              ASSERT_EQ(expected, tables(packed.view(), rows, blocks, lanes, items,
                                         kernels::make_aqlm_tables))
                  << to_string(isa) << to_string(scheme) << " cols=" << cols << " lanes=" << lanes;
            });
          }
        }
      }
    }
  }
}

TEST(MakeAqlmTables, TakesExtremeActivations) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float largest = std::numeric_limits<float>::max() / 16;
  for (const AqlmScheme& scheme : {few_codewords, many_codewords}) {
    const AqlmMatrix W(scheme, 3, 32);
    const AqlmTableMatrix packed(W.view());
    for (const float value : {0.0F, -0.0F, infinity, -infinity, nan, largest, -largest, 1e-38F,
                              1e-45F, 0x1p-100F, 0x1p-99F, 0x1p-101F, 1e-30F}) {
      for (const Index at : {0, 15, 31}) {
        std::vector<float> x(32, 0.0F);
        x[static_cast<std::size_t>(at)] = value;
        x[7] = std::isfinite(value) ? value / 3 : 1.0F;
        const MatrixView<const float> rows(x.data(), 1, 32);
        const auto expected = tables(packed.view(), rows, {0, 1}, 1, {0, 1}, ref::make_aqlm_tables);
        for_each_isa([&](Isa isa) {
          ASSERT_EQ(expected,
                    tables(packed.view(), rows, {0, 1}, 1, {0, 1}, kernels::make_aqlm_tables))
              << to_string(isa) << ' ' << value << " at " << at;
          const MadeTables made(packed.view(), rows);
          ASSERT_EQ(std::isnan(made.view().steps[0]), !std::isfinite(value)) << value;
        });
      }
    }
  }
}

TEST(PackAqlmCodes, PutsEveryCodeInItsPlace) {
  for (const AqlmScheme& scheme : table_schemes) {
    const Index cols = whole_groups(scheme, 72);
    const AqlmMatrix W(scheme, 70, cols);
    const AqlmTableMatrix packed(W.view());
    const AqlmTableWeights& T = packed.view();
    for (Index r = 0; r < 128; ++r) {
      for (Index i = 0; i < T.blocks() * 16; ++i) {
        const Index expected =
            r < 70 && i < T.row_codes()
                ? ref::aqlm_code(W.view(), r, i / scheme.codebooks, i % scheme.codebooks)
                : 0;
        ASSERT_EQ(ref::aqlm_table_code(T, r, i), expected) << to_string(scheme) << r << ' ' << i;
      }
    }
  }
}

TEST(DecodeAqlmRow, GivesTheDecodedWeights) {
  for (const AqlmScheme& scheme : table_schemes) {
    const AqlmMatrix W(scheme, 70, whole_groups(scheme, 72));
    const AqlmTableMatrix packed(W.view());
    std::vector<float> expected(static_cast<std::size_t>(W.view().cols));
    std::vector<float> row(expected.size());
    for (const Index r : {0, 31, 32, 69}) {
      kernels::decode_aqlm(W.view(), {r, r + 1}, expected.data());
      kernels::decode_aqlm_row(packed.view(), r, row);
      EXPECT_TRUE(same_bits<float>(expected, row)) << to_string(scheme) << r;
    }
  }
}

// Compares all instruction sets with the model, with and without a bias; the blocks come at once or
// in two calls.
void compare_tables(const AqlmScheme& scheme, Index rows, Index cols, Index tokens, Index offset) {
  cols = whole_groups(scheme, cols);
  const AqlmMatrix W(scheme, rows, cols);
  const AqlmTableMatrix packed(W.view());
  const Index blocks = packed.view().blocks();
  const auto input = random_floats(tokens * cols, 2);
  const MatrixView<const float> x(input.data(), tokens, cols);
  auto bias = misaligned(random_floats(rows, 3), offset);
  const Index stride = rows + 3;
  for (const bool has_bias : {false, true}) {
    std::vector<float> expected(static_cast<std::size_t>(tokens * stride), untouched);
    const MadeTables whole(packed.view(), x);
    kernels::MatmulAqlmTablesArgs args{.W = packed.view(),
                                       .x = whole.view(),
                                       .bias = has_bias ? bias.data() : nullptr,
                                       .y = {expected.data(), tokens, rows, stride},
                                       .outputs = {0, rows}};
    ref::matmul_aqlm_tables(args);
    for (const Index lanes : lanes_of(scheme)) {
      for (const Index cut : {blocks, blocks / 2}) {
        const MadeTables first(packed.view(), x, {0, cut}, lanes);
        const MadeTables second(packed.view(), x, {cut, blocks}, lanes);
        for_each_isa([&](Isa isa) {
          auto y = misaligned(std::vector<float>(expected.size(), untouched), offset);
          args.y.data = y.data();
          for (const AqlmTables& part : {first.view(), second.view()}) {
            args.x = part;
            if (part.blocks.size() > 0) kernels::matmul_aqlm_tables(args);
          }
          ASSERT_TRUE(same_bits<float>(expected, y.span()))
              << to_string(isa) << ' ' << to_string(scheme) << " rows=" << rows << " cols=" << cols
              << " tokens=" << tokens << " offset=" << offset << " bias=" << has_bias
              << " lanes=" << lanes << " cut=" << cut;
        });
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(MatmulAqlmTables, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (const AqlmScheme& scheme : table_schemes) {
    for (Index cols = 8; cols <= 104; cols += 8) compare_tables(scheme, 19, cols, 2, cols % 4);
    for (Index rows = 1; rows <= 70; rows += 3) compare_tables(scheme, rows, 48, 3, rows % 3);
    for (Index tokens = 1; tokens <= 19; ++tokens) compare_tables(scheme, 37, 80, tokens, 1);
  }
  for (Index tokens = 1; tokens <= 9; ++tokens) {
    for (const AqlmScheme& scheme : {few_codewords, many_codewords}) {
      for (Index rows = 55; rows <= 68; ++rows) compare_tables(scheme, rows, 40, tokens, 1);
      compare_tables(scheme, 600, 264, tokens, 0);
    }
    compare_tables(table_schemes[1], 257, 1536, tokens, 0);
  }
}

void expect_only_the_outputs_asked_for(const AqlmScheme& scheme, Index lanes) {
  constexpr Index rows = 150;
  const AqlmMatrix W(scheme, rows, 64);
  const AqlmTableMatrix packed(W.view());
  const auto input = random_floats(2 * 64, 7);
  const MadeTables x(packed.view(), {input.data(), 2, 64}, {0, packed.view().blocks()}, lanes);
  for (Index begin = 0; begin < rows; begin += 64) {
    for (Index end = begin; end <= 192; end += 64) {
      std::vector<float> expected(2 * rows, untouched);
      kernels::MatmulAqlmTablesArgs args{.W = packed.view(),
                                         .x = x.view(),
                                         .y = {expected.data(), 2, rows},
                                         .outputs = {begin, std::min(end, rows)}};
      ref::matmul_aqlm_tables(args);
      for_each_isa([&](Isa isa) {
        std::vector<float> y(2 * rows, untouched);
        args.y.data = y.data();
        kernels::matmul_aqlm_tables(args);
        ASSERT_EQ(expected, y) << to_string(isa) << ' ' << begin << ' ' << end;
      });
    }
  }
}

TEST(MatmulAqlmTables, WritesOnlyTheOutputsAskedFor) {
  for (const AqlmScheme& scheme : {few_codewords, many_codewords}) {
    for (const Index lanes : lanes_of(scheme)) expect_only_the_outputs_asked_for(scheme, lanes);
  }
}

TEST(MatmulAqlmTables, HoldsTheLargestSums) {
  // Four codebooks in blocks of 16 codes for 32 inputs.
  for (const int bits : {4, 8}) {
    const AqlmScheme scheme{.codebooks = 4, .bits = bits, .in_group = 8};
    const std::vector<std::int8_t> codes(64 * 4 * 4, -1);
    const std::vector<float> scales(64, 1.0F);
    const std::vector<float> input(32, 1.0F);
    for (const float sign : {1.0F, -1.0F}) {
      const std::vector<float> numbers(static_cast<std::size_t>(4 * scheme.codewords() * 8), sign);
      const AqlmTableMatrix packed({.scheme = scheme,
                                    .codes = codes.data(),
                                    .codebooks = numbers.data(),
                                    .scales = scales.data(),
                                    .rows = 64,
                                    .cols = 32});
      for (const Index lanes : lanes_of(scheme)) {
        const MadeTables x(packed.view(), {input.data(), 1, 32}, {0, 1}, lanes);
        for_each_isa([&](Isa isa) {
          std::vector<float> y(64);
          kernels::matmul_aqlm_tables(
              {.W = packed.view(), .x = x.view(), .y = {y.data(), 1, 64}, .outputs = {0, 64}});
          for (const float value : y) ASSERT_NEAR(value, sign * 128.0F, 1e-3F) << to_string(isa);
        });
      }
    }
  }
}

TEST(MatmulAqlmTables, IsCloseToTheOracleAndToTheWeights) {
  constexpr Index rows = 96;
  constexpr Index cols = 768;
  constexpr Index tokens = 3;
  for (const AqlmScheme& scheme : {few_codewords, table_schemes[1], many_codewords}) {
    for (const float outlier : {1.0F, 20.0F}) {
      const AqlmMatrix W(scheme, rows, cols);
      const AqlmTableMatrix packed(W.view());
      auto input = random_floats(tokens * cols, 9);
      for (Index t = 0; t < tokens; ++t) input[static_cast<std::size_t>(t * cols + 77)] *= outlier;
      const MatrixView<const float> x(input.data(), tokens, cols);
      const MadeTables made(packed.view(), x);
      std::vector<float> y(tokens * rows);
      std::vector<double> exact(y.size());
      std::vector<double> weights(y.size());
      const kernels::MatmulAqlmTablesArgs args{.W = packed.view(),
                                               .x = made.view(),
                                               .y = {y.data(), tokens, rows},
                                               .outputs = {0, rows}};
      kernels::matmul_aqlm_tables(args);
      ref::matmul_aqlm_tables_oracle(args, {exact.data(), tokens, rows});
      ref::matmul_aqlm_oracle(
          {.W = W.view(), .x = x, .y = {y.data(), tokens, rows}, .outputs = {0, rows}},
          {weights.data(), tokens, rows});
      double error = 0.0;
      double power = 0.0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        const auto value = static_cast<double>(y[i]);
        ASSERT_NEAR(value, exact[i], 2e-4);
        error += (value - weights[i]) * (value - weights[i]);
        power += weights[i] * weights[i];
      }
      EXPECT_LT(std::sqrt(error / power), scheme.bits == 4 ? 0.009 : 0.011)
          << to_string(scheme) << ' ' << outlier;
    }
  }
}

// The entries to products.

constexpr Index token_counts[] = {1, 2, 5, 8, 9, 24, 64};

// Compares `product` with the expected bits for every number of tokens and threads, with the memory
// that is booked and, if `also_without`, with none.
template <class Weights, class Expected>
void compare_product(const Weights& W, Index workspace_per_token, bool also_without,
                     Expected&& expected) {
  SerialExecutor serial;
  test::EagerThreadPool three(3);
  const std::vector<float> values = random_floats(64 * W.cols, 3);
  const std::vector<float> bias = random_floats(W.rows, 2);
  for (const Index tokens : token_counts) {
    const MatrixView<const float> x(values.data(), tokens, W.cols);
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      std::vector<float> model(static_cast<std::size_t>(tokens * W.rows));
      expected(x, b, MatrixView<float>(model.data(), tokens, W.rows));
      for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&three)}) {
        for (const Index per_token : {workspace_per_token, Index{0}}) {
          if (per_token == 0 && !also_without) continue;
          AlignedBuffer<float> workspace(per_token * tokens);
          const ProductContext ctx{.executor = *executor, .workspace = workspace.span()};
          std::vector<float> y(model.size());
          kernels::product(ctx, W,
                           {.x = x, .bias = b, .y = MatrixView<float>(y.data(), tokens, W.rows)});
          ASSERT_TRUE(same_bits<float>(model, y))
              << W.rows << "x" << W.cols << " tokens=" << tokens << " threads=" << executor->width()
              << " workspace=" << per_token;
        }
      }
    }
  }
}

TEST(AqlmProduct, GivesTheBitsOfMatmulAqlm) {
  for (const AqlmScheme& scheme : {aqlm_schemes[1], aqlm_schemes[3], aqlm_schemes[8]}) {
    for (const Index rows : {1, 7, 131, 200}) {
      const AqlmMatrix W(scheme, round_up(rows, scheme.out_group), 40);
      for_each_isa([&](Isa) {
        compare_product(
            W.view(), kernels::product_aqlm_workspace(40), true,
            [&](MatrixView<const float> x, const float* bias, MatrixView<float> y) {
              ref::matmul_aqlm(
                  {.W = W.view(), .x = x, .bias = bias, .y = y, .outputs = {0, y.cols}});
            });
      });
    }
  }
}

void expect_bits_of_tables(const AqlmScheme& scheme, Index rows, Index cols) {
  const AqlmMatrix W(scheme, rows, cols);
  const AqlmTableMatrix packed(W.view());
  for_each_isa([&](Isa) {
    compare_product(
        packed.view(), kernels::product_aqlm_workspace(packed.view()), false,
        [&](MatrixView<const float> x, const float* bias, MatrixView<float> y) {
          const MadeTables made(packed.view(), x);
          ref::matmul_aqlm_tables(
              {.W = packed.view(), .x = made.view(), .bias = bias, .y = y, .outputs = {0, y.cols}});
        });
  });
}

TEST(AqlmProduct, GivesTheBitsOfMatmulAqlmTables) {
  for (const Index rows : {1, 64, 131, 600}) expect_bits_of_tables(few_codewords, rows, 40);
  // Of 8 bits: a block, some blocks, more than are booked.
  for (const Index cols : {40, 200, 1200}) expect_bits_of_tables(many_codewords, 67, cols);
  for (const Index rows : {1, 600}) expect_bits_of_tables(many_codewords, rows, 64);
}

TEST(AqlmTableWeights, TakesLargeCodebooksOfManyRows) {
  const AqlmScheme wide{.codebooks = 2, .bits = 8, .in_group = 8, .out_group = 2};
  const AqlmScheme odd{.codebooks = 1, .bits = 7, .in_group = 8};
  EXPECT_TRUE(AqlmTableWeights::takes(few_codewords, 1));
  EXPECT_FALSE(AqlmTableWeights::takes(many_codewords, 1023));
  EXPECT_TRUE(AqlmTableWeights::takes(many_codewords, 1024));
  EXPECT_FALSE(AqlmTableWeights::takes(wide, 4096));
  EXPECT_FALSE(AqlmTableWeights::takes(odd, 4096));
}

}  // namespace
}  // namespace krait::aqlm_test
