// The backward passes of products, norms and activations against plain loops in double, over sizes
// beside those of vectors and blocks.

#include "training/products.hpp"

#include "tests/training/backward_kernels.hpp"

namespace krait::products_test {
namespace {

using test::at;
using test::expect_close;
using test::Oracle;
using test::random_floats;
using test::same_everywhere;
using test::SpacedMatrix;
using test::wide;
using training::linear_backward;
using training::LinearBackward;
using training::norm_backward;
using training::NormBackward;

TEST(Transpose, PutsEveryNumberInItsPlace) {
  for (const Index rows : {1, 3, 4, 15, 16, 17, 35}) {
    for (const Index cols : {1, 2, 4, 7, 16, 18, 33}) {
      SpacedMatrix from(rows, cols, 1);
      const std::vector<float> found = same_everywhere([&](const Work& work) {
        SpacedMatrix to(cols, rows, 0);
        training::transpose(work, from.view(), to.view());
        std::vector<float> all;
        to.append_to(all);
        return all;
      });
      for (Index r = 0; r < rows; ++r) {
        for (Index c = 0; c < cols; ++c) ASSERT_EQ(found[at(c * rows + r)], from(r, c));
      }
    }
  }
}

// All gradients, behind dx those that were there before.
void expect_linear_backward(Index tokens, Index out, Index in) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << in << " to " << out);
  SpacedMatrix x(tokens, in, 1);
  SpacedMatrix dy(tokens, out, 2);
  const std::vector<float> W = random_floats(out * in, 3);
  const std::vector<float> dW_before = random_floats(out * in, 4);
  const std::vector<float> db_before = random_floats(out, 5);
  const std::vector<float> found = same_everywhere([&](const Work& work) {
    std::vector<float> dW = dW_before;
    std::vector<float> db = db_before;
    SpacedMatrix dx(tokens, in, 0);
    LinearBackward args{
        .weights = {.W = W.data()}, .out = out, .in = in, .x = x.view(), .dy = dy.view(), .dx = {}};
    // Each alone, then all at once.
    args.weights.dW = dW.data();
    linear_backward(work, args);
    args.weights.dW = nullptr;
    args.weights.db = db.data();
    linear_backward(work, args);
    args.weights.db = nullptr;
    args.dx = dx.view();
    linear_backward(work, args);
    std::vector<float> all;
    dx.append_to(all);
    all.insert(all.end(), dW.begin(), dW.end());
    all.insert(all.end(), db.begin(), db.end());

    dW = dW_before;
    db = db_before;
    dx = SpacedMatrix(tokens, in, 0);
    args.dx = dx.view();
    args.weights.dW = dW.data();
    args.weights.db = db.data();
    linear_backward(work, args);
    std::vector<float> at_once;
    dx.append_to(at_once);
    at_once.insert(at_once.end(), dW.begin(), dW.end());
    at_once.insert(at_once.end(), db.begin(), db.end());
    EXPECT_TRUE(test::same_bits<float>(all, at_once));
    return all;
  });

  std::vector<Oracle> expected;
  for (Index t = 0; t < tokens; ++t) {
    for (Index i = 0; i < in; ++i) {
      Oracle& dx = expected.emplace_back();
      for (Index o = 0; o < out; ++o) dx.add(wide(dy(t, o)) * wide(W[at(o * in + i)]));
    }
  }
  for (Index o = 0; o < out; ++o) {
    for (Index i = 0; i < in; ++i) {
      Oracle& dW = expected.emplace_back();
      dW.add(wide(dW_before[at(o * in + i)]));
      for (Index t = 0; t < tokens; ++t) dW.add(wide(dy(t, o)) * wide(x(t, i)));
    }
  }
  for (Index o = 0; o < out; ++o) {
    Oracle& db = expected.emplace_back();
    db.add(wide(db_before[at(o)]));
    for (Index t = 0; t < tokens; ++t) db.add(wide(dy(t, o)));
  }
  expect_close(found, expected, std::max(tokens, out) + 2);
}

TEST(LinearBackward, AgreesWithPlainLoopsWhateverRunsIt) {
  for (const Index tokens : {1, 2, 7, 16, 17, 33}) {
    for (const Index out : {1, 3, 16, 65}) {
      for (const Index in : {1, 5, 16, 31, 66}) {
        expect_linear_backward(tokens, out, in);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(LinearBackward, OfNoTokensChangesNothing) {
  SerialExecutor serial;
  Workspace memory;
  const std::vector<float> W = {1.0F, 2.0F};
  std::vector<float> gradients = {3.0F, 4.0F, 5.0F};
  linear_backward({serial, memory},
                  {.weights = {.W = W.data(), .dW = gradients.data(), .db = gradients.data() + 2},
                   .out = 1,
                   .in = 2,
                   .x = {nullptr, 0, 2},
                   .dy = {nullptr, 0, 1},
                   .dx = {nullptr, 0, 2}});
  EXPECT_EQ(gradients, (std::vector<float>{3.0F, 4.0F, 5.0F}));
}

TEST(ColumnSums, AgreeWithPlainLoopsWhateverRunsThem) {
  for (const Index tokens : {1, 2, 15, 40}) {
    for (const Index cols : {1, 4, 63, 64, 65, 130}) {
      SpacedMatrix a(tokens, cols, 1);
      SpacedMatrix b(tokens, cols, 2);
      const std::vector<float> before = random_floats(cols, 3);
      for (const bool has_factor : {false, true}) {
        const std::vector<float> found = same_everywhere([&](const Work& work) {
          std::vector<float> sum = before;
          training::add_column_sums(
              work, a.view(),
              has_factor ? MatrixView<const float>(b.view()) : MatrixView<const float>{},
              sum.data());
          return sum;
        });
        std::vector<Oracle> expected(at(cols));
        for (Index c = 0; c < cols; ++c) {
          expected[at(c)].add(wide(before[at(c)]));
          for (Index t = 0; t < tokens; ++t) {
            expected[at(c)].add(wide(a(t, c)) * (has_factor ? wide(b(t, c)) : 1.0));
          }
        }
        expect_close(found, expected, tokens + 2);
      }
    }
  }
}

struct Norm {
  bool is_rms;
  bool has_weight;
  bool wants_weights;  // gradients of weight and bias too
  bool in_place;       // dx is dy
};

void expect_norm_backward(Index tokens, Index d, const Norm& norm) {
  constexpr float eps = 1e-3F;
  SpacedMatrix x(tokens, d, 1, 2.0F);
  SpacedMatrix dy(tokens, d, 2);
  const std::vector<float> weight = random_floats(d, 3);
  const std::vector<float> before = random_floats(2 * d, 4);
  const std::vector<float> found = same_everywhere([&](const Work& work) {
    std::vector<float> gradients = before;
    SpacedMatrix own_dy = dy;
    SpacedMatrix own_dx(tokens, d, 0);
    SpacedMatrix& dx = norm.in_place ? own_dy : own_dx;
    norm_backward(work, {.is_rms = norm.is_rms,
                         .eps = eps,
                         .weight = norm.has_weight ? weight.data() : nullptr,
                         .x = x.view(),
                         .dy = own_dy.view(),
                         .dx = dx.view(),
                         .dweight = norm.wants_weights ? gradients.data() : nullptr,
                         .dbias = norm.wants_weights ? gradients.data() + d : nullptr});
    std::vector<float> all;
    dx.append_to(all);
    all.insert(all.end(), gradients.begin(), gradients.end());
    return all;
  });

  // By the matrix of all derivatives: of y[j] = w[j] · n[j] by x[i].
  std::vector<Oracle> expected;
  std::vector<Oracle> dweight(at(d));
  std::vector<Oracle> dbias(at(d));
  const auto size = static_cast<double>(d);
  for (Index c = 0; c < d; ++c) {
    dweight[at(c)].add(wide(before[at(c)]));
    dbias[at(c)].add(wide(before[at(d + c)]));
  }
  for (Index t = 0; t < tokens; ++t) {
    double mean = 0.0;
    for (Index c = 0; c < d && !norm.is_rms; ++c) mean += wide(x(t, c)) / size;
    double square = 0.0;
    for (Index c = 0; c < d; ++c) square += std::pow(wide(x(t, c)) - mean, 2) / size;
    const double scale = 1.0 / std::sqrt(square + wide(eps));
    const auto n = [&](Index c) { return (wide(x(t, c)) - mean) * scale; };
    // What rounding the mean does to n.
    const double shift = (std::abs(mean) + 2.0) * scale;
    for (Index i = 0; i < d; ++i) {
      Oracle& dx = expected.emplace_back();
      for (Index j = 0; j < d; ++j) {
        const double v = wide(dy(t, j)) * (norm.has_weight ? wide(weight[at(j)]) : 1.0);
        dx.add(i == j ? v * scale : 0.0);
        if (!norm.is_rms) dx.add(-v * scale / size);
        const double along = -v * scale * n(i) * n(j) / size;
        dx.add(along, norm.is_rms
                          ? std::abs(along)
                          : std::abs(v) * scale * std::pow(std::abs(n(i)) + shift, 2) / size);
      }
    }
    for (Index c = 0; c < d && norm.wants_weights; ++c) {
      dweight[at(c)].add(wide(dy(t, c)) * n(c),
                         std::abs(wide(dy(t, c))) * (std::abs(n(c)) + (norm.is_rms ? 0.0 : shift)));
      dbias[at(c)].add(wide(dy(t, c)));
    }
  }
  expected.insert(expected.end(), dweight.begin(), dweight.end());
  expected.insert(expected.end(), dbias.begin(), dbias.end());
  expect_close(found, expected, std::max(tokens, d) + 12);
}

TEST(NormBackward, AgreesWithPlainLoopsWhateverRunsIt) {
  for (const bool is_rms : {true, false}) {
    for (const bool has_weight : {true, false}) {
      for (const bool wants_weights : {true, false}) {
        for (const bool in_place : {false, true}) {
          for (const Index tokens : {1, 17}) {
            for (const Index d : {1, 2, 15, 16, 33, 65}) {
              SCOPED_TRACE(testing::Message() << is_rms << has_weight << wants_weights << in_place
                                              << ", " << tokens << " tokens of " << d);
              expect_norm_backward(tokens, d, {is_rms, has_weight, wants_weights, in_place});
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST(SiluBackward, AgreesWithPlainLoopsWhateverRunsIt) {
  for (const Index n : {1, 3, 15, 16, 17, 255, 256, 257, 600}) {
    std::vector<float> x = random_floats(n, 1, 12.0F);
    const float special[] = {0.0F, -0.0F, -1.2784645F, 88.7F, -88.7F, -104.0F, 1e30F, -1e30F};
    for (Index i = 0; i < n; i += 5) x[at(i)] = special[at(i / 5 % std::ssize(special))];
    const std::vector<float> dy = random_floats(n, 2);
    const std::vector<float> found = same_everywhere([&](const Work& /*work*/) {
      std::vector<float> dx(dy.size(), std::numeric_limits<float>::quiet_NaN());
      training::silu_backward(x, dy, dx);
      std::vector<float> in_place = dy;
      training::silu_backward(x, in_place, in_place);
      EXPECT_TRUE(test::same_bits<float>(dx, in_place));
      return dx;
    });
    std::vector<Oracle> expected(at(n));
    for (Index i = 0; i < n; ++i) {
      const double s = 1.0 / (1.0 + std::exp(-wide(x[at(i)])));
      const double rest =
          1.0 / (1.0 + std::exp(wide(x[at(i)])));  // 1 - s, without its cancellation
      const double size = std::abs(wide(x[at(i)])) * (rest + 0x1p-24 * s);
      expected[at(i)].add(wide(dy[at(i)]) * s * (1.0 + wide(x[at(i)]) * rest),
                          std::abs(wide(dy[at(i)])) * (s + 0x1p-126) * (1.0 + size));
    }
    expect_close(found, expected, 12);
  }
}

}  // namespace
}  // namespace krait::products_test
