#include "krait/tools/cost.hpp"

#include <gtest/gtest.h>

#include "tests/support/tiny_models.hpp"

namespace krait::cost_test {
namespace {

// Two layers of tiny_spec: d_model 20, d_inner 40, d_state 5, dt_rank 3; a tied head of 64 rows.
TEST(TokenCost, CountsTheMatricesOfAMamba) {
  const Model model = test::tiny_model();
  const TokenCost cost = token_cost(model);
  const double layer = 80 * 20 + (3 + 2 * 5) * 40 + 40 * 3 + 20 * 40;
  EXPECT_EQ(cost.prompt_flop, 2 * 2 * layer);
  EXPECT_EQ(cost.decode_flop, cost.prompt_flop + 2 * 64 * 20);
  EXPECT_EQ(cost.weights_bytes, model.plan().bytes_per_token);
  EXPECT_EQ(cost.state_bytes, model.plan().state_bytes);
}

TEST(TokenCost, OfSmallerWeightsIsTheSameArithmeticAndFewerBytes) {
  const TokenCost f32 = token_cost(test::tiny_model());
  const TokenCost q4 = token_cost(test::tiny_model(DType::f32, "q4"));
  EXPECT_EQ(q4.prompt_flop, f32.prompt_flop);
  EXPECT_EQ(q4.decode_flop, f32.decode_flop);
  EXPECT_LT(q4.weights_bytes, f32.weights_bytes);
  EXPECT_EQ(q4.state_bytes, f32.state_bytes);
}

TEST(TokenCost, CountsAHeadOfItsOwnOnce) {
  ModelSpec spec = test::tiny_spec();
  spec.tied_head = false;
  const TokenCost cost = token_cost(test::tiny_model(spec, DType::f32));
  const TokenCost tied = token_cost(test::tiny_model());
  EXPECT_EQ(cost.prompt_flop, tied.prompt_flop);
  EXPECT_EQ(cost.decode_flop, tied.decode_flop);
}

TEST(TokenCost, CountsTheExpertsOfATokenOnly) {
  const auto spec = [](Index n_expert, Index top_k) {
    return ModelBuilder{}
        .embedding("embedding", {.vocab = 61, .d_model = 20})
        .repeat(1,
                [&](LayerBuilder& layer) {
                  layer.residual("norm", RmsNormSpec{}, "moe",
                                 MoeSpec{.n_expert = n_expert, .top_k = top_k, .d_expert = 23});
                })
        .final_norm("norm_f", RmsNormSpec{})
        .tied_head()
        .spec();
  };
  const auto flop = [&](Index n_expert, Index top_k) {
    return token_cost(test::tiny_model(spec(n_expert, top_k), DType::f32)).prompt_flop;
  };
  const double expert = 2.0 * 2 * 20 * 23;
  EXPECT_EQ(flop(5, 1), expert);
  EXPECT_EQ(flop(5, 3), 3 * expert);
  EXPECT_EQ(flop(8, 1), expert);
}

}  // namespace
}  // namespace krait::cost_test
