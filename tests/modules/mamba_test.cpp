// The Mamba block against the paper's equations, written the slow obvious way in double.

#include "krait/modules/mamba.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "krait/modules/embedding.hpp"
#include "tests/modules/block_fixture.hpp"
#include "tests/support/eager_thread_pool.hpp"

namespace krait::mamba_test {
namespace {

constexpr Index d_model = 10;
constexpr Index d_inner = 21;
constexpr Index d_state = 6;
constexpr Index d_conv = 3;
constexpr Index dt_rank = 4;
constexpr Index tokens = 9;

class MambaBlock : public testing::TestWithParam<bool> {
 protected:
  MambaBlock() {
    add("in_proj.weight", {2 * d_inner, d_model}, 0.5F);
    add("conv1d.weight", {d_inner, 1, d_conv}, 0.5F);
    add("x_proj.weight", {dt_rank + 2 * d_state, d_inner}, 0.5F);
    add("dt_proj.weight", {d_inner, dt_rank}, 0.5F);
    add("dt_proj.bias", {d_inner}, 0.5F);
    add("A_log", {d_inner, d_state}, 1.0F);
    add("D", {d_inner}, 1.0F);
    add("out_proj.weight", {d_model, d_inner}, 0.5F);
    add("conv1d.bias", {d_inner}, 0.5F);
    if (GetParam()) {
      add("in_proj.bias", {2 * d_inner}, 0.5F);
      add("out_proj.bias", {d_model}, 0.5F);
    }
  }

  void add(const char* name, const Shape& shape, float scale) { weights_.add(name, shape, scale); }
  double weight(const char* name, Index i) const { return weights_.at(name, i); }
  std::vector<double> linear(const char* name, const std::vector<double>& x, Index out) const {
    return weights_.linear(name, x, out);
  }

  std::vector<std::vector<double>> oracle(const std::vector<float>& x) const {
    std::vector<std::vector<double>> raw;  // convolution inputs so far
    std::vector<double> h(static_cast<std::size_t>(d_inner * d_state));
    std::vector<std::vector<double>> result;
    for (Index t = 0; t < tokens; ++t) {
      const auto xz = linear("in_proj", test::row_of(x, t, d_model), 2 * d_inner);
      raw.emplace_back(xz.begin(), xz.begin() + d_inner);
      std::vector<double> u(static_cast<std::size_t>(d_inner));
      for (Index d = 0; d < d_inner; ++d) {
        double sum = weight("conv1d.bias", d);
        for (Index k = 0; k < d_conv; ++k) {
          const Index at = t - d_conv + 1 + k;
          if (at >= 0) {
            sum += weight("conv1d.weight", d * d_conv + k) *
                   raw[static_cast<std::size_t>(at)][static_cast<std::size_t>(d)];
          }
        }
        u[static_cast<std::size_t>(d)] = test::silu(sum);
      }
      const auto dBC = linear("x_proj", u, dt_rank + 2 * d_state);
      const auto dt_raw =
          linear("dt_proj", std::vector<double>(dBC.begin(), dBC.begin() + dt_rank), d_inner);
      std::vector<double> y(u.size());
      for (Index d = 0; d < d_inner; ++d) {
        const auto at = static_cast<std::size_t>(d);
        const double dt = std::log1p(std::exp(dt_raw[at]));
        y[at] = weight("D", d) * u[at];
        for (Index n = 0; n < d_state; ++n) {
          double& state = h[static_cast<std::size_t>(d * d_state + n)];
          const double A = -std::exp(weight("A_log", d * d_state + n));
          state =
              std::exp(dt * A) * state + dt * dBC[static_cast<std::size_t>(dt_rank + n)] * u[at];
          y[at] += dBC[static_cast<std::size_t>(dt_rank + d_state + n)] * state;
        }
        y[at] *= test::silu(xz[static_cast<std::size_t>(d_inner + d)]);
      }
      result.push_back(linear("out_proj", y, d_model));
    }
    return result;
  }

  test::BlockWeights weights_;
};

TEST_P(MambaBlock, EqualsThePapersEquations) {
  WeightBinder binder(&weights_.store(), {});
  Bookings bookings(d_model);
  const auto block = Mamba::bind({.d_state = d_state,
                                  .d_conv = d_conv,
                                  .d_inner = d_inner,
                                  .dt_rank = dt_rank,
                                  .bias = GetParam()},
                                 WeightScope(binder, ""), bookings);
  ASSERT_TRUE(block) << block.error().message;
  EXPECT_TRUE(binder.unused().empty());

  const auto input = test::random_floats(tokens * d_model, 99);
  const auto expected = oracle(input);
  test::EagerThreadPool threads(2);
  for (const Index chunk : {9, 4, 1}) {
    const std::vector<float> x = test::run_block(**block, bookings, input, chunk, threads);
    for (Index t = 0; t < tokens; ++t) {
      for (Index i = 0; i < d_model; ++i) {
        EXPECT_NEAR(double{x[static_cast<std::size_t>(t * d_model + i)]},
                    expected[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)], 1e-5)
            << "token " << t;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Biases, MambaBlock, testing::Bool());

TEST(Embedding, WidensRowsAndIsItsOwnHead) {
  WeightStore store;
  std::vector<bf16> values;
  for (const float x : test::random_floats(12, 1)) values.push_back(to_bf16(x));
  store.add("e.weight", {values.data(), DType::bf16, {4, 3}}, nullptr);
  WeightBinder binder(&store, {});
  Bookings bookings(3);
  const Embedding embedding =
      Embedding::bind({.vocab = 4, .d_model = 3}, WeightScope(binder, "").scope("e"), bookings)
          .value();
  std::vector<float> x(6);
  embedding.lookup(std::vector<Token>{2, 0}, {x.data(), 2, 3});
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(x[i], to_float(values[6 + i]));
    EXPECT_EQ(x[3 + i], to_float(values[i]));
  }
  SerialExecutor executor;
  std::vector<float> logits(4);
  Scratch scratch;
  const BlockContext ctx{
      .x = {}, .sequences = {}, .executor = executor, .memory = scratch, .workspace = {}};
  embedding.tied_head().apply(ctx, {x.data(), 1, 3}, {logits.data(), 1, 4});
  for (std::size_t r = 0; r < 4; ++r) {
    double sum = 0.0;
    for (std::size_t k = 0; k < 3; ++k) sum += double{to_float(values[3 * r + k])} * double{x[k]};
    EXPECT_NEAR(double{logits[r]}, sum, 1e-6);
  }
}

}  // namespace
}  // namespace krait::mamba_test
