#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "krait/core/rng.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/tools/aqlm.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/support.hpp"

namespace krait::aqlm_encode_test {
namespace {

using test::random_floats;

// White Gaussian weights, by Box and Muller.
std::vector<float> gaussian(Index count, std::uint64_t seed) {
  constexpr double two_pi = 6.283185307179586;
  std::vector<float> values;
  for (Index i = 0; i < count; ++i) {
    RandomCounter at{.seed = seed, .position = static_cast<std::uint64_t>(i)};
    const double u = 1.0 - random_uniform(at);
    at.draw = 1;
    const double angle = two_pi * random_uniform(at);
    values.push_back(static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(angle)));
  }
  return values;
}

struct Problem {
  Problem(Index out_, Index in_, std::uint64_t seed)
      : out(out_), in(in_), weights(gaussian(out_ * in_, seed)) {}
  MatrixView<const float> W() const { return {weights.data(), out, in}; }

  Index out;
  Index in;
  std::vector<float> weights;
};

// Moments of inputs that vary together: of few directions, with some large channels.
SecondMoments correlated(Index in) {
  const Index samples = 2 * in;
  const auto basis = gaussian(in * in, 7);
  const auto draws = gaussian(samples * in, 8);
  std::vector<float> inputs(static_cast<std::size_t>(samples * in));
  for (Index t = 0; t < samples; ++t) {
    for (Index k = 0; k < in; ++k) {
      const float size =
          draws[static_cast<std::size_t>(t * in + k)] / std::sqrt(static_cast<float>(k + 1));
      for (Index i = 0; i < in; ++i) {
        inputs[static_cast<std::size_t>(t * in + i)] +=
            size * basis[static_cast<std::size_t>(k * in + i)] * (i % 29 == 0 ? 6.0F : 1.0F);
      }
    }
  }
  SecondMoments H{in, std::vector<float>(static_cast<std::size_t>(in * in))};
  for (Index i = 0; i < in; ++i) {
    for (Index k = 0; k < in; ++k) {
      double sum = 0.0;
      for (Index t = 0; t < samples; ++t) {
        sum += static_cast<double>(inputs[static_cast<std::size_t>(t * in + i)]) *
               static_cast<double>(inputs[static_cast<std::size_t>(t * in + k)]);
      }
      H.values[static_cast<std::size_t>(i * in + k)] = static_cast<float>(sum);
    }
  }
  return H;
}

// tr(ΔHΔᵀ) / tr(WHWᵀ) in double, of the rows as they are given back.
double error_of(const Problem& problem, const AqlmMatrix& matrix, const SecondMoments& H) {
  const Index in = problem.in;
  double error = 0.0;
  double all = 0.0;
  std::vector<float> row(static_cast<std::size_t>(in));
  for (Index r = 0; r < problem.out; ++r) {
    matrix.row(r, row);
    for (Index i = 0; i < in; ++i) {
      for (Index k = 0; k < in; ++k) {
        const double h = !H.values.empty()
                             ? static_cast<double>(H.values[static_cast<std::size_t>(i * in + k)])
                             : (i == k ? 1.0 : 0.0);
        const auto w = [&](Index c) { return static_cast<double>(problem.W()(r, c)); };
        const auto e = [&](Index c) {
          return static_cast<double>(row[static_cast<std::size_t>(c)]) - w(c);
        };
        error += e(i) * h * e(k);
        all += w(i) * h * w(k);
      }
    }
  }
  return error / all;
}

AqlmMatrix encode(const Problem& problem, std::string_view scheme, const SecondMoments& H = {},
                  const AqlmEffort& effort = {}) {
  ThreadPool pool(2);
  return encode_aqlm(problem.W(), H, parse_aqlm_scheme(scheme).value(), effort, 1, pool).value();
}

TEST(AqlmScheme, IsReadAndWritten) {
  EXPECT_EQ(parse_aqlm_scheme("4x4g8").value(), (AqlmScheme{4, 4, 8}));
  EXPECT_EQ(parse_aqlm_scheme("1x16").value(), (AqlmScheme{1, 16, 8}));
  EXPECT_EQ(to_string(AqlmScheme{8, 4, 16}), "8x4g16");
  for (const char* text : {"", "4", "4x", "x4g8", "4x4g", "4x4g8 ", "4x4h8", "0x4g8", "4x17g8",
                           "4x4g0", "4x4g65", "17x4", "-1x4", "4x4g-8", "99999999999999999999x4"}) {
    const auto scheme = parse_aqlm_scheme(text);
    ASSERT_FALSE(scheme) << text;
    EXPECT_EQ(scheme.error().message.find("[aqlm] scheme: expected MxBgG"), 0U);
  }
}

TEST(AqlmScheme, CountsItsBits) {
  // in_proj and out_proj of mamba-130m; the figures are those of the papers' formula.
  EXPECT_NEAR(bits_per_weight({2, 8, 8}, 3072, 768), 2.049, 5e-4);
  EXPECT_NEAR(bits_per_weight({4, 4, 8}, 768, 1536), 2.017, 5e-4);
  EXPECT_NEAR(bits_per_weight({1, 16, 8}, 3072, 768), 5.58, 5e-3);
}

TEST(AqlmEncode, WhiteWeightsLoseLessThanTwoBitsEachWould) {
  // A scalar quantiser of two bits, the best there is, leaves 0.1175.
  const Problem problem(1024, 256, 3);
  const double two_of_8 = encode(problem, "2x8g8").error;
  const double four_of_4 = encode(problem, "4x4g8").error;
  EXPECT_LE(two_of_8, 0.083);
  EXPECT_LE(four_of_4, 0.096);
}

TEST(AqlmEncode, TellsItsError) {
  const Problem problem(48, 64, 4);
  const SecondMoments H = correlated(64);
  for (const char* scheme : {"2x8g8", "4x4g8", "8x4g16", "1x5g4", "3x2g8", "1x1g1"}) {
    for (const SecondMoments& moments : {SecondMoments{}, H}) {
      const AqlmMatrix matrix = encode(problem, scheme, moments);
      EXPECT_NEAR(matrix.error, error_of(problem, matrix, moments), 2e-4 * matrix.error + 1e-6)
          << scheme;
      EXPECT_LT(matrix.error, 0.7) << scheme;
      for (const std::uint16_t code : matrix.codes) {
        ASSERT_LT(code, matrix.scheme.codewords()) << scheme;
      }
    }
  }
}

TEST(AqlmEncode, SecondMomentsMatter) {
  const Problem problem(256, 128, 5);
  const SecondMoments H = correlated(128);
  const double with = encode(problem, "4x4g8", H).error;
  const double without = error_of(problem, encode(problem, "4x4g8"), H);
  EXPECT_LT(with, without / 2.0);
  SecondMoments diagonal{128, {}};
  for (Index i = 0; i < 128; ++i) {
    diagonal.values.push_back(H.values[static_cast<std::size_t>(i * 128 + i)]);
  }
  const double between = error_of(problem, encode(problem, "4x4g8", diagonal), H);
  EXPECT_LT(with, between);
  EXPECT_LT(between, without);
}

TEST(AqlmEncode, MoreEffortLosesLess) {
  const Problem problem(256, 128, 6);
  const SecondMoments H = correlated(128);
  double last = std::numeric_limits<double>::infinity();
  for (const Index rounds : {0, 1, 3, 10}) {
    const double error = encode(problem, "4x4g8", H, {.rounds = rounds, .least_gain = 0.0}).error;
    EXPECT_LT(error, last) << rounds;
    last = error;
  }
  EXPECT_LT(encode(problem, "4x4g8", H, {.beam = 32}).error,
            encode(problem, "4x4g8", H, {.beam = 1}).error);
}

TEST(AqlmEncode, FindsCodewordsThatWerePlanted) {
  // Rows of codewords from one known codebook.
  Problem problem(256, 64, 7);
  const auto codewords = gaussian(256 * 8, 70);
  for (Index r = 0; r < problem.out; ++r) {
    for (Index j = 0; j < 8; ++j) {
      const auto code = static_cast<Index>((r * 31 + j * 17 + r * j) % 256);
      for (Index d = 0; d < 8; ++d) {
        problem.weights[static_cast<std::size_t>(r * 64 + j * 8 + d)] =
            codewords[static_cast<std::size_t>(code * 8 + d)];
      }
    }
  }
  EXPECT_LT(encode(problem, "2x8g8").error, 1e-2);
}

// Rows of codewords of a known codebook with a little noise: no cluster is left out.
TEST(AqlmEncode, RecoversACodebookToTheLevelOfItsNoise) {
  constexpr double noise = 0.01;
  for (const Index n_codeword : {8, 16, 256}) {
    for (const std::uint64_t seed : {71U, 72U, 73U}) {
      Problem problem(256, 128, seed);
      const std::vector<float> codebook = gaussian(n_codeword * 8, seed + 100);
      double all = 0.0;
      for (std::size_t i = 0; i < problem.weights.size(); ++i) {
        const RandomCounter at{.seed = seed, .sequence = 1, .position = i / 8};
        const auto code =
            static_cast<std::size_t>(random_uniform(at) * static_cast<double>(n_codeword));
        const float w = codebook[code * 8 + i % 8];
        all += static_cast<double>(w) * static_cast<double>(w);
        problem.weights[i] = w + static_cast<float>(noise) * problem.weights[i];
      }
      const double level = noise * noise * static_cast<double>(problem.weights.size()) / all;
      const char* scheme = n_codeword == 8 ? "1x3g8" : n_codeword == 16 ? "1x4g8" : "1x8g8";
      const double error = encode(problem, scheme, {}, {.rounds = 20, .least_gain = 0.0}).error;
      EXPECT_LE(error, (n_codeword == 256 ? 10.0 : 1.1) * level) << scheme << ' ' << seed;
    }
  }
}

TEST(AqlmEncode, DependsOnNeitherThreadsNorInstructionSet) {
  const Problem problem(96, 64, 8);
  const SecondMoments H = correlated(64);
  for (const char* text : {"4x4g8", "2x8g8", "3x5g4"}) {
    const AqlmScheme scheme = parse_aqlm_scheme(text).value();
    SerialExecutor serial;
    const AqlmMatrix expected = encode_aqlm(problem.W(), H, scheme, {}, 3, serial).value();
    test::for_each_isa([&](Isa) {
      ThreadPool pool(3);
      const AqlmMatrix found = encode_aqlm(problem.W(), H, scheme, {}, 3, pool).value();
      EXPECT_EQ(found.codes, expected.codes);
      EXPECT_EQ(found.codebooks, expected.codebooks);
      EXPECT_EQ(found.scales, expected.scales);
      EXPECT_EQ(found.error, expected.error);
    });
    const AqlmMatrix other = encode_aqlm(problem.W(), H, scheme, {}, 4, serial).value();
    EXPECT_NE(other.codes, expected.codes);
  }
}

TEST(AqlmEncode, RowsOfZerosAndTinyWeightsAreKept) {
  Problem problem(16, 32, 9);
  for (Index k = 0; k < 32; ++k) problem.weights[static_cast<std::size_t>(5 * 32 + k)] = 0.0F;
  for (float& w : problem.weights) w *= 1e-3F;
  const AqlmMatrix matrix = encode(problem, "2x8g8");
  std::vector<float> row(32);
  matrix.row(5, row);
  for (const float value : row) EXPECT_EQ(value, 0.0F);
  EXPECT_LT(error_of(problem, matrix, {}), 0.1);
  for (float& w : problem.weights) w = 0.0F;
  EXPECT_EQ(encode(problem, "2x8g8").error, 0.0);
}

// Codebooks and scales are stored in f16.
TEST(AqlmEncode, LargeAndTinyWeightsAndRowsNextToNothingAreKept) {
  const Problem plain(16, 32, 9);
  const double usual = error_of(plain, encode(plain, "2x4g8"), {});
  for (const float size : {1e-7F, 1e-5F, 1e5F, 1e7F}) {
    Problem problem = plain;
    for (float& w : problem.weights) w *= size;
    const AqlmMatrix matrix = encode(problem, "2x4g8");
    EXPECT_LT(error_of(problem, matrix, {}), usual + 0.02) << size;
  }
  for (const float size : {1e-6F, 1e-12F, 1e-30F}) {
    Problem problem = plain;
    for (Index i = 0; i < 12 * 32; ++i) problem.weights[static_cast<std::size_t>(i)] *= size;
    const AqlmMatrix matrix = encode(problem, "2x4g8");
    EXPECT_LT(error_of(problem, matrix, {}), usual + 0.02) << size;
  }
}

TEST(AqlmEncode, WhatCannotBeEncodedIsAnError) {
  SerialExecutor serial;
  const Problem good(8, 16, 1);
  const auto message = [&](const Problem& problem, const SecondMoments& H, const AqlmScheme& scheme,
                           const AqlmEffort& effort = {}) -> std::string {
    const auto result = encode_aqlm(problem.W(), H, scheme, effort, 0, serial);
    return result ? "none" : result.error().message;
  };
  EXPECT_EQ(message(good, {}, {4, 4, 8}), "none");
  EXPECT_EQ(message(good, {}, {4, 4, 5}),
            "[aqlm] matrix: expected inputs in groups of 5, found [8,16]");
  EXPECT_EQ(message(good, {16, std::vector<float>(15)}, {4, 4, 8}),
            "[aqlm] second moments: expected [16] or [16,16] values, found 15");
  EXPECT_EQ(message(good, {16, std::vector<float>(16)}, {4, 4, 8}),
            "[aqlm] second moments: expected one above 0, found zeros");
  EXPECT_EQ(message(good, {16, std::vector<float>(16, -1.0F)}, {4, 4, 8}),
            "[aqlm] second moments: expected a diagonal of at least 0, found -1");
  EXPECT_EQ(message(good, {16, std::vector<float>(16, INFINITY)}, {4, 4, 8}),
            "[aqlm] second moments: expected finite values, found inf");
  EXPECT_EQ(message(good, {}, {4, 4, 8}, {.beam = 0}), "[aqlm] beam: expected 1 to 64, found 0");
  Problem bad = good;
  bad.weights[20] = NAN;
  EXPECT_EQ(message(bad, {}, {4, 4, 8}),
            "[aqlm] matrix: expected finite weights, found nan (row 1)");
  for (const float size : {1e12F, 1e30F, 1e37F}) {
    Problem large = good;
    for (float& w : large.weights) w *= size;
    EXPECT_EQ(message(large, {}, {4, 4, 8}),
              "[aqlm] matrix: expected weights that codebooks and scales in f16 can stand for, "
              "found larger ones");
  }
  // Moments without an inverse are none the less of use.
  SecondMoments singular{16, std::vector<float>(256, 1.0F)};
  EXPECT_EQ(message(good, singular, {4, 4, 8}), "none");
  const auto stop = [](Index, Index) { return Flow::stop; };
  EXPECT_EQ(encode_aqlm(good.W(), {}, {4, 4, 8}, {}, 0, serial, stop).error().code,
            ErrorCode::cancelled);
}

}  // namespace
}  // namespace krait::aqlm_encode_test
