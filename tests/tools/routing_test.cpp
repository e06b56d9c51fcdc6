#include "krait/tools/routing.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait {
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

}  // namespace
}  // namespace krait
