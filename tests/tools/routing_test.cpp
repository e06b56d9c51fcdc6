#include "krait/tools/routing.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::routing_test {
namespace {

TEST(RoutingStatistics, CountsChoicesAndGates) {
  const Model model = test::tiny_model(test::tiny_expert_spec(), DType::f32);
  RoutingStatistics statistics(model);
  ASSERT_EQ(statistics.layers().size(), 3U);
  const ExpertUse& use = statistics.layers()[1];
  EXPECT_EQ(use.path, "layers.1.moe");
  EXPECT_EQ(use.chosen.size(), 5U);
  EXPECT_EQ(use.share(0), 0.0);
  EXPECT_EQ(use.mean_gate(0), 0.0);
  EXPECT_EQ(use.balance(), 0.0);

  const auto see = [&](std::string_view path, std::vector<float> gates, Site site = Site::routing,
                       bool again = false) {
    statistics.at({.site = site, .path = path, .again = again},
                  {gates.data(), std::ssize(gates) / 5, 5});
  };
  // Two runs of tokens that go to two experts each.
  see("layers.1.moe", {0.5F, 0, 0.25F, 0, 0,  //
                       0.75F, 0.5F, 0, 0, 0});
  see("layers.1.moe", {0.25F, 1, 0, 0, 0,  //
                       0, 0.25F, 0, 0, 0.5F});
  EXPECT_EQ(use.tokens, 4);
  EXPECT_EQ(use.chosen, (std::vector<Index>{3, 3, 1, 0, 1}));
  EXPECT_EQ(use.share(0), 3.0 / 8);
  EXPECT_EQ(use.share(3), 0.0);
  EXPECT_EQ(use.mean_gate(0), 0.5);
  EXPECT_EQ(use.mean_gate(1), 1.75 / 3);
  EXPECT_EQ(use.mean_gate(3), 0.0);
  const double entropy = -2 * 0.375 * std::log(0.375) - 2 * 0.125 * std::log(0.125);
  EXPECT_NEAR(use.balance(), entropy / std::log(5.0), 1e-15);

  for (const std::size_t other : {0U, 2U}) EXPECT_EQ(statistics.layers()[other].tokens, 0);
  see("layers.7.moe", {1, 0, 0, 0, 0});
  see("layers.1.moe", {1, 0, 0, 0, 0}, Site::hidden);
  see("layers.1.moe", {1, 0, 0, 0, 0}, Site::routing, true);
  for (const ExpertUse& layer : statistics.layers()) EXPECT_LE(layer.tokens, 4);
}

TEST(RoutingStatistics, BalanceIsOneOfEvenAndZeroOfSingleUse) {
  ExpertUse use{.path = "moe", .tokens = 4, .chosen = {2, 2}, .gate_sum = {1, 1}};
  EXPECT_NEAR(use.balance(), 1.0, 1e-15);
  use.chosen = {4, 0};
  EXPECT_EQ(use.balance(), 0.0);
  use = {.path = "moe", .tokens = 4, .chosen = {4}, .gate_sum = {4}};
  EXPECT_EQ(use.balance(), 1.0) << "one expert has no other balance";
}

TEST(RoutingStatistics, SeesEveryTokenOfASessionOnce) {
  const Model model = test::tiny_model(test::tiny_expert_spec(), DType::f32);
  ThreadPool threads(2);
  const auto tokens = test::random_tokens(37, 61, 5);
  std::vector<std::vector<Index>> chosen;
  for (const Index chunk : {64, 5}) {
    RoutingStatistics statistics(model);
    Session session(model, threads, {.chunk = chunk, .hook = &statistics});
    State state = model.initial_state();
    session.prefill(tokens, state).value();
    const Index top_k[] = {1, 3, 2};
    for (std::size_t i = 0; i < 3; ++i) {
      const ExpertUse& use = statistics.layers()[i];
      EXPECT_EQ(use.tokens, 37);
      Index all = 0;
      for (const Index count : use.chosen) all += count;
      EXPECT_EQ(all, 37 * top_k[i]);
      chosen.push_back(use.chosen);
    }
  }
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(chosen[i], chosen[3 + i]) << "however it is cut";
}

// Sends every token to the last of three experts, none of which does anything.
class LastOfThree final : public Block {
 public:
  explicit LastOfThree(ScratchSlot gates) : gates_(gates) {}

  static Result<std::unique_ptr<const Block>> bind(const WeightScope&, Bookings& bookings) {
    return std::unique_ptr<const Block>(std::make_unique<LastOfThree>(bookings.scratch(3)));
  }
  void forward(BlockContext& ctx) const noexcept override {
    const auto gates = ctx.scratch(gates_, 3);
    for (Index t = 0; t < gates.rows; ++t) {
      gates(t, 0) = gates(t, 1) = 0.0F;
      gates(t, 2) = 0.5F;
    }
    ctx.visit(Site::routing, gates);
  }
  std::string description() const override { return "LastOfThree"; }

 private:
  ScratchSlot gates_;
};

Model model_with(CustomSpec block) {
  const ModelBuilder builder =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 10, .d_model = 4})
          .repeat(2,
                  [&](LayerBuilder& layer) { layer.residual("norm", RmsNormSpec{}, "own", block); })
          .final_norm("norm_f", RmsNormSpec{})
          .tied_head();
  return builder.build(random_weights(builder.spec(), 1).value()).value();
}

TEST(RoutingStatistics, CountsTheExpertsOfAnApplicationsOwnBlock) {
  const std::vector<Token> tokens = {1, 2, 3, 4};
  for (const Index n_expert : {0, 3, 2}) {
    const Model model =
        model_with({.kind = "Own", .bind = LastOfThree::bind, .n_expert = n_expert});
    RoutingStatistics statistics(model);
    SerialExecutor executor;
    Session session(model, executor, {.hook = &statistics});
    State state = model.initial_state();
    session.prefill(tokens, state).value();
    ASSERT_EQ(statistics.layers().size(), n_expert > 0 ? 2U : 0U);
    if (n_expert == 0) continue;
    const ExpertUse& use = statistics.layers()[1];
    EXPECT_EQ(use.path, "layers.1.own");
    if (n_expert == 3) {
      EXPECT_EQ(use.chosen, (std::vector<Index>{0, 0, 4}));
      EXPECT_EQ(use.mean_gate(2), 0.5);
    } else {  // what the block shows is not what its spec says
      EXPECT_EQ(use.tokens, 0);
    }
  }
}

TEST(RoutingStatistics, NoBlockHasFewerThanNoExperts) {
  const CustomSpec spec{.kind = "Own", .bind = LastOfThree::bind, .n_expert = -1};
  EXPECT_EQ(spec.validate(4).error().message,
            "[spec] CustomSpec 'Own': expected n_expert of at least 0, found -1");
}

}  // namespace
}  // namespace krait::routing_test
