#include "tests/support/tiny_models.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <utility>

#include "krait/core/rng.hpp"
#include "krait/core/tensor.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/overlay.hpp"
#include "tests/support/gguf_blocks.hpp"
#include "tests/support/support.hpp"

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

ModelSpec tiny_mamba2_spec() {
  return ModelBuilder{}
      .embedding("embedding", {.vocab = 61, .d_model = 20, .vocab_padded = 64})
      .repeat(3,
              [](LayerBuilder& layer, Index i) {
                Mamba2Spec mixer{.d_state = 18, .head_dim = 10, .n_group = 2};
                if (i == 1) {
                  mixer = {.d_state = 7, .d_conv = 3, .head_dim = 5, .d_inner = 35, .d_ssm = 25};
                  mixer.norm = GatedNorm::before_gate;
                  mixer.D_per_channel = true;
                }
                if (i == 2) {
                  mixer.norm = GatedNorm::none;
                  mixer.dt_min = 0.004F;
                  mixer.dt_max = 0.05F;
                }
                layer.residual("norm", RmsNormSpec{}, "mixer", mixer);
              })
      .final_norm("norm_f", RmsNormSpec{})
      .tied_head()
      .spec();
}

ModelSpec tiny_expert_spec() {
  using kernels::RouterScore;
  ModelSpec spec =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 61, .d_model = 20, .vocab_padded = 64})
          .repeat(3,
                  [](LayerBuilder& layer, Index i) {
                    MoeSpec moe{.n_expert = 5, .top_k = 1, .d_expert = 23};
                    if (i == 1) {
                      moe.top_k = 3;
                      moe.router = {.score = RouterScore::sigmoid,
                                    .bias = true,
                                    .selection_bias = true,
                                    .normalize = true,
                                    .scale = 1.5F};
                      moe.activation = Activation::silu;
                      moe.gated = true;
                      moe.d_shared = 9;
                      moe.names.experts = "experts";
                      moe.bias = true;
                    }
                    if (i == 2) {
                      moe.top_k = 2;
                      moe.router.score = RouterScore::softmax_of_chosen;
                    }
                    const MambaSpec mixer{.d_state = 5, .dt_rank = 3, .inner_norm_eps = 1e-6F};
                    layer.residual("norm", RmsNormSpec{}, "mixer", mixer)
                        .residual("norm2", LayerNormSpec{}, "moe", moe);
                  })
          .final_norm("norm_f", RmsNormSpec{})
          .head("lm_head")
          .spec();
  spec.layers.back().residuals.push_back({"norm3", RmsNormSpec{}, "mlp", MlpSpec{.d_hidden = 11}});
  for (std::size_t i = 1; i < 3; ++i) spec.layers.back().residuals[i].beside = true;
  return spec;
}

ModelSpec tiny_hybrid_spec() {
  ModelSpec spec =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 61, .d_model = 20, .vocab_padded = 64})
          .repeat(4,
                  [](LayerBuilder& layer, Index i) {
                    AttentionSpec attention{.n_head = 4, .n_kv_head = 2, .d_head = 7};
                    if (i == 0) attention.rotary = RotarySpec{.dim = 6};
                    if (i == 1) attention = {.n_head = 3, .d_head = 8, .bias = true};
                    if (i == 2) {
                      attention = {.n_head = 5, .n_kv_head = 1, .scale = 0.25F, .out_bias = true};
                      attention.rotary =
                          RotarySpec{.theta = 500.0, .dim = 4, .factor = 2.0, .interleaved = true};
                    }
                    if (i != 1) {
                      layer.residual("norm", RmsNormSpec{}, "mixer",
                                     MambaSpec{.d_state = 5, .dt_rank = 3});
                    }
                    if (i != 3) layer.residual("norm2", RmsNormSpec{}, "attention", attention);
                  })
          .final_norm("norm_f", RmsNormSpec{})
          .tied_head()
          .spec();
  spec.layers[2].residuals[1].beside = true;
  return spec;
}

ModelSpec tiny_hybrid_options_spec() {
  const AttentionSpec windowed{
      .n_head = 3,
      .n_kv_head = 1,
      .d_head = 6,
      .rotary = RotarySpec{.dim = 4, .factor = 8.0, .original_context = 16},
      .window = 9};
  AttentionSpec convolved{.n_head = 2, .d_head = 5, .d_conv = 4};
  convolved.names = {.qkv = "in_proj", .out = "out_proj"};
  Mamba2Spec scaled{.d_state = 7, .head_dim = 5};
  scaled.scales = {.z = 0.7F, .x = 1.3F, .B = 0.9F, .C = 1.1F, .dt = 0.5F};
  const MambaSpec normed{
      .d_state = 5, .dt_rank = 3, .inner_norm_eps = 1e-6F, .inner_norm_weights = true};
  const MlpSpec own_gate{.d_hidden = 13, .gate = "gate_proj", .gate_scale = 0.6F};
  const MlpSpec gate_last{.d_hidden = 11, .activation = Activation::gelu, .gate_last = true};
  const MlpSpec squared{.d_hidden = 9, .activation = Activation::relu_squared, .gated = false};
  MoeSpec moe{.n_expert = 3, .top_k = 2, .d_expert = 7, .gated = true};
  moe.names.experts = "experts";
  moe.names.gate = "gate_proj";
  const RmsNormSpec norm;
  ModelSpec spec = ModelBuilder{}
                       .embedding("embedding", {.vocab = 61, .d_model = 20, .vocab_padded = 64})
                       .final_norm("norm_f", norm)
                       .tied_head()
                       .spec();
  spec.embedding.scale = 1.5F;
  spec.logit_scale = 0.3F;
  spec.layers = {{{{"norm", norm, "mixer", scaled, 0.8F},
                   {"norm", norm, "attention", windowed, 1.2F, true},
                   {"norm2", norm, "mlp", own_gate}}},
                 {{{"norm", norm, "attention", convolved}, {"norm2", norm, "mlp", gate_last}}},
                 {{{"norm", norm, "mixer", normed, 0.7F},
                   {"norm2", norm, "moe", moe, 0.7F},
                   {"norm2", norm, "mlp", squared, 0.7F, true}}}};
  return spec;
}

ModelSpec tiny_shared_spec() {
  const RmsNormSpec norm;
  const MambaSpec mixer{.d_state = 5, .dt_rank = 3};
  SharedTransformerSpec shared;
  shared.attention = {
      .n_head = 5, .d_head = 8, .scale = 0.5F, .rotary = RotarySpec{}, .adapter_rank = 3};
  shared.mlp.d_hidden = 13;
  shared.mlp.activation = Activation::gelu;
  shared.mlp.bias = true;
  shared.mlp.adapter_rank = 2;
  const auto of_use = [&](const std::string& use) {
    SharedTransformerSpec block = shared;
    block.attention.names.q_adapter = "q_adapter." + use;
    block.attention.names.k_adapter = "k_adapter." + use;
    block.attention.names.v_adapter = "v_adapter." + use;
    block.mlp.adapter = "adapter." + use;
    return ResidualSpec{.norm_name = "shared.norm",
                        .norm = norm,
                        .block_name = "shared",
                        .block = block,
                        .aside = true,
                        .weights_of = 1};
  };
  ModelSpec spec = ModelBuilder{}
                       .embedding("embedding", {.vocab = 61, .d_model = 20, .vocab_padded = 64})
                       .final_norm("norm_f", norm)
                       .tied_head()
                       .spec();
  ResidualSpec scaled{"norm2", norm, "mlp", MlpSpec{.d_hidden = 11}, 0.7F};
  scaled.aside = true;
  spec.layers = {{{{"norm", norm, "mixer", mixer}}},
                 {{of_use("0"), {"norm", norm, "mixer", Mamba2Spec{.d_state = 7, .head_dim = 5}}}},
                 {{scaled,
                   {"norm", norm, "mixer", mixer},
                   {"norm", norm, "mlp2", MlpSpec{.d_hidden = 9}, 1.0F, true}}},
                 {{of_use("1"), {"norm", norm, "attention", AttentionSpec{.n_head = 2}}}}};
  return spec;
}

ModelSpec tiny_wide_spec() {
  const RmsNormSpec norm;
  const MambaSpec mixer{.d_state = 5, .dt_rank = 3};
  const MoeSpec moe{.n_expert = 3, .top_k = 2, .d_expert = 16, .gated = true};
  const AttentionSpec attention{.n_head = 4, .n_kv_head = 2, .d_head = 8};
  ModelSpec spec = ModelBuilder{}
                       .embedding("embedding", {.vocab = 61, .d_model = 32, .vocab_padded = 64})
                       .final_norm("norm_f", norm)
                       .tied_head()
                       .spec();
  spec.layers = {
      {{{"norm", norm, "mixer", mixer}, {"norm2", norm, "mlp", MlpSpec{.d_hidden = 256}}}},
      {{{"norm", norm, "attention", attention}, {"norm2", norm, "moe", moe}}}};
  return spec;
}

Model tiny_model(DType dtype, const WeightOptions& options, Index n_layer) {
  return tiny_model(tiny_spec(n_layer), dtype, options);
}

Model tiny_model(const ModelSpec& spec, DType dtype, const WeightOptions& options) {
  const WeightStore weights = random_weights(spec, 11, "backbone", dtype).value();
  return build_model(spec, weights, "backbone", options).value();
}

WeightStore factored_weights(const ModelSpec& spec, DType dtype) {
  WeightStore weights = random_weights(spec, 11, "backbone", dtype).value();
  std::uint64_t seed = 100;
  for (const TensorUse& use : plan_model(spec, &weights, "backbone").value().tensors) {
    if (use.role != TensorRole::matrix) continue;
    const int last = use.shape.rank() - 1;
    const Index rank = std::min(use.shape[last - 1], use.shape[last]) * 2 / 3 + 1;
    const auto factor = [&](const char* name, int axis, Index in) {
      std::vector<Index> extents(use.shape.extents().begin(), use.shape.extents().end());
      extents[static_cast<std::size_t>(axis)] = rank;
      auto values = std::make_shared<Tensor>(DType::f32, Shape::make(extents).value());
      const auto random =
          random_floats(values->view().size(), seed++, std::sqrt(3.0F / static_cast<float>(in)));
      std::ranges::copy(random, values->as<float>().data());
      auto stored = std::make_shared<Tensor>(dtype, values->view().shape);
      convert_floats(values->view(), dtype, stored->data());
      return std::pair(NamedTensor{name, stored->view()}, std::move(stored));
    };
    const auto [u, u_owner] = factor("u", last, rank);
    const auto [v, v_owner] = factor("v", last - 1, use.shape[last]);
    weights.keep(u_owner);
    const std::string name = use.name.substr(0, use.name.size() - std::string(".weight").size());
    replace_matrix(weights, name, low_rank_form, {u, v}, v_owner);
  }
  return weights;
}

Model tiny_factored_model(const ModelSpec& spec, DType dtype, const WeightOptions& options) {
  return build_model(spec, factored_weights(spec, dtype), "backbone", options).value();
}

namespace {

// Calls replace(name, shape) for every matrix, or stack of them.
template <class Replace>
void for_each_matrix(const ModelSpec& spec, const WeightStore& weights, Replace replace) {
  for (const TensorUse& use : plan_model(spec, &weights, "backbone").value().tensors) {
    if (use.role != TensorRole::matrix) continue;
    replace(use.name.substr(0, use.name.size() - std::string(".weight").size()), use.shape);
  }
}

// The last two of the extents replaced by others.
Shape with_matrix(const Shape& shape, std::initializer_list<Index> matrix) {
  std::vector<Index> extents(shape.extents().begin(), shape.extents().end() - 2);
  extents.insert(extents.end(), matrix);
  return Shape::make(extents).value();
}

}  // namespace

WeightStore aqlm_weights(const ModelSpec& spec, const kernels::AqlmScheme& scheme) {
  WeightStore weights = random_weights(spec, 11, "backbone").value();
  std::uint64_t seed = 200;
  for_each_matrix(spec, weights, [&](const std::string& name, const Shape& shape) {
    const Index out = shape[shape.rank() - 2];
    const Index in = shape[shape.rank() - 1];
    const Index h = std::gcd(out, scheme.out_group);
    const Index g = std::gcd(in, scheme.in_group);
    const DType code_type = scheme.bits <= 8 ? DType::i8 : DType::i16;
    const auto codes = std::make_shared<Tensor>(
        code_type, with_matrix(shape, {out / h, in / g, scheme.codebooks}));
    const auto half = static_cast<float>(scheme.codewords() / 2);
    const std::vector<float> random = random_floats(codes->view().size(), seed++, half);
    const auto bytes = static_cast<std::size_t>(bytes_of(code_type));
    for (std::size_t i = 0; i < random.size(); ++i) {
      const auto code = static_cast<std::int16_t>(std::floor(random[i]));
      std::memcpy(static_cast<std::byte*>(codes->data()) + i * bytes, &code, bytes);
    }
    const auto floats = [&](const Shape& extents, float scale) {
      auto tensor = std::make_shared<Tensor>(DType::f32, extents);
      std::ranges::copy(random_floats(tensor->view().size(), seed++, scale),
                        tensor->as<float>().data());
      return tensor;
    };
    const auto codebooks = floats(with_matrix(shape, {scheme.codebooks, scheme.codewords(), h, g}),
                                  3.0F / std::sqrt(static_cast<float>(in * scheme.codebooks)));
    const auto scales = floats(with_matrix(shape, {out / h, 1, 1, 1}), 1.0F);
    weights.keep(codebooks);
    weights.keep(scales);
    replace_matrix(
        weights, name, "aqlm",
        {{"codes", codes->view()}, {"codebooks", codebooks->view()}, {"scales", scales->view()}},
        codes);
  });
  return weights;
}

WeightStore gguf_weights(const ModelSpec& spec, std::string_view short_rows,
                         std::string_view long_rows) {
  WeightStore weights = random_weights(spec, 11, "backbone").value();
  for_each_matrix(spec, weights, [&](const std::string& name, const Shape& shape) {
    const Index in = shape[shape.rank() - 1];
    for (const std::string_view form : {long_rows, short_rows}) {
      const BlockFormatInfo& info = info_of(find_block_format(form).value());
      if (in % info.elements != 0) continue;
      // Weights up to about 1: codes of K formats are products of two numbers.
      const auto bytes = std::make_shared<const std::vector<std::byte>>(
          random_blocks(info, shape.size() / in, in, info.elements == 256 ? 0x08 : 0x20));
      const Shape blocks =
          with_matrix(shape, {shape[shape.rank() - 2], in / info.elements, info.bytes});
      replace_matrix(weights, name, form, {{"blocks", {bytes->data(), DType::u8, blocks}}}, bytes);
      return;
    }
  });
  return weights;
}

std::vector<Token> random_tokens(Index count, Index vocab, std::uint64_t seed) {
  std::vector<Token> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<Token>(random_uniform({.seed = seed, .position = i}) *
                                   static_cast<double>(vocab));
  }
  return tokens;
}

}  // namespace krait::test
