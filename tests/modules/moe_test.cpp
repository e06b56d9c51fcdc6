// A mixture of experts and a feed-forward network against plain loops in double.

#include "krait/modules/moe.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "krait/core/thread_pool.hpp"
#include "krait/modules/mlp.hpp"
#include "tests/modules/block_fixture.hpp"
#include "tests/support/eager_thread_pool.hpp"

namespace krait::moe_test {
namespace {

using kernels::RouterScore;

constexpr Index d_model = 10;
constexpr Index d_expert = 13;
constexpr Index n_expert = 5;
constexpr Index tokens = 23;

// down(activation(g) · u), g and u from up; or down(activation(up)). `e` is the place in a stack.
std::vector<double> feed_forward(const test::BlockWeights& weights, const std::string& up,
                                 const std::string& down, const std::vector<double>& x, Index width,
                                 bool gated, Activation activation, Index e) {
  const std::vector<double> hidden = weights.linear(up, x, (gated ? 2 : 1) * width, e);
  std::vector<double> active(static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < active.size(); ++i) {
    active[i] = activation == Activation::relu ? std::max(hidden[i], 0.0) : test::silu(hidden[i]);
    if (gated) active[i] *= hidden[active.size() + i];
  }
  return weights.linear(down, active, d_model, e);
}

test::BlockWeights weights_of(const MoeSpec& spec) {
  test::BlockWeights weights;
  const Index factor = spec.gated ? 2 : 1;
  weights.add("router.weight", {n_expert, d_model}, 1.0F);
  if (spec.router.bias) weights.add("router.bias", {n_expert}, 0.5F);
  if (spec.router.selection_bias) {
    weights.add("router.e_score_correction_bias", {n_expert}, 0.3F);
  }
  const auto add_pair = [&](const std::string& scope, Index width) {
    weights.add(scope + "up_proj.weight", {factor * width, d_model}, 0.5F);
    weights.add(scope + "down_proj.weight", {d_model, width}, 0.5F);
    if (!spec.bias) return;
    weights.add(scope + "up_proj.bias", {factor * width}, 0.5F);
    weights.add(scope + "down_proj.bias", {d_model}, 0.5F);
  };
  if (spec.names.experts.empty()) {
    weights.add("up_proj.weight", {n_expert, factor * d_expert, d_model}, 0.5F);
    weights.add("down_proj.weight", {n_expert, d_model, d_expert}, 0.5F);
  } else {
    for (Index e = 0; e < n_expert; ++e) add_pair("experts." + std::to_string(e) + ".", d_expert);
  }
  if (spec.d_shared != 0) add_pair("shared_expert.", spec.d_shared);
  return weights;
}

// The gates by the definition: scores, the best of them, what is made of those.
std::vector<double> gates_of(const MoeSpec& spec, const test::BlockWeights& weights,
                             const std::vector<double>& x) {
  const RouterSpec& router = spec.router;
  const std::vector<double> logits = weights.linear("router", x, n_expert);
  std::vector<double> score = logits;
  double sum = 0.0;
  for (const double logit : logits) sum += std::exp(logit);
  for (double& s : score) {
    if (router.score == RouterScore::softmax) s = std::exp(s) / sum;
    if (router.score == RouterScore::sigmoid) s = 1.0 / (1.0 + std::exp(-s));
  }
  std::vector<std::size_t> order(score.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t e) {
    return score[e] + weights.at("router.e_score_correction_bias", static_cast<Index>(e));
  };
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return key(a) > key(b); });
  std::vector<double> gates(score.size());
  double chosen = 0.0;
  for (std::size_t k = 0; k < static_cast<std::size_t>(spec.top_k); ++k) {
    const std::size_t e = order[k];
    gates[e] = router.score == RouterScore::softmax_of_chosen ? std::exp(logits[e]) : score[e];
    chosen += gates[e];
  }
  const bool divides = router.normalize || router.score == RouterScore::softmax_of_chosen;
  for (double& gate : gates) gate *= double{router.scale} / (divides ? chosen : 1.0);
  return gates;
}

std::vector<double> oracle(const MoeSpec& spec, const test::BlockWeights& weights,
                           const std::vector<double>& x) {
  const std::vector<double> gates = gates_of(spec, weights, x);
  std::vector<double> y(x.size());
  const auto add = [&](double gate, const std::string& scope, Index width, Index e) {
    const auto output = feed_forward(weights, scope + "up_proj", scope + "down_proj", x, width,
                                     spec.gated, spec.activation, e);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += gate * output[i];
  };
  for (Index e = 0; e < n_expert; ++e) {
    const double gate = gates[static_cast<std::size_t>(e)];
    if (gate == 0.0) continue;
    spec.names.experts.empty()
        ? add(gate, "", d_expert, e)
        : add(gate, spec.names.experts + "." + std::to_string(e) + ".", d_expert, 0);
  }
  if (spec.d_shared != 0) add(1.0, "shared_expert.", spec.d_shared, 0);
  return y;
}

struct Named {
  const char* name;
  MoeSpec spec;
};

std::vector<Named> kinds() {
  const MoeSpec plain{.n_expert = n_expert, .top_k = 1, .d_expert = d_expert};
  std::vector<Named> kinds = {{"Switch", plain}};
  const auto with = [&](const char* name, auto change) {
    kinds.push_back({name, plain});
    change(kinds.back().spec);
  };
  with("SoftmaxTop2", [](MoeSpec& s) { s.top_k = 2; });
  with("All", [](MoeSpec& s) { s.top_k = n_expert; });
  with("Normalized", [](MoeSpec& s) {
    s.top_k = 3;
    s.router.normalize = true;
    s.router.scale = 2.5F;
  });
  with("SoftmaxOfChosen", [](MoeSpec& s) {
    s.top_k = 2;
    s.router.score = RouterScore::softmax_of_chosen;
    s.router.bias = true;
  });
  with("Sigmoid", [](MoeSpec& s) {
    s.router = {.score = RouterScore::sigmoid, .bias = true};
    s.activation = Activation::silu;
    s.gated = true;
    s.names.experts = "experts";
    s.bias = true;
  });
  with("SigmoidSelectionBias", [](MoeSpec& s) {
    s.top_k = 3;
    s.router = {
        .score = RouterScore::sigmoid, .selection_bias = true, .normalize = true, .scale = 1.5F};
    s.d_shared = 7;
  });
  with("GatedRelu", [](MoeSpec& s) { s.gated = true; });
  with("Silu", [](MoeSpec& s) { s.activation = Activation::silu; });
  with("GatedSiluShared", [](MoeSpec& s) {
    s.activation = Activation::silu;
    s.gated = true;
    s.d_shared = 29;  // wider than an expert
  });
  return kinds;
}

class MoeBlock : public testing::TestWithParam<Named> {};

TEST_P(MoeBlock, EqualsAPlainLoop) {
  const MoeSpec& spec = GetParam().spec;
  ASSERT_TRUE(spec.validate(d_model));
  const test::BlockWeights weights = weights_of(spec);
  WeightBinder binder(&weights.store(), {});
  Bookings bookings(d_model);
  const auto block = Moe::bind(spec, WeightScope(binder, ""), bookings);
  ASSERT_TRUE(block) << block.error().message;
  EXPECT_TRUE(binder.unused().empty());
  EXPECT_EQ(bookings.state_floats(), 0);

  const auto input = test::random_floats(tokens * d_model, 99);
  SerialExecutor serial;
  const std::vector<float> whole = test::run_block(**block, bookings, input, tokens, serial);
  for (Index t = 0; t < tokens; ++t) {
    const auto expected = oracle(spec, weights, test::row_of(input, t, d_model));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(double{whole[static_cast<std::size_t>(t * d_model) + i]}, expected[i], 2e-5)
          << "token " << t;
    }
  }
  test::EagerThreadPool threads(2);
  for (const Index chunk : {tokens, Index{5}, Index{1}}) {
    EXPECT_EQ(test::run_block(**block, bookings, input, chunk, threads), whole) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, MoeBlock, testing::ValuesIn(kinds()),
                         [](const auto& kind) { return kind.param.name; });

// Counts what a block tells of its routing.
struct Watcher final : ActivationHook {
  void at(const ActivationPlace& place, MatrixView<float> gates) noexcept override {
    if (place.site != Site::routing) return;
    paths.emplace_back(place.path);
    rows += gates.rows;
    for (Index t = 0; t < gates.rows; ++t) {
      for (Index e = 0; e < gates.cols; ++e) chosen += gates(t, e) != 0.0F ? 1 : 0;
    }
  }
  std::vector<std::string> paths;
  Index rows = 0;
  Index chosen = 0;
};

TEST(Moe, ShowsAHookItsGates) {
  const MoeSpec spec{.n_expert = n_expert, .top_k = 2, .d_expert = d_expert};
  const test::BlockWeights plain = weights_of(spec);
  WeightStore store;
  for (const auto& [name, entry] : plain.store().entries()) {
    store.add("layers.3.moe." + name, entry.tensor, nullptr);
  }
  WeightBinder binder(&store, {});
  Bookings bookings(d_model);
  const auto block =
      Moe::bind(spec, WeightScope(binder, "").scope("layers", 3).scope("moe"), bookings).value();
  auto x = test::random_floats(4 * d_model, 1);
  Scratch scratch(bookings.scratch_layout(), 4);
  SerialExecutor serial;
  Watcher watcher;
  const SequenceRows rows{.first = 0, .count = 4, .hook = &watcher};
  BlockContext ctx{.x = {x.data(), 4, d_model},
                   .sequences = {&rows, 1},
                   .executor = serial,
                   .memory = scratch,
                   .workspace = {},
                   .has_hooks = true,
                   .place = {3, "layers.3.moe"}};
  block->forward(ctx);
  EXPECT_EQ(watcher.paths, (std::vector<std::string>{"layers.3.moe"}));
  EXPECT_EQ(watcher.rows, 4);
  EXPECT_EQ(watcher.chosen, 8);
}

TEST(Mlp, EqualsAPlainLoop) {
  for (const bool gated : {false, true}) {
    for (const Activation activation : {Activation::relu, Activation::silu}) {
      const MlpSpec spec{.d_hidden = 17,
                         .activation = activation,
                         .gated = gated,
                         .bias = gated,
                         .up = "fc1",
                         .down = "fc2"};
      test::BlockWeights weights;
      weights.add("fc1.weight", {(gated ? 2 : 1) * 17, d_model}, 0.5F);
      weights.add("fc2.weight", {d_model, 17}, 0.5F);
      if (spec.bias) weights.add("fc1.bias", {2 * 17}, 0.5F);
      if (spec.bias) weights.add("fc2.bias", {d_model}, 0.5F);
      WeightBinder binder(&weights.store(), {});
      Bookings bookings(d_model);
      const auto block = spec.bind(WeightScope(binder, ""), bookings).value();
      const auto input = test::random_floats(tokens * d_model, 7);
      test::EagerThreadPool threads(2);
      for (const Index chunk : {tokens, Index{1}}) {
        const auto y = test::run_block(*block, bookings, input, chunk, threads);
        for (Index t = 0; t < tokens; ++t) {
          const auto expected = feed_forward(weights, "fc1", "fc2", test::row_of(input, t, d_model),
                                             17, gated, activation, 0);
          for (std::size_t i = 0; i < expected.size(); ++i) {
            EXPECT_NEAR(double{y[static_cast<std::size_t>(t * d_model) + i]}, expected[i], 1e-5);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace krait::moe_test
