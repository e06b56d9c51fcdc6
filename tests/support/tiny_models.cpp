#include "tests/support/tiny_models.hpp"

#include "krait/core/rng.hpp"

namespace krait::test {

ModelSpec tiny_spec(Index n_layer) {
  return ModelBuilder{}
      .embedding("embedding", {.vocab = 61, .d_model = 20, .vocab_padded = 64})
      .repeat(n_layer,
              [](LayerBuilder& layer) {
                layer.residual("norm", RmsNormSpec{}, "mixer",
                               MambaSpec{.d_state = 5, .d_conv = 4, .expand = 2, .dt_rank = 3});
              })
      .final_norm("norm_f", RmsNormSpec{})
      .tied_head()
      .spec();
}

Model tiny_model(DType dtype, const WeightOptions& options, Index n_layer) {
  const ModelSpec spec = tiny_spec(n_layer);
  const WeightStore weights = random_weights(spec, 11, "backbone", dtype).value();
  return build_model(spec, weights, "backbone", options).value();
}

std::vector<Token> random_tokens(Index count, Index vocab, std::uint64_t seed) {
  std::vector<Token> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<Token>(random_uniform({.seed = seed, .position = i}) *
                                   static_cast<double>(vocab));
  }
  return tokens;
}

std::vector<float> all_logits(Session& session, std::span<const Token> tokens, State& state) {
  const Index vocab = session.model().vocab_padded();
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(vocab));
  session.prefill_all(tokens, state, {logits.data(), static_cast<Index>(tokens.size()), vocab});
  return logits;
}

}  // namespace krait::test
