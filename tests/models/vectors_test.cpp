// A model whose weights come from a formula, with logits computed in double by an independent
// implementation of the equations.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string_view>

#include "krait/core/thread_pool.hpp"
#include "krait/models/builder.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"

namespace krait {
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
  if (ends("dt_proj.bias")) return {0.5, -2.0};
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

TEST(FormulaModel, GivesThePublishedLogitsAndState) {
  ASSERT_EQ(fnv1a("backbone.embedding.weight"), 0x020e9d0bU);
  const ModelBuilder builder =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 10, .d_model = 8, .vocab_padded = 16})
          .repeat(2,
                  [](LayerBuilder& layer) {
                    layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{.d_state = 4});
                  })
          .final_norm("norm_f", RmsNormSpec{})
          .tied_head();
  const WeightStore weights = formula_weights(builder.spec());
  const auto embedding = weights.find("backbone.embedding.weight")->tensor.as<float>();
  EXPECT_NEAR(double{embedding[0]}, -0.00139451, 1e-8);
  EXPECT_NEAR(double{embedding[1]}, -0.54059494, 1e-7);

  const Model model = builder.build(weights, "backbone").value();
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  const std::vector<Token> tokens = {1, 5, 2, 9, 3, 0, 7};
  std::vector<float> logits(tokens.size() * 16);
  session.prefill_all(tokens, state, {logits.data(), 7, 16});

  constexpr double tolerance = 2e-5;  // f32 against double, logits up to 5
  const double first[] = {0.681919, 5.069804, 0.649633, 2.059273};
  const double last[] = {-0.370130, -1.418639, -0.682265, 0.393036};
  double sum = 0.0;
  for (std::size_t i = 0; i < 16; ++i) sum += double{logits[6 * 16 + i]};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(double{logits[i]}, first[i], tolerance);
    EXPECT_NEAR(double{logits[6 * 16 + i]}, last[i], tolerance);
  }
  EXPECT_NEAR(sum, 4.825979, 1e-4);

  // The reference keeps d_conv = 4 columns of the convolution's input; krait the last three.
  const auto conv = state.tensor("layers.0.mixer.conv_state");  // [3, 16]
  EXPECT_NEAR(double{conv[0]}, -0.527494, tolerance);
  EXPECT_NEAR(double{conv[16]}, -0.622708, tolerance);
  EXPECT_NEAR(double{conv[32]}, 0.842326, tolerance);
  const auto ssm = state.tensor("layers.0.mixer.ssm_state");  // [1, 4, 16]
  const double h[] = {-0.001818, -0.005074, 0.008767, -0.002159};
  for (Index n = 0; n < 4; ++n) {
    EXPECT_NEAR(double{ssm[static_cast<std::size_t>(kernels::scan_offset(0, n, 4))]}, h[n], 1e-6);
  }
}

}  // namespace
}  // namespace krait
