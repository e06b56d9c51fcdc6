// A model whose weights come from a formula, with logits computed in double by an independent
// implementation of the equations.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "krait/core/thread_pool.hpp"
#include "krait/models/builder.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"

namespace krait::vectors_test {
namespace {

std::uint32_t fnv1a(std::string_view text) {
  std::uint32_t hash = 0x811C9DC5U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x01000193U;
  return hash;
}

struct Distribution {
  double scale;
  double offset;
};

Distribution distribution_of(std::string_view name) {
  const auto ends = [&](std::string_view end) { return name.ends_with(end); };
  if (ends("embedding.weight")) return {1.0, 0.0};
  if (ends("norm.weight") || ends("norm_f.weight")) return {0.1, 1.0};
  if (ends("conv1d.bias")) return {0.1, 0.0};
  if (ends("dt_proj.bias") || ends("dt_bias")) return {0.5, -2.0};
  if (ends("A_log")) return {0.5, 0.7};
  if (ends(".D")) return {0.2, 1.0};
  return {0.5, 0.0};  // projections and convolution
}

// Replaces every value by the formula's.
WeightStore formula_weights(const ModelSpec& spec) {
  const WeightStore shapes = random_weights(spec, 0, "backbone").value();
  WeightStore store;
  for (const auto& [name, entry] : shapes.entries()) {
    auto block = std::make_shared<AlignedBuffer<float>>(entry.tensor.size());
    std::uint32_t s = fnv1a(name);
    const auto [scale, offset] = distribution_of(name);
    for (Index i = 0; i < entry.tensor.size(); ++i) {
      s = s * 1664525U + 1013904223U;
      const double u = static_cast<double>(s >> 8U) / 16777216.0;
      (*block)[i] = static_cast<float>(offset + scale * (2.0 * u - 1.0));
    }
    const TensorView view{block->data(), DType::f32, entry.tensor.shape};
    store.add(name, view, block);
  }
  return store;
}

ModelBuilder model_of(const BlockSpec& mixer) {
  return ModelBuilder{}
      .embedding("embedding", {.vocab = 10, .d_model = 8, .vocab_padded = 16})
      .repeat(2,
              [&](LayerBuilder& layer) { layer.residual("norm", RmsNormSpec{}, "mixer", mixer); })
      .final_norm("norm_f", RmsNormSpec{})
      .tied_head();
}

// The logits of 7 tokens, [7, 16], and the state after them.
struct Outcome {
  std::vector<float> logits;
  State state;
};

Outcome run(const BlockSpec& mixer) {
  const ModelBuilder builder = model_of(mixer);
  const Model model = builder.build(formula_weights(builder.spec()), "backbone").value();
  SerialExecutor executor;
  Session session(model, executor);
  Outcome outcome{std::vector<float>(7 * 16), model.initial_state()};
  session
      .prefill_all(std::vector<Token>{1, 5, 2, 9, 3, 0, 7}, outcome.state,
                   {outcome.logits.data(), 7, 16})
      .value();
  return outcome;
}

constexpr double tolerance = 2e-5;  // f32 against double, logits up to 5

void expect_logits(const Outcome& outcome, Index position, std::vector<double> first) {
  for (std::size_t i = 0; i < first.size(); ++i) {
    const auto at = static_cast<std::size_t>(position) * 16 + i;
    EXPECT_NEAR(double{outcome.logits[at]}, first[i], tolerance) << "position " << position;
  }
}

double sum_of_last(const Outcome& outcome) {
  double sum = 0.0;
  for (std::size_t i = 6 * 16; i < 7 * 16; ++i) sum += double{outcome.logits[i]};
  return sum;
}

std::ptrdiff_t best_of_last(const Outcome& outcome) {
  const auto last = outcome.logits.begin() + std::ptrdiff_t{6} * 16;
  return std::max_element(last, last + 10) - last;
}

TEST(FormulaModel, GivesThePublishedLogitsAndState) {
  ASSERT_EQ(fnv1a("backbone.embedding.weight"), 0x020e9d0bU);
  const MambaSpec mixer{.d_state = 4};
  const WeightStore weights = formula_weights(model_of(mixer).spec());
  const auto embedding = weights.find("backbone.embedding.weight")->tensor.as<float>();
  EXPECT_NEAR(double{embedding[0]}, -0.00139451, 1e-8);
  EXPECT_NEAR(double{embedding[1]}, -0.54059494, 1e-7);

  const Outcome outcome = run(mixer);
  expect_logits(outcome, 0, {0.681919, 5.069804, 0.649633, 2.059273});
  expect_logits(outcome, 6, {-0.370130, -1.418639, -0.682265, 0.393036});
  EXPECT_NEAR(sum_of_last(outcome), 4.825979, 1e-4);
  EXPECT_EQ(best_of_last(outcome), 7);

  // The reference keeps d_conv = 4 columns of the convolution's input; krait the last three.
  const auto conv = outcome.state.tensor("layers.0.mixer.conv_state");  // [3, 16]
  EXPECT_NEAR(double{conv[0]}, -0.527494, tolerance);
  EXPECT_NEAR(double{conv[16]}, -0.622708, tolerance);
  EXPECT_NEAR(double{conv[32]}, 0.842326, tolerance);
  const auto ssm = outcome.state.tensor("layers.0.mixer.ssm_state");  // [1, 4, 16]
  const double h[] = {-0.001818, -0.005074, 0.008767, -0.002159};
  for (Index n = 0; n < 4; ++n) {
    EXPECT_NEAR(double{ssm[static_cast<std::size_t>(kernels::scan_offset(0, n, 4))]}, h[n], 1e-6);
  }
}

TEST(FormulaModel, GivesThePublishedLogitsOfFalconMamba) {
  const Outcome outcome = run(MambaSpec{.d_state = 4, .inner_norm_eps = 1e-6F});
  expect_logits(outcome, 6, {-0.389321, -1.610333, -0.697532, 0.260885});
  EXPECT_NEAR(sum_of_last(outcome), 4.031274, 1e-4);
  EXPECT_EQ(best_of_last(outcome), 7);
}

TEST(FormulaModel, GivesThePublishedLogitsAndStateOfMamba2) {
  const Mamba2Spec mixer{.d_state = 4, .head_dim = 4, .n_group = 2};
  const Outcome outcome = run(mixer);
  expect_logits(outcome, 6, {-0.889976, 0.248608, 0.103995, 1.443711});
  EXPECT_NEAR(sum_of_last(outcome), 8.822275, 1e-4);
  EXPECT_EQ(best_of_last(outcome), 7);
  const auto ssm = outcome.state.tensor("layers.0.mixer.ssm_state");  // [4, 4, 4]
  const double h[] = {-0.019950, 0.005953, -0.001894, -0.001693};
  for (std::size_t n = 0; n < 4; ++n) EXPECT_NEAR(double{ssm[n]}, h[n], 1e-6);

  Mamba2Spec before_gate = mixer;
  before_gate.norm = GatedNorm::before_gate;
  const Outcome before = run(before_gate);
  expect_logits(before, 6, {-0.273667, -0.516692, -0.339386, 0.886423});
  EXPECT_NEAR(sum_of_last(before), 6.369899, 1e-4);

  Mamba2Spec limited = mixer;
  limited.dt_max = 0.12F;
  expect_logits(run(limited), 6, {-0.856601, 0.317552, 0.094019, 1.384313});
}

}  // namespace
}  // namespace krait::vectors_test
