#include "krait/kernels/attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "krait/kernels/ref/attention.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::attention_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::Misaligned;
using test::random_floats;
using test::same_bits;

constexpr float untouched = -7.0F;
constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr Index page_tokens = kernels::attention_page_tokens;

// One problem with its buffers. The last page ends with the last element that may be read; the
// rows of others are apart, in no order, as pages of a cache are.
struct Problem {
  Index tokens;
  Index context;  // of the last token
  Index n_head;
  Index n_kv_head;
  Index d_head;
  Index offset = 0;
  float spread = 2.0F;  // of scores, about
  Index window = 0;
  Index row = n_kv_head * d_head + offset;
  Index values_at = page_tokens * row;
  std::vector<Misaligned<float>> pages = make_pages();
  Misaligned<float> q = misaligned(random_floats(tokens * (n_head * d_head + 5), 1, 1.7F), offset);
  Misaligned<float> y = misaligned(
      std::vector<float>(static_cast<std::size_t>(tokens * (n_head * d_head + 3)), untouched),
      offset);
  Misaligned<float> scratch =
      misaligned(std::vector<float>(static_cast<std::size_t>(kernels::attention_scratch(
                                        tokens, context, n_head, n_kv_head, d_head)),
                                    nan_value),
                 0);
  std::vector<const float*> page_data = {};

  std::vector<Misaligned<float>> make_pages() const {
    std::vector<Misaligned<float>> result;
    for (Index j = 0; j < context; j += page_tokens) {
      const Index rows = std::min(page_tokens, context - j);
      const Index used = values_at + (rows - 1) * row + n_kv_head * d_head;
      result.push_back(
          misaligned(random_floats(used, static_cast<std::uint64_t>(100 + j), 1.7F), offset));
    }
    return result;
  }

  kernels::AttentionArgs args() {
    page_data.clear();
    for (Misaligned<float>& page : pages) page_data.push_back(page.data());
    const Index width = n_head * d_head;
    return {.q = {q.data() + 5, tokens, width, width + 5},
            .pages = page_data,
            .value_offset = values_at,
            .row_stride = row,
            .position = context - tokens,
            .n_head = n_head,
            .n_kv_head = n_kv_head,
            .d_head = d_head,
            .scale = spread / std::sqrt(static_cast<float>(d_head)),
            .window = window,
            .y = {y.data(), tokens, width, width + 3},
            .scratch = {scratch.data(), scratch.span().size()},
            .heads = {0, n_head}};
  }
  kernels::AttentionArgs args_in_place() {
    auto result = args();
    result.y = {q.data() + 5, tokens, n_head * d_head, n_head * d_head + 5};
    return result;
  }
  float* key(Index j, Index kv_head) {
    return pages[static_cast<std::size_t>(j / page_tokens)].data() + j % page_tokens * row +
           kv_head * d_head;
  }
  float* value(Index j, Index kv_head) { return key(j, kv_head) + values_at; }
};

// The model, once for all instruction sets.
void compare(Problem problem) {
  Problem expected = problem;
  ref::attention(expected.args());
  for_each_isa([&](Isa) {
    Problem actual = problem;
    kernels::attention(actual.args());
    ASSERT_TRUE(same_bits<float>(expected.y.span(), actual.y.span()))
        << "tokens=" << problem.tokens << " context=" << problem.context
        << " heads=" << problem.n_head << '/' << problem.n_kv_head << " d_head=" << problem.d_head;
  });
}

// Calls body(problem) for heads of every width, up to the first failure.
template <class Body>
void for_every_width(Body body) {
  for (Index d_head = 1; d_head <= 130; ++d_head) {
    for (const Index tokens : {1, 3, 13}) {
      body(Problem{.tokens = tokens,
                   .context = 17 + d_head % 7,
                   .n_head = 4,
                   .n_kv_head = 2,
                   .d_head = d_head,
                   .offset = d_head % 4});
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Attention, EqualsTheModelForEveryWidthOfHeads) { for_every_width(compare); }

TEST(Attention, EqualsTheModelForEveryContext) {
  for (Index context = 1; context <= 200; ++context) {
    for (const Index tokens : {1, 2, 9, 64}) {
      if (tokens > context) continue;
      compare({.tokens = tokens,
               .context = context,
               .n_head = 4,
               .n_kv_head = 2,
               .d_head = context % 2 == 0 ? 16 : 24,
               .offset = context % 3});
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Attention, EqualsTheModelForEveryGroupAndNumberOfTokens) {
  for (const Index group : {1, 2, 4, 7}) {
    for (const Index tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 64}) {
      for (const Index d_head : {20, 64}) {
        compare({.tokens = tokens,
                 .context = 70 + tokens,
                 .n_head = 2 * group,
                 .n_kv_head = 2,
                 .d_head = d_head});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Attention, EqualsTheModelForTheWidthsOfModels) {
  for (const Index d_head : {64, 80, 96, 128}) {
    for (const Index tokens : {1, 4, 40}) {
      compare({.tokens = tokens, .context = 150, .n_head = 8, .n_kv_head = 2, .d_head = d_head});
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Attention, EqualsTheModelForManyHeadsAndLongContexts) {
  compare({.tokens = 2, .context = 70, .n_head = 130, .n_kv_head = 1, .d_head = 8});
  compare({.tokens = 3, .context = 70, .n_head = 100, .n_kv_head = 2, .d_head = 8});
  // Blocks of fewer queries.
  compare({.tokens = 70, .context = 2100, .n_head = 1, .n_kv_head = 1, .d_head = 4});
  compare({.tokens = 5, .context = 5000, .n_head = 14, .n_kv_head = 2, .d_head = 4});
  compare({.tokens = 1, .context = 5000, .n_head = 40, .n_kv_head = 1, .d_head = 4});
}

TEST(Attention, ScoresFarApartAreTheModels) {
  for (const float spread : {40.0F, 200.0F, 1e30F}) {
    for (const Index tokens : {1, 30}) {
      compare({.tokens = tokens,
               .context = 90,
               .n_head = 2,
               .n_kv_head = 2,
               .d_head = 20,
               .spread = spread});
    }
  }
}

TEST(Attention, AnyCutOfTheTokensAndHeadsGivesTheSameBits) {
  for_each_isa([&](Isa) {
    Problem whole{.tokens = 70, .context = 140, .n_head = 6, .n_kv_head = 2, .d_head = 20};
    Problem steps = whole;
    kernels::attention(whole.args());
    for (const Index cut : {1, 3, 13, 64}) {
      SCOPED_TRACE(testing::Message() << "cut at " << cut);
      Problem parts = steps;
      for (const Range heads : {Range{0, 1}, Range{1, 5}, Range{5, 6}}) {
        for (const Range part : {Range{0, cut}, Range{cut, 70}}) {
          auto args = parts.args();
          args.q = args.q.rows_from(part.begin, part.size());
          args.y = args.y.rows_from(part.begin, part.size());
          args.position += part.begin;
          args.heads = heads;
          args.scratch = args.scratch.first(
              static_cast<std::size_t>(kernels::attention_scratch(part.size(), 140, 6, 2, 20)));
          kernels::attention(args);
        }
      }
      ASSERT_TRUE(same_bits<float>(whole.y.span(), parts.y.span()));
    }
    for (Index t = 0; t < 70; ++t) {
      auto args = steps.args();
      args.q = args.q.rows_from(t, 1);
      args.y = args.y.rows_from(t, 1);
      args.position += t;
      kernels::attention(args);
    }
    ASSERT_TRUE(same_bits<float>(whole.y.span(), steps.y.span()));
  });
}

// The working memory that is booked for the most tokens and the longest context is enough for less
// of either.
TEST(Attention, WorkingMemoryGrowsWithTokensAndContext) {
  for (const Index group : {1, 2, 3, 5, 7, 20, 100}) {
    Index of_fewer_tokens = 0;
    for (Index tokens = 1; tokens < 200; ++tokens) {
      Index of_less_context = 0;
      for (Index context = tokens; context < 9000; context += 131) {
        const Index floats = kernels::attention_scratch(tokens, context, group, 1, 64);
        ASSERT_GE(floats, of_less_context);
        of_less_context = floats;
      }
      const Index floats = kernels::attention_scratch(tokens, 500, group, 1, 64);
      ASSERT_GE(floats, of_fewer_tokens);
      of_fewer_tokens = floats;
    }
  }
  // A step's scores, not those of a prompt.
  EXPECT_LT(kernels::attention_scratch(1, 32768, 8, 2, 64), 9 * 32768);
}

TEST(Attention, EqualsTheModelForEveryWindow) {
  for (const Index window : {1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 100, 149, 150, 500}) {
    for (const Index tokens : {1, 2, 5, 13, 64, 150}) {
      compare({.tokens = tokens,
               .context = 150,
               .n_head = 6,
               .n_kv_head = 2,
               .d_head = window % 2 == 0 ? 20 : 32,
               .window = window});
      if (HasFatalFailure()) return;
    }
  }
}

// Keys in front of the window do not enter, whatever they hold; positions may begin at any page in
// front of it.
TEST(Attention, KeysBeforeTheWindowDoNotEnter) {
  for (const Index tokens : {1, 40}) {
    Problem problem{
        .tokens = tokens, .context = 200, .n_head = 2, .n_kv_head = 1, .d_head = 20, .window = 30};
    Problem poisoned = problem;
    for (Index j = 0; j < 200 - tokens - 29; ++j) {
      std::fill_n(poisoned.key(j, 0), 20, j % 2 == 0 ? nan_value : inf);
      std::fill_n(poisoned.value(j, 0), 20, j % 3 == 0 ? nan_value : inf);
    }
    Problem later = problem;
    for_each_isa([&](Isa) {
      kernels::attention(problem.args());
      kernels::attention(poisoned.args());
      auto args = later.args();
      args.pages = args.pages.subspan(2);
      args.position -= 2 * page_tokens;
      if (tokens == 1) kernels::attention(args);
      for (Index t = 0; t < tokens; ++t) {
        ASSERT_TRUE(same_bits<float>(problem.args().y.row(t), poisoned.args().y.row(t))) << t;
      }
      if (tokens == 1) {
        ASSERT_TRUE(same_bits<float>(problem.args().y.row(0), args.y.row(0)));
      }
    });
    compare(poisoned);
  }
}

TEST(Attention, OutputMayBeTheInput) {
  for_each_isa([&](Isa) {
    for (const Index tokens : {1, 2, 30}) {
      Problem apart{.tokens = tokens, .context = 80, .n_head = 4, .n_kv_head = 2, .d_head = 20};
      Problem in_place = apart;
      kernels::attention(apart.args());
      kernels::attention(in_place.args_in_place());
      for (Index t = 0; t < tokens; ++t) {
        ASSERT_TRUE(same_bits<float>(apart.args().y.row(t), in_place.args_in_place().y.row(t)));
      }
    }
  });
}

TEST(Attention, NoTokensAndNoHeadsAreNothing) {
  for_each_isa([&](Isa) {
    Problem problem{.tokens = 2, .context = 9, .n_head = 2, .n_kv_head = 1, .d_head = 4};
    auto args = problem.args();
    args.heads = {1, 1};
    kernels::attention(args);
    args.heads = {0, 2};
    args.q.rows = 0;
    kernels::attention(args);
    for (const float value : problem.y.span()) ASSERT_EQ(value, untouched);
  });
}

// A token that comes later is not seen, whatever it holds.
TEST(Attention, LaterKeysAndValuesDoNotEnter) {
  for (const Index tokens : {3, 40}) {
    Problem problem{.tokens = tokens, .context = 80, .n_head = 2, .n_kv_head = 1, .d_head = 20};
    Problem poisoned = problem;
    for (Index k = 0; k < 20; ++k) {
      poisoned.key(79, 0)[k] = nan_value;
      poisoned.value(79, 0)[k] = inf;
      poisoned.value(78, 0)[k] = nan_value;
    }
    for_each_isa([&](Isa) {
      kernels::attention(problem.args());
      kernels::attention(poisoned.args());
      for (Index t = 0; t < tokens - 2; ++t) {
        ASSERT_TRUE(same_bits<float>(problem.args().y.row(t), poisoned.args().y.row(t))) << t;
      }
      for (Index t = tokens - 2; t < tokens; ++t) {
        ASSERT_TRUE(std::isnan(poisoned.args().y(t, 3)));
      }
    });
    compare(poisoned);
  }
}

TEST(Attention, NumbersThatAreNotFiniteAreTheModels) {
  for (const Index tokens : {1, 2, 30}) {
    for (const float special : {nan_value, inf, -inf, -nan_value}) {
      Problem base{.tokens = tokens, .context = 50, .n_head = 4, .n_kv_head = 2, .d_head = 20};
      Problem key = base;
      key.key(7, 1)[3] = special;
      compare(key);
      Problem value = base;
      value.value(9, 0)[4] = special;
      compare(value);
      Problem query = base;
      query.q.data()[5 + 21] = special;
      compare(query);
      Problem all = base;
      for (Index j = 0; j < 50; ++j) {
        std::fill_n(all.key(j, 0), 20, special);
      }
      compare(all);
    }
  }
  // They stay in their head or column.
  Problem problem{.tokens = 1, .context = 50, .n_head = 4, .n_kv_head = 2, .d_head = 20};
  problem.key(7, 1)[3] = nan_value;
  problem.value(9, 0)[4] = inf;
  const auto args = problem.args();
  kernels::attention(args);
  for (Index i = 0; i < 80; ++i) {
    EXPECT_EQ(std::isfinite(args.y(0, i)), i < 40 && i % 20 != 4) << i;
  }
}

TEST(Attention, SubnormalNumbersCount) {
  for (const Index tokens : {1, 30}) {
    Problem problem{.tokens = tokens, .context = 40, .n_head = 2, .n_kv_head = 1, .d_head = 17};
    for (Index j = 0; j < 40; ++j) {
      for (Index i = 0; i < 17; ++i) problem.value(j, 0)[i] *= 0x1p-130F;
    }
    compare(problem);
    // Products that underflow to -0 in every lane with an element.
    for (Index j = 0; j < 40; ++j) {
      std::fill_n(problem.key(j, 0), 17, 1e-30F);
      std::fill_n(problem.value(j, 0), 17, -1e-45F);
    }
    for (Index t = 0; t < tokens; ++t) std::fill_n(problem.q.data() + 5 + t * 39, 34, -1e-30F);
    compare(problem);
  }
}

TEST(Attention, HeadsUseTheirKeysAndValues) {
  Problem problem{.tokens = 1, .context = 1, .n_head = 6, .n_kv_head = 2, .d_head = 3};
  const auto args = problem.args();
  kernels::attention(args);
  for (Index h = 0; h < 6; ++h) {
    for (Index i = 0; i < 3; ++i) EXPECT_EQ(args.y(0, h * 3 + i), problem.value(0, h / 3)[i]);
  }
}

TEST(Attention, IsCloseToTheOracle) {
  // A weight has the absolute error of its score, 2^-24 of scores below 20 a few times, relative to
  // values and sums near 1.
  constexpr double absolute = 2e-5;
  for (const Index tokens : {1, 60}) {
    for (const Index d_head : {5, 64, 128}) {
      Problem problem{
          .tokens = tokens, .context = 300, .n_head = 4, .n_kv_head = 2, .d_head = d_head};
      const auto args = problem.args();
      std::vector<double> exact(static_cast<std::size_t>(tokens * 4 * d_head));
      ref::attention_oracle(args, {exact.data(), tokens, 4 * d_head});
      kernels::attention(args);
      for (Index t = 0; t < tokens; ++t) {
        for (Index i = 0; i < 4 * d_head; ++i) {
          ASSERT_NEAR(static_cast<double>(args.y(t, i)),
                      exact[static_cast<std::size_t>(t * 4 * d_head + i)], absolute);
        }
      }
    }
  }
}

// ---- Keys and values of 16 bits ----

// The same problem with rows of the type T, and what the contract says of it: the model in f32 over
// rounded rows.
template <class T>
struct Narrow {
  Problem problem;
  Index row = (problem.row * Index{sizeof(T)} + 3) / 4;  // units of 4 bytes
  std::vector<Misaligned<float>> pages = {};
  std::vector<const float*> page_data = {};

  explicit Narrow(const Problem& of) : problem(of) {
    const Index used = problem.n_kv_head * problem.d_head;
    for (Misaligned<float>& wide : problem.pages) {
      const Index rows = (std::ssize(wide.span()) - problem.values_at - used) / problem.row + 1;
      const Index units = values_at() + (rows - 1) * row + (used * Index{sizeof(T)} + 3) / 4;
      pages.push_back(misaligned(std::vector<float>(static_cast<std::size_t>(units), nan_value),
                                 problem.offset));
      for (const bool is_value : {false, true}) {
        for (Index r = 0; r < rows; ++r) {
          float* from = wide.data() + (is_value ? problem.values_at : 0) + r * problem.row;
          T* to = narrow_row(pages.back().data(), r, is_value);
          ref::store_attention_row({from, static_cast<std::size_t>(used)}, dtype_of<T>, to);
          for (Index i = 0; i < used; ++i) from[i] = to_float(to[i]);
        }
      }
    }
  }
  Index values_at() const { return page_tokens * row; }
  T* narrow_row(float* page, Index r, bool is_value) const {
    return reinterpret_cast<T*>(page + (is_value ? values_at() : 0) + r * row);
  }
  kernels::AttentionArgs args() {
    auto result = problem.args();
    page_data.clear();
    for (Misaligned<float>& page : pages) page_data.push_back(page.data());
    result.pages = page_data;
    result.dtype = dtype_of<T>;
    result.value_offset = values_at();
    result.row_stride = row;
    return result;
  }
};

template <class T>
void compare_narrow(const Problem& problem) {
  const Narrow<T> narrow(problem);
  Problem expected = narrow.problem;  // rounded rows in f32
  ref::attention(expected.args());
  for_each_isa([&](Isa) {
    Narrow<T> actual = narrow;
    kernels::attention(actual.args());
    ASSERT_TRUE(same_bits<float>(expected.y.span(), actual.problem.y.span()))
        << to_string(dtype_of<T>) << " tokens=" << problem.tokens << " context=" << problem.context
        << " heads=" << problem.n_head << '/' << problem.n_kv_head << " d_head=" << problem.d_head;
  });
}

void compare_both(const Problem& problem) {
  compare_narrow<f16>(problem);
  compare_narrow<bf16>(problem);
}

TEST(AttentionOf16Bits, IsTheModelOverRoundedRowsForEveryWidthOfHeads) {
  for_every_width(compare_both);
}

TEST(AttentionOf16Bits, IsTheModelForContextsGroupsAndWindows) {
  for (const Index context : {1, 31, 32, 33, 64, 65, 129, 200}) {
    for (const Index tokens : {1, 2, 9, 64}) {
      for (const Index group : {1, 3, 7}) {
        for (const Index window : {0, 1, 33, 70}) {
          if (tokens > context) continue;
          compare_both({.tokens = tokens,
                        .context = context,
                        .n_head = 2 * group,
                        .n_kv_head = 2,
                        .d_head = context % 2 == 0 ? 16 : 20,
                        .offset = context % 3,
                        .window = window});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
  compare_both({.tokens = 1, .context = 5000, .n_head = 40, .n_kv_head = 2, .d_head = 4});
  compare_both({.tokens = 70, .context = 2100, .n_head = 1, .n_kv_head = 1, .d_head = 4});
}

// Every bit pattern as a value: where all keys have one value, the output is that value.
template <class T>
void compare_every_pattern() {
  for (const Index tokens : {1, 13}) {
    for (Index first = 0; first < 65536; first += 4096) {
      Narrow<T> narrow(Problem{
          .tokens = tokens, .context = tokens, .n_head = 64, .n_kv_head = 64, .d_head = 64});
      for (Index j = 0; j < tokens; ++j) {
        T* row = narrow.narrow_row(narrow.pages[0].data(), j, true);
        for (Index i = 0; i < 4096; ++i) {
          row[i].bits = static_cast<std::uint16_t>(first + i);
          narrow.problem.value(j, 0)[i] = to_float(row[i]);
        }
      }
      Problem expected = narrow.problem;
      ref::attention(expected.args());
      for_each_isa([&](Isa) {
        kernels::attention(narrow.args());
        ASSERT_TRUE(same_bits<float>(expected.y.span(), narrow.problem.y.span())) << first;
      });
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(AttentionOf16Bits, WidensEveryPattern) {
  compare_every_pattern<f16>();
  compare_every_pattern<bf16>();
}

TEST(AttentionOf16Bits, AnOverflowIsInfinityAndStaysInItsColumn) {
  Problem problem{.tokens = 1, .context = 50, .n_head = 4, .n_kv_head = 2, .d_head = 20};
  problem.value(9, 0)[4] = 65519.9F;
  problem.value(9, 1)[4] = 65520.0F;
  compare_both(problem);
  Narrow<f16> narrow(problem);
  const auto args = narrow.args();
  kernels::attention(args);
  for (Index i = 0; i < 80; ++i) {
    EXPECT_EQ(std::isfinite(args.y(0, i)), i < 40 || i % 20 != 4) << i;
  }
}

template <class T>
void expect_rounded(const std::vector<float>& from) {
  for_each_isa([&](Isa) {
    for (std::size_t count = 0; count <= from.size(); count = count < 70 ? count + 1 : count * 2) {
      std::vector<T> to(count + 1, T{0x1234});
      kernels::store_attention_row(std::span(from).first(count), dtype_of<T>, to.data());
      for (std::size_t i = 0; i < count; ++i) {
        T expected;
        if constexpr (std::is_same_v<T, f16>) {
          expected = to_f16(from[i]);
        } else {
          expected = to_bf16(from[i]);
        }
        ASSERT_EQ(to[i].bits, expected.bits) << from[i] << ' ' << i << " of " << count;
      }
      ASSERT_EQ(to[count].bits, 0x1234);
    }
  });
}

TEST(AttentionOf16Bits, RowsAreRoundedToNearestEven) {
  std::vector<float> numbers = {0.0F,     -0.0F,     1.0F,        1.00048828125F, 1.00146484375F,
                                65504.0F, 65519.9F,  65520.0F,    -65520.0F,      inf,
                                -inf,     nan_value, -nan_value,  0x1p-14F,       0x1p-24F,
                                0x1p-25F, -0x1p-25F, 0x1.8p-25F,  0x1p-26F,       0x1p-149F,
                                3.4e38F,  -3.4e38F,  1.00390625F, 1.01171875F,    0x1.ffcp-15F};
  std::uint32_t bits = 1;
  while (numbers.size() < (std::size_t{70} << 10)) {
    bits = bits * 1664525U + 1013904223U;
    numbers.push_back(std::bit_cast<float>(bits));
  }
  expect_rounded<f16>(numbers);
  expect_rounded<bf16>(numbers);
  std::vector<float> copy(numbers.size());
  kernels::store_attention_row(numbers, DType::f32, copy.data());
  EXPECT_TRUE(same_bits<float>(numbers, copy));
}

// The comparisons are sensitive: another order of keys and two chains per output have other bits.
TEST(Attention, WouldNoticeAnotherOrder) {
  Problem problem{.tokens = 1, .context = 90, .n_head = 1, .n_kv_head = 1, .d_head = 32};
  const auto args = problem.args();
  kernels::attention(args);
  std::vector<float> p;
  for (Index j = 0; j < 90; ++j) {
    p.push_back(ref::dot(problem.key(j, 0), args.q.data, Index{32}) * args.scale);
  }
  const float largest = ref::max_of(p);
  for (float& value : p) value = ref::exp_nonpositive_of(ref::ScalarOps(), value - largest);
  const float sum = ref::sum(p.data(), 90);
  int same = 0;
  int backward = 0;
  int two_chains = 0;
  int rescaled = 0;
  for (Index i = 0; i < 32; ++i) {
    float o = 0.0F;
    float reverse = 0.0F;
    float chains[2] = {};
    float divided = 0.0F;
    for (Index j = 0; j < 90; ++j) {
      const auto at = static_cast<std::size_t>(j);
      o = std::fma(p[at], problem.value(j, 0)[i], o);
      reverse = std::fma(p[89 - at], problem.value(89 - j, 0)[i], reverse);
      chains[j % 2] = std::fma(p[at], problem.value(j, 0)[i], chains[j % 2]);
      divided = std::fma(p[at] / sum, problem.value(j, 0)[i], divided);
    }
    same += o / sum == args.y(0, i) ? 1 : 0;
    backward += reverse / sum != args.y(0, i) ? 1 : 0;
    two_chains += (chains[0] + chains[1]) / sum != args.y(0, i) ? 1 : 0;
    rescaled += divided != args.y(0, i) ? 1 : 0;
  }
  EXPECT_EQ(same, 32);
  EXPECT_GT(backward, 0);
  EXPECT_GT(two_chains, 0);
  EXPECT_GT(rescaled, 0);
}

}  // namespace
}  // namespace krait::attention_test
