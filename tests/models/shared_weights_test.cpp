// Blocks whose weights several layers share, and what they read and feed.

#include <gtest/gtest.h>

#include <set>

#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::shared_weights_test {
namespace {

// The spec in which every layer has a block of its own, and weights that are copies.
std::pair<ModelSpec, WeightStore> with_copies(const ModelSpec& shared, const WeightStore& weights) {
  ModelSpec spec = shared;
  for (LayerSpec& layer : spec.layers) {
    for (ResidualSpec& residual : layer.residuals) residual.weights_of = -1;
  }
  WeightStore copies = weights;
  const std::string owner = "backbone.layers.1.shared";
  for (const TensorUse& use : plan_model(spec, nullptr, "backbone").value().tensors) {
    if (weights.contains(use.name)) continue;
    const std::string other = "backbone.layers.3.shared";
    EXPECT_TRUE(use.name.starts_with(other)) << use.name;
    copies.add(use.name, weights.find(owner + use.name.substr(other.size()))->tensor, nullptr);
  }
  return {spec, copies};
}

std::vector<float> shared_logits(const Model& model) {
  return test::all_logits(model, test::random_tokens(40, model.vocab(), 3), {.chunk = 8});
}

TEST(SharedWeights, GiveTheBitsOfCopies) {
  const ModelSpec spec = test::tiny_shared_spec();
  const WeightStore weights = random_weights(spec, 11, "backbone", DType::f32).value();
  const auto [own_spec, copies] = with_copies(spec, weights);
  for (const char* form : {"file", "q8"}) {
    const WeightOptions options{.form = form};
    const Model shared = build_model(spec, weights, "backbone", options).value();
    const Model own = build_model(own_spec, copies, "backbone", options).value();
    EXPECT_TRUE(test::same_bits<float>(shared_logits(shared), shared_logits(own))) << form;
    EXPECT_NE(shared.fingerprint(), own.fingerprint());
    // 20 to 40 three times, 40 to 20; gates and network; norms and biases.
    const Index once = 3 * 40 * 40 + 40 * 20 + 26 * 20 + 26 + 13 * 20 + 20 + 40 + 20;
    EXPECT_EQ(own.plan().parameters - shared.plan().parameters, once);
    EXPECT_GT(own.plan().owned_bytes + own.plan().in_place_bytes,
              shared.plan().owned_bytes + shared.plan().in_place_bytes + once);
    EXPECT_EQ(own.plan().state_bytes, shared.plan().state_bytes);
    EXPECT_EQ(own.plan().cache_bytes_per_token, shared.plan().cache_bytes_per_token);
  }
}

TEST(SharedWeights, AreListedOnceButNotTheirCaches) {
  const ModelPlan plan = plan_model(test::tiny_shared_spec(), nullptr, "backbone").value();
  std::set<std::string> names;
  for (const TensorUse& use : plan.tensors) {
    EXPECT_TRUE(names.insert(use.name).second) << use.name;
  }
  EXPECT_TRUE(names.contains("backbone.layers.1.shared.self_attn.q_proj.weight"));
  EXPECT_FALSE(names.contains("backbone.layers.3.shared.self_attn.q_proj.weight"));
  EXPECT_TRUE(names.contains("backbone.layers.1.shared.feed_forward.adapter.1.0.weight"));
  EXPECT_TRUE(names.contains("backbone.layers.3.linear.weight"));
  std::set<std::string> caches;
  for (const CacheTensor& tensor : plan.cache_tensors) caches.insert(tensor.path);
  EXPECT_EQ(caches, (std::set<std::string>{
                        "layers.1.shared.self_attn.keys", "layers.1.shared.self_attn.values",
                        "layers.3.shared.self_attn.keys", "layers.3.shared.self_attn.values",
                        "layers.3.attention.keys", "layers.3.attention.values"}));
}

// What an aside block gives goes to the next one's norm, not to the stream: with a mixer that gives
// nothing, the logits are those of the embedding.
TEST(SharedWeights, AsideBlocksLeaveTheStreamAsItIs) {
  const auto logits_with = [](float scale) {
    ModelSpec spec = test::tiny_shared_spec();
    for (LayerSpec& layer : spec.layers) {
      for (ResidualSpec& residual : layer.residuals) {
        if (!residual.aside) residual.scale = scale;
      }
    }
    return shared_logits(test::tiny_model(spec, DType::f32));
  };
  ModelSpec bare = test::tiny_spec(1);
  bare.layers[0].residuals[0].scale = 0.0F;
  EXPECT_TRUE(
      test::same_bits<float>(logits_with(0.0F), shared_logits(test::tiny_model(bare, DType::f32))));
  EXPECT_FALSE(test::same_bits<float>(logits_with(0.0F), logits_with(1.0F)));
}

TEST(SharedWeights, SpecsAreChecked) {
  const auto message = [](auto&& change) {
    ModelSpec spec = test::tiny_shared_spec();
    change(spec.layers);
    const auto result = validate(spec);
    return result ? std::string() : result.error().message;
  };
  using Layers = std::vector<LayerSpec>;
  EXPECT_EQ(message([](Layers& layers) { layers[0].residuals[0].aside = true; }),
            "[spec] aside: expected a block after it in the layer, found none");
  EXPECT_EQ(message([](Layers& layers) { layers[2].residuals[1].aside = true; }),
            "[spec] aside: expected a block after it that is neither beside it nor aside, found "
            "one that is");
  EXPECT_EQ(message([](Layers& layers) { layers[3].residuals[0].weights_of = -2; }),
            "[spec] weights_of: expected -1 or a layer, found -2");
  const auto of_block = [&](auto&& change) {
    return message([&](Layers& layers) {
      change(std::get<SharedTransformerSpec>(layers[3].residuals[0].block));
    });
  };
  EXPECT_NE(of_block([](SharedTransformerSpec& s) { s.attention.d_head = 0; }).find("d_head"),
            std::string::npos);
  EXPECT_NE(of_block([](SharedTransformerSpec& s) {
              s.attention.adapter_rank = -1;
            }).find("adapter_rank"),
            std::string::npos);
  EXPECT_NE(
      of_block([](SharedTransformerSpec& s) { s.mlp.adapter_rank = -1; }).find("adapter_rank"),
      std::string::npos);
  EXPECT_NE(of_block([](SharedTransformerSpec& s) { s.norm.eps = -1.0F; }).find("eps"),
            std::string::npos);
}

TEST(SharedWeights, LayersThatReadTheEmbeddingNeedTheTokens) {
  const Model model = test::tiny_model(test::tiny_shared_spec(), DType::f32);
  SerialExecutor executor;
  Session session(model, executor, {.chunk = 8});
  State state = model.initial_state();
  const std::vector<Token> tokens = test::random_tokens(19, model.vocab(), 3);
  const Index count = std::ssize(tokens);
  const std::vector<float> expected = test::all_logits(session, tokens, state);
  std::vector<float> memory(static_cast<std::size_t>(count * model.d_model()));
  const MatrixView<float> x(memory.data(), count, model.d_model());
  std::vector<float> logits(expected.size());
  ASSERT_TRUE(session.embed(tokens, x));
  for (Index layer = 0; layer < 4; ++layer) {
    state = model.initial_state();
    ASSERT_TRUE(session.run_layers({layer, layer + 1}, x, state, tokens));
  }
  ASSERT_TRUE(session.unembed(x, {logits.data(), count, model.vocab_padded()}));
  EXPECT_TRUE(test::same_bits<float>(logits, expected));

  state = model.initial_state();
  EXPECT_TRUE(session.run_layers({0, 1}, x, state));
  const auto result = session.run_layers({0, 2}, x, state);
  EXPECT_EQ(result.error().code, ErrorCode::bad_argument);
  EXPECT_EQ(
      result.error().message,
      "[session] layers: expected the 19 tokens of the rows, whose embedding they read, found "
      "0 tokens");
}

}  // namespace
}  // namespace krait::shared_weights_test
