// The Mamba-2 block against the paper's recurrence, written as a plain loop in double.

#include "krait/modules/mamba2.hpp"

#include <gtest/gtest.h>

#include "krait/core/thread_pool.hpp"
#include "tests/modules/block_fixture.hpp"
#include "tests/support/eager_thread_pool.hpp"

namespace krait::mamba2_test {
namespace {

constexpr Index d_model = 10;
constexpr Index tokens = 19;

test::BlockWeights weights_of(const Mamba2Spec& spec) {
  test::BlockWeights weights;
  weights.add("in_proj.weight", {spec.in_proj_rows(), d_model}, 0.5F);
  if (spec.bias) weights.add("in_proj.bias", {spec.in_proj_rows()}, 0.5F);
  weights.add("conv1d.weight", {spec.conv_dim(), 1, spec.d_conv}, 0.5F);
  if (spec.conv_bias) weights.add("conv1d.bias", {spec.conv_dim()}, 0.5F);
  weights.add("A_log", {spec.n_head()}, 1.0F);
  weights.add("D", {spec.D_per_channel ? spec.d_ssm : spec.n_head()}, 1.0F);
  weights.add("dt_bias", {spec.n_head()}, 0.5F);
  if (spec.norm != GatedNorm::none) weights.add("norm.weight", {spec.d_ssm}, 1.0F);
  weights.add("out_proj.weight", {d_model, spec.d_inner}, 0.5F);
  if (spec.bias) weights.add("out_proj.bias", {d_model}, 0.5F);
  return weights;
}

// y = y / rms(y) · weight, every group on its own.
void normalize(const Mamba2Spec& spec, const test::BlockWeights& weights, std::vector<double>& y) {
  const auto width = static_cast<std::size_t>(spec.d_ssm / spec.n_group);
  for (std::size_t first = 0; first < y.size(); first += width) {
    double squares = 0.0;
    for (std::size_t i = first; i < first + width; ++i) squares += y[i] * y[i];
    const double scale =
        1.0 / std::sqrt(squares / static_cast<double>(width) + double{spec.norm_eps});
    for (std::size_t i = first; i < first + width; ++i) {
      y[i] *= scale * weights.at("norm.weight", static_cast<Index>(i));
    }
  }
}

std::vector<std::vector<double>> oracle(const Mamba2Spec& spec, const test::BlockWeights& weights,
                                        const std::vector<float>& x) {
  const Index d_mlp = spec.d_mlp();
  const Index n_head = spec.n_head();
  const Index P = spec.head_dim;
  const Index N = spec.d_state;
  std::vector<std::vector<double>> raw;  // the convolution's input so far
  std::vector<double> S(static_cast<std::size_t>(n_head * P * N));
  std::vector<std::vector<double>> result;
  for (Index t = 0; t < tokens; ++t) {
    const auto parts = weights.linear("in_proj", test::row_of(x, t, d_model), spec.in_proj_rows());
    const auto part = [&](Index i) { return parts[static_cast<std::size_t>(i)]; };
    const Index z = 2 * d_mlp;
    const Index xBC = z + spec.d_ssm;
    const Index dt_raw = xBC + spec.conv_dim();
    raw.emplace_back(parts.begin() + xBC, parts.begin() + dt_raw);
    std::vector<double> u(static_cast<std::size_t>(spec.conv_dim()));
    for (Index c = 0; c < spec.conv_dim(); ++c) {
      double sum = weights.at("conv1d.bias", c);
      for (Index k = 0; k < spec.d_conv; ++k) {
        const Index at = t - spec.d_conv + 1 + k;
        if (at < 0) continue;
        sum += weights.at("conv1d.weight", c * spec.d_conv + k) *
               raw[static_cast<std::size_t>(at)][static_cast<std::size_t>(c)];
      }
      u[static_cast<std::size_t>(c)] = test::silu(sum);
    }
    std::vector<double> y(static_cast<std::size_t>(spec.d_ssm));
    for (Index h = 0; h < n_head; ++h) {
      const Index g = h / (n_head / spec.n_group);
      double dt = std::log1p(std::exp(part(dt_raw + h) + weights.at("dt_bias", h)));
      dt = std::min(std::max(dt, double{spec.dt_min}), double{spec.dt_max});
      const double a = std::exp(-dt * std::exp(weights.at("A_log", h)));
      for (Index p = 0; p < P; ++p) {
        const Index c = h * P + p;
        const double input = u[static_cast<std::size_t>(c)];
        double sum = weights.at("D", spec.D_per_channel ? c : h) * input;
        for (Index n = 0; n < N; ++n) {
          const double B = u[static_cast<std::size_t>(spec.d_ssm + g * N + n)];
          const double C = u[static_cast<std::size_t>(spec.d_ssm + (spec.n_group + g) * N + n)];
          double& state = S[static_cast<std::size_t>(c * N + n)];
          state = a * state + dt * B * input;
          sum += C * state;
        }
        y[static_cast<std::size_t>(c)] = sum;
      }
    }
    if (spec.norm == GatedNorm::before_gate) normalize(spec, weights, y);
    for (Index c = 0; c < spec.d_ssm; ++c)
      y[static_cast<std::size_t>(c)] *= test::silu(part(z + c));
    if (spec.norm == GatedNorm::after_gate) normalize(spec, weights, y);
    std::vector<double> out;
    for (Index i = 0; i < d_mlp; ++i) out.push_back(test::silu(part(i)) * part(d_mlp + i));
    out.insert(out.end(), y.begin(), y.end());
    result.push_back(weights.linear("out_proj", out, d_model));
  }
  return result;
}

struct Named {
  const char* name;
  Mamba2Spec spec;
};

std::vector<Named> kinds() {
  const Mamba2Spec plain{.d_state = 6, .d_conv = 4, .head_dim = 5};  // 4 heads, one group
  std::vector<Named> kinds = {{"Plain", plain}};
  const auto with = [&](const char* name, auto change) {
    kinds.push_back({name, plain});
    change(kinds.back().spec);
  };
  with("Groups", [](Mamba2Spec& s) { s.n_group = 2; });
  with("AGroupPerHead", [](Mamba2Spec& s) {
    s.n_group = 4;
    s.d_state = 17;
  });
  with("BeforeGate", [](Mamba2Spec& s) {
    s.n_group = 2;
    s.norm = GatedNorm::before_gate;
    s.norm_eps = 1e-2F;
  });
  with("NoNorm", [](Mamba2Spec& s) { s.norm = GatedNorm::none; });
  with("Mlp", [](Mamba2Spec& s) {
    s.d_inner = 27;
    s.d_ssm = 20;
    s.n_group = 2;
    s.bias = true;
  });
  with("DPerChannel", [](Mamba2Spec& s) { s.D_per_channel = true; });
  with("Limits", [](Mamba2Spec& s) {
    s.dt_min = 0.5F;
    s.dt_max = 0.9F;
  });
  with("NoConvBias", [](Mamba2Spec& s) {
    s.conv_bias = false;
    s.d_conv = 2;
    s.bias = true;
  });
  with("OneTap", [](Mamba2Spec& s) { s.d_conv = 1; });
  return kinds;
}

class Mamba2Block : public testing::TestWithParam<Named> {};

TEST_P(Mamba2Block, EqualsThePapersRecurrence) {
  const Mamba2Spec spec = GetParam().spec.resolved(d_model);
  ASSERT_TRUE(spec.validate(d_model));
  const test::BlockWeights weights = weights_of(spec);
  WeightBinder binder(&weights.store(), {});
  Bookings bookings(d_model);
  const auto block = Mamba2::bind(GetParam().spec, WeightScope(binder, ""), bookings);
  ASSERT_TRUE(block) << block.error().message;
  EXPECT_TRUE(binder.unused().empty());

  const auto input = test::random_floats(tokens * d_model, 99);
  const auto expected = oracle(spec, weights, input);
  SerialExecutor serial;
  const std::vector<float> whole = test::run_block(**block, bookings, input, tokens, serial);
  for (Index t = 0; t < tokens; ++t) {
    for (Index i = 0; i < d_model; ++i) {
      EXPECT_NEAR(double{whole[static_cast<std::size_t>(t * d_model + i)]},
                  expected[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)], 5e-5)
          << "token " << t;
    }
  }
  test::EagerThreadPool threads(2);
  for (const Index chunk : {tokens, Index{7}, Index{1}}) {
    EXPECT_EQ(test::run_block(**block, bookings, input, chunk, threads), whole) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Mamba2Block, testing::ValuesIn(kinds()),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace krait::mamba2_test
