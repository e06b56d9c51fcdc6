// Configurations that describe no model this version reads.

#include "krait/loading/registry.hpp"

#include <gtest/gtest.h>

#include "tests/support/support.hpp"

namespace krait::registry_test {
namespace {

const std::string transformers =
    R"("model_type":"mamba","hidden_size":16,"num_hidden_layers":2,"vocab_size":40)";
const std::string mamba2 =
    R"("model_type":"mamba2","hidden_size":16,"num_hidden_layers":2,"vocab_size":40,"n_groups":2,)"
    R"("head_dim":8,"num_heads":4)";
const std::string megatron = R"("hidden_size":16,"vocab_size":40,"ffn_hidden_size":24)";
const std::string mistral = R"("dim":64,"n_layers":2,"vocab_size":40,"model_type":"mamba")";
const std::string original = R"("d_model":16,"n_layer":2,"vocab_size":41)";

Result<ModelConfig> read(const std::string& config) {
  Checkpoint checkpoint;
  checkpoint.path = "somewhere";
  checkpoint.config = config;
  return read_config(checkpoint);
}

TEST(Config, OfTransformersHasItsDefaults) {
  const ModelConfig config = read("{" + transformers + "}").value();
  EXPECT_EQ(config.spec.embedding.vocab, 40);
  EXPECT_EQ(config.spec.layers.size(), 2U);
  EXPECT_TRUE(config.spec.tied_head);
  const auto& residual = config.spec.layers[0].residuals[0];
  const auto mixer = std::get<MambaSpec>(residual.block).resolved(16);
  EXPECT_EQ(mixer.d_inner, 32);
  EXPECT_EQ(mixer.dt_rank, 1);
  EXPECT_TRUE(mixer.conv_bias);
  EXPECT_FALSE(mixer.bias);
  EXPECT_EQ(std::get<RmsNormSpec>(residual.norm).eps, 1e-5F);
}

TEST(Config, OfStateSpacesPadsTheVocabulary) {
  const ModelConfig config = read("{" + original + "}").value();
  EXPECT_EQ(config.spec.embedding.vocab, 41);
  EXPECT_EQ(config.spec.embedding.vocab_padded, 48);
  EXPECT_TRUE(std::holds_alternative<RmsNormSpec>(config.spec.final_norm));
  const ModelConfig layer_norm =
      read("{" + original + R"(,"rms_norm":false,"ssm_cfg":{"dt_rank":"auto","d_state":8}})")
          .value();
  EXPECT_TRUE(std::holds_alternative<LayerNormSpec>(layer_norm.spec.final_norm));
}

TEST(Config, ListsKeysThatChangeNothing) {
  const ModelConfig config =
      read("{" + transformers + R"(,"surprise":1,"torch_dtype":"float16"})").value();
  EXPECT_EQ(config.ignored, (std::vector<std::string>{"surprise"}));
}

TEST(Config, EndsOfTextMayBeOneOrSeveral) {
  EXPECT_EQ(read("{" + transformers + R"(,"eos_token_id":3})").value().stop_tokens,
            (std::vector<Token>{3}));
  EXPECT_EQ(read("{" + transformers + R"(,"eos_token_id":[3,4]})").value().stop_tokens,
            (std::vector<Token>{3, 4}));
  // Of no token: -1, as some files write for none, also as a number without a sign.
  EXPECT_EQ(read("{" + transformers + R"(,"eos_token_id":[-1,3,4294967295]})").value().stop_tokens,
            (std::vector<Token>{3}));
  EXPECT_TRUE(read("{" + transformers + R"(,"eos_token_id":-1})").value().stop_tokens.empty());
}

TEST(Config, InfinityMayBeSpeltInAnyWay) {
  for (const std::string infinity :
       {"Infinity", R"("Infinity")", R"({"__float__":"Infinity"})", "1e20", "1e30"}) {
    const auto config = read("{" + transformers + R"(,"time_step_limit":[0.0,)" + infinity + "]}");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_TRUE(config->ignored.empty()) << infinity;
  }
}

TEST(Config, OfMamba2HasItsDefaults) {
  const ModelConfig config =
      read("{" + mamba2 + R"(,"time_step_limit":[0.25,"Infinity"]})").value();
  EXPECT_FALSE(config.spec.tied_head);
  const auto& mixer = std::get<Mamba2Spec>(config.spec.layers[1].residuals[0].block);
  EXPECT_EQ(mixer, (Mamba2Spec{.head_dim = 8, .n_group = 2, .dt_min = 0.25F}));
  const auto original_mixer =
      read(R"({"d_model":32,"n_layer":1,"vocab_size":41,"ssm_cfg":{"layer":"Mamba2"}})").value();
  EXPECT_EQ(std::get<Mamba2Spec>(original_mixer.spec.layers[0].residuals[0].block), Mamba2Spec{});
}

TEST(Config, OfFalconMambaNormalisesWithinItsMixers) {
  const ModelConfig config =
      read(R"({"model_type":"falcon_mamba","hidden_size":16,"num_hidden_layers":1,"vocab_size":40,)"
           R"("expand":16,"intermediate_size":40})")
          .value();
  const auto mixer = std::get<MambaSpec>(config.spec.layers[0].residuals[0].block).resolved(16);
  EXPECT_EQ(mixer.d_inner, 40);
  EXPECT_EQ(mixer.inner_norm_eps, 1e-6F);
}

TEST(Config, OfParamsJsonIsMistrals) {
  const ModelConfig config = read("{" + mistral + R"(,"n_groups":2})").value();
  EXPECT_EQ(config.spec.family, "codestral");
  EXPECT_EQ(std::get<Mamba2Spec>(config.spec.layers[0].residuals[0].block),
            Mamba2Spec{.n_group = 2});
  // Those of its transformers do not say what they are.
  const auto other = read(
      R"({"dim":64,"n_layers":2,"vocab_size":40,"n_heads":4,"hidden_dim":96,"norm_eps":1e-5})");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::unsupported);
}

TEST(Config, OfMixturesOfExperts) {
  const ModelConfig switched =
      read("{" + original + R"(,"moe_cfg":{"n_expert":4,"d_expert":32,"activation":"silu"}})")
          .value();
  ASSERT_EQ(switched.spec.layers[0].residuals.size(), 2U);
  EXPECT_EQ(std::get<MoeSpec>(switched.spec.layers[0].residuals[1].block),
            (MoeSpec{.n_expert = 4, .top_k = 1, .d_expert = 32, .activation = Activation::silu}));
  const ModelConfig black =
      read("{" + megatron + R"(,"mamba_moe_layers":["r","4","1","r2"]})").value();
  ASSERT_EQ(black.spec.layers.size(), 4U);
  EXPECT_EQ(std::get<MoeSpec>(black.spec.layers[1].residuals[0].block).n_expert, 4);
  EXPECT_TRUE(std::holds_alternative<MlpSpec>(black.spec.layers[2].residuals[0].block));
  EXPECT_TRUE(black.spec.layers[3].residuals[1].beside);
  EXPECT_EQ(black.spec.layers[3].residuals[1].norm_name, "norm_moe");
}

// The list of layers may be long, the number of experts of each large: not both.
TEST(Config, BoundsAllExpertsTogether) {
  std::string kinds = "\"4096\"";
  for (int i = 1; i < 4096; ++i) kinds += ",\"4096\"";
  const auto result = read("{" + megatron + ",\"mamba_moe_layers\":[" + kinds + "]}");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message,
            "[spec] n_expert: expected at most 65536 in all layers, found more "
            "(somewhere/config.json)");
}

// A checkpoint with tensors of those names, each of one number.
Result<ModelConfig> read_with(const std::string& config, std::initializer_list<const char*> names) {
  static constexpr float one = 1;
  Checkpoint checkpoint;
  checkpoint.path = "somewhere";
  checkpoint.config = config;
  for (const char* name : names) checkpoint.weights.add(name, {&one, DType::f32, {1}}, nullptr);
  checkpoint.weights.add_unreadable("backbone.layers.12.mixer.scale", {"F8_E4M3 [1]", ""});
  return read_config(checkpoint);
}

// Fewer layers than the checkpoint has are another model.
TEST(Config, RefusesTensorsOfLayersBeyondItsOwn) {
  const char* const embedding = "backbone.embeddings.weight";
  const auto message = [&](const std::string& config, std::initializer_list<const char*> names) {
    const auto result = read_with(config, names);
    if (result) return std::string();
    EXPECT_EQ(result.error().code, ErrorCode::bad_config);
    return result.error().message;
  };
  const std::string hf = "{" + transformers + "}";
  const char* const first = "backbone.layers.0.mixer.D";
  EXPECT_EQ(message(hf, {embedding, first, "backbone.layers.10.norm.weight",
                         "backbone.layers.2.mixer.D", "backbone.layers.2.norm.weight"}),
            "[config] backbone.layers.2.mixer.D: expected layers below 2, the number in the "
            "configuration, found layer 2 (somewhere/config.json)");
  // What cannot be read counts as well.
  EXPECT_EQ(message(hf, {embedding, first}),
            "[config] backbone.layers.12.mixer.scale: expected layers below 2, the number in the "
            "configuration, found layer 12 (somewhere/config.json)");
  const std::string beyond = "backbone.layers.99999999999999999999.norm.weight";
  const std::string deep =
      R"({"model_type":"mamba","hidden_size":16,"num_hidden_layers":13,"vocab_size":40)";
  EXPECT_NE(message(deep + "}", {embedding, beyond.c_str()}).find(beyond), std::string::npos);
}

TEST(Config, PassesOverTensorsThatBelongToNoLayer) {
  const std::string llama =
      R"({"model_type":"llama","hidden_size":16,"num_hidden_layers":2,"vocab_size":40,)"
      R"("num_attention_heads":2,"intermediate_size":16)";
  // Of rotary embeddings; of layers that predict further tokens, in a part of their own or behind
  // the model's.
  const auto result = [](const std::string& config, const char* name) {
    return read_with(config, {"model.embed_tokens.weight", "model.norm.weight",
                              "model.layers.1.input_layernorm.weight", name});
  };
  for (const char* name : {"model.layers.7.self_attn.rotary_emb.inv_freq",
                           "mtp.layers.5.norm.weight", "model.layers.x.weight", "model.layers.7"}) {
    EXPECT_TRUE(result(llama + "}", name)) << name;
  }
  const char* const next = "model.layers.2.eh_proj.weight";
  EXPECT_FALSE(result(llama + "}", next));
  const auto predicting = result(llama + R"(,"num_nextn_predict_layers":1})", next);
  ASSERT_TRUE(predicting) << predicting.error().message;
  EXPECT_TRUE(predicting->ignored.empty());
  const auto more =
      result(llama + R"(,"num_nextn_predict_layers":1})", "model.layers.3.norm.weight");
  ASSERT_FALSE(more);
  EXPECT_NE(more.error().message.find("layers below 3"), std::string::npos);
}

struct Bad {
  const char* name;
  std::string config;
  ErrorCode code;
  std::string part;  // of the message
};

TEST(Config, RefusesWhatDescribesNoModel) {
  const auto hf = [](const std::string& more) { return "{" + transformers + "," + more + "}"; };
  const auto ss = [](const std::string& more) { return "{" + original + "," + more + "}"; };
  const auto hf2 = [](const std::string& more) {
    return R"({"model_type":"mamba2","hidden_size":16,"num_hidden_layers":2,"vocab_size":40,)" +
           more + "}";
  };
  const auto ssm2 = [&](const std::string& more) {
    return ss(R"("ssm_cfg":{"layer":"Mamba2","headdim":8,)" + more + "}");
  };
  const auto moe = [&](const std::string& values) { return ss(R"("moe_cfg":{)" + values + "}"); };
  const auto black = [](const std::string& more) { return "{" + megatron + "," + more + "}"; };
  const auto params = [](const std::string& more) { return "{" + mistral + "," + more + "}"; };
  const std::string pattern =
      "mamba_moe_layers: expected r, a number of experts, or r and a number";
  const Bad table[] = {
      {"empty", "", ErrorCode::bad_format, "JSON"},
      {"not json", "hello", ErrorCode::bad_format, "JSON"},
      {"cut off", "{" + transformers, ErrorCode::bad_format, "JSON"},
      {"a list", "[1,2]", ErrorCode::bad_config, "object"},
      {"duplicate key", R"({"model_type":"mamba","model_type":"mamba"})", ErrorCode::bad_format,
       "twice"},
      {"too deep", std::string(200, '[') + std::string(200, ']'), ErrorCode::bad_format, "levels"},
      {"no family", "{}", ErrorCode::unsupported, "mamba"},
      {"unknown family", R"({"model_type":"gpt2"})", ErrorCode::unsupported, "mamba"},
      {"family of a number", R"({"model_type":7,"hidden_size":1})", ErrorCode::unsupported,
       "model_type"},
      {"no size", R"({"model_type":"mamba","hidden_size":16})", ErrorCode::bad_config,
       "vocab_size"},
      {"size of text", R"({"model_type":"mamba","hidden_size":"big","vocab_size":4})",
       ErrorCode::bad_config, "hidden_size"},
      {"negative size", R"({"model_type":"mamba","hidden_size":-1,"vocab_size":4})",
       ErrorCode::bad_config, "hidden_size"},
      {"fraction", R"({"model_type":"mamba","hidden_size":1.5,"vocab_size":4})",
       ErrorCode::bad_config, "hidden_size"},
      {"infinite size", R"({"model_type":"mamba","hidden_size":Infinity,"vocab_size":4})",
       ErrorCode::bad_config, "hidden_size"},
      {"huge size", R"({"model_type":"mamba","hidden_size":1e300,"vocab_size":4})",
       ErrorCode::bad_config, "hidden_size"},
      {"overflowing sizes", hf(R"("intermediate_size":1099511627776)"), ErrorCode::bad_config,
       "intermediate_size: expected a whole number from 1 to 268435456, found 1099511627776"},
      {"overflowing products", hf(R"("expand":268435456)"), ErrorCode::bad_config, "d_inner"},
      {"no layers",
       R"({"model_type":"mamba","hidden_size":8,"vocab_size":4,"num_hidden_layers":0})",
       ErrorCode::bad_config, "num_hidden_layers"},
      {"too many layers",
       R"({"model_type":"mamba","hidden_size":8,"vocab_size":4,"num_hidden_layers":100000000})",
       ErrorCode::bad_config, "layers"},
      {"not a number", hf(R"("layer_norm_epsilon":NaN)"), ErrorCode::bad_config,
       "layer_norm_epsilon"},
      {"negative epsilon", hf(R"("layer_norm_epsilon":-1)"), ErrorCode::bad_config,
       "layer_norm_epsilon"},
      {"infinite epsilon", hf(R"("layer_norm_epsilon":"Infinity")"), ErrorCode::bad_config,
       "layer_norm_epsilon: expected a finite number of at least 0, found \"Infinity\""},
      {"one limit", hf2(R"("time_step_limit":[0])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers"},
      {"three limits", hf2(R"("time_step_limit":[0,1,2])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers, the lower one first, found [0,1,2]"},
      {"text that steers a terminal", hf("\"hidden_act\":\"\\u001b[31m\\u0007\""),
       ErrorCode::unsupported, "hidden_act: expected silu, found ?[31m? ("},
      {"text on two lines", hf(R"("hidden_act":"si\nlu")"), ErrorCode::unsupported,
       "hidden_act: expected silu, found si?lu ("},
      {"text of C1 characters", hf(R"("hidden_act":"\u009b31m")"), ErrorCode::unsupported,
       "hidden_act: expected silu, found ?31m ("},
      {"text turned around", hf(R"("hidden_act":"\u202eulis")"), ErrorCode::unsupported,
       "hidden_act: expected silu, found ?ulis ("},
      {"text of 100000 letters", hf("\"hidden_act\":\"" + std::string(100'000, 'x') + "\""),
       ErrorCode::unsupported, "xxx... ("},
      {"family with a bell", R"({"model_type":"\u0007"})", ErrorCode::unsupported, "model_type"},
      {"layer with an escape", ss("\"ssm_cfg\":{\"layer\":\"\\u001b]0;x\"}"),
       ErrorCode::unsupported, "ssm_cfg.layer: expected Mamba1 or Mamba2, found ?]0;x ("},
      {"router with a carriage return", moe(R"("n_expert":8,"d_expert":8,"router":"a\rb")"),
       ErrorCode::unsupported, "moe_cfg.router: expected switch, found a?b ("},
      {"pattern with a delete", black("\"mamba_moe_layers\":[\"\x7f\"]"), ErrorCode::bad_config,
       pattern},
      {"key with an escape twice", "{\"\\u001b\":1,\"\\u001b\":2}", ErrorCode::bad_format,
       "every key once, found \"?\" twice"},
      {"gate norm of text", hf2(R"("rms_norm":"no")"), ErrorCode::bad_config,
       "rms_norm: expected true or false, found \"no\""},
      {"size of a list", hf(R"("state_size":[16])"), ErrorCode::bad_config,
       "state_size: expected a whole number from 1 to 268435456, found [16]"},
      {"size of nothing known", hf(R"("conv_kernel":true)"), ErrorCode::bad_config,
       "conv_kernel: expected a whole number from 1 to 268435456, found true"},
      {"ends in a list in a list", hf(R"("eos_token_id":[[1]])"), ErrorCode::bad_config,
       "eos_token_id: expected a token id or a list of them, found [[1]]"},
      {"tying of a number", hf(R"("tie_word_embeddings":1)"), ErrorCode::bad_config,
       "tie_word_embeddings: expected true or false, found 1"},
      {"bias of text", hf(R"("use_bias":"yes")"), ErrorCode::bad_config, "use_bias"},
      {"other activation", hf(R"("hidden_act":"gelu")"), ErrorCode::unsupported, "hidden_act"},
      {"rank of text", hf(R"("time_step_rank":"some")"), ErrorCode::bad_config, "time_step_rank"},
      {"rank of zero", hf(R"("time_step_rank":0)"), ErrorCode::bad_config, "time_step_rank"},
      {"end of text", hf(R"("eos_token_id":"end")"), ErrorCode::bad_config, "eos_token_id"},
      {"other layer", ss(R"("ssm_cfg":{"layer":"Mamba3"})"), ErrorCode::unsupported,
       "ssm_cfg.layer: expected Mamba1 or Mamba2, found Mamba3"},
      {"layer of a number", ss(R"("ssm_cfg":{"layer":2})"), ErrorCode::bad_config,
       "ssm_cfg.layer: expected a string, found 2"},
      {"attention", ss(R"("attn_layer_idx":[9])"), ErrorCode::bad_config, "attn_layer_idx"},
      {"mlp", ss(R"("d_intermediate":-4)"), ErrorCode::bad_config, "d_intermediate"},
      {"ssm of text", ss(R"("ssm_cfg":"default")"), ErrorCode::bad_config, "ssm_cfg"},
      {"no padding", ss(R"("pad_vocab_size_multiple":0)"), ErrorCode::bad_config,
       "pad_vocab_size_multiple"},
      {"heads of another number", hf2(R"("head_dim":8,"num_heads":5,"n_groups":1)"),
       ErrorCode::bad_config,
       "num_heads: expected expand · hidden_size / head_dim (32 / 8), found 5"},
      {"heads by default", hf2(R"("n_groups":1)"), ErrorCode::bad_config,
       "num_heads: expected expand · hidden_size / head_dim (32 / 64), found 128"},
      {"heads of another width", hf2(R"("head_dim":7,"num_heads":4,"n_groups":1)"),
       ErrorCode::bad_config, "num_heads"},
      {"heads beyond numbers", hf2(R"("head_dim":268435456,"num_heads":268435456)"),
       ErrorCode::bad_config, "num_heads"},
      {"groups of heads", hf2(R"("head_dim":8,"num_heads":4,"n_groups":3)"), ErrorCode::bad_config,
       "n_group: expected a divisor of the number of heads (4), found 3"},
      {"groups of none", hf2(R"("head_dim":8,"num_heads":4,"n_groups":0)"), ErrorCode::bad_config,
       "n_groups: expected a whole number from 1 to 268435456, found 0"},
      {"mamba2 limits upside down", hf2(R"("time_step_limit":[0.5,0.1])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers, the lower one first, found [0.5,0.1]"},
      {"mamba2 negative limits", hf2(R"("time_step_limit":[-1,0.1])"), ErrorCode::bad_config,
       "time_step_limit: expected limits of at least 0, found [-1,0.1]"},
      {"mamba2 limits of text", hf2(R"("time_step_limit":["a","b"])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers"},
      {"mamba2 limit not a number", hf2(R"("time_step_limit":[NaN,1])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers"},
      {"mamba2 limits of one number", hf2(R"("time_step_limit":0.5)"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers, the lower one first, found 0.5"},
      {"mamba2 infinite lower limit", hf2(R"("time_step_limit":["Infinity","Infinity"])"),
       ErrorCode::bad_config, "time_step_limit: expected a lower limit that steps can reach"},
      {"mamba2 activation", hf2(R"("hidden_act":"gelu")"), ErrorCode::unsupported,
       "hidden_act: expected silu, found gelu"},
      {"head that does not divide", ss(R"("ssm_cfg":{"layer":"Mamba2","headdim":7})"),
       ErrorCode::bad_config, "head_dim: expected a divisor of d_ssm (32), found 7"},
      {"groups that do not divide", ssm2(R"("ngroups":3)"), ErrorCode::bad_config,
       "n_group: expected a divisor of the number of heads (4), found 3"},
      {"wider than all", ssm2(R"("d_ssm":40)"), ErrorCode::bad_config,
       "d_ssm: expected at most d_inner (32), found 40"},
      {"dt_limit", ssm2(R"("dt_limit":[1,0])"), ErrorCode::bad_config,
       "ssm_cfg.dt_limit: expected"},
      {"vast state", ssm2(R"("d_state":268435456)"), ErrorCode::bad_config, "d_ssm · d_state"},
      {"vast convolution", ssm2(R"("d_conv":268435456)"), ErrorCode::bad_config, "d_conv"},
      {"experts of no number", ss(R"("moe_cfg":8)"), ErrorCode::bad_config,
       "moe_cfg: expected an object, found 8"},
      {"experts of unknown number", moe(R"("d_expert":8)"), ErrorCode::bad_config,
       "moe_cfg.n_expert: expected a number, found none"},
      {"experts of unknown width", moe(R"("n_expert":8)"), ErrorCode::bad_config,
       "moe_cfg.d_expert: expected a number, found none"},
      {"no experts", moe(R"("n_expert":0,"d_expert":8)"), ErrorCode::bad_config,
       "moe_cfg.n_expert: expected a whole number from 1 to 268435456, found 0"},
      {"countless experts", moe(R"("n_expert":268435456,"d_expert":8)"), ErrorCode::bad_config,
       "n_expert: expected 1 to 4096, found 268435456"},
      {"none chosen", moe(R"("n_expert":8,"d_expert":8,"top_k":0)"), ErrorCode::bad_config,
       "moe_cfg.top_k: expected a whole number from 1 to 268435456, found 0"},
      {"more chosen than there are", moe(R"("n_expert":8,"d_expert":8,"top_k":9)"),
       ErrorCode::bad_config, "top_k: expected 1 to n_expert (8), found 9"},
      {"other router", moe(R"("n_expert":8,"d_expert":8,"router":"sinkhorn")"),
       ErrorCode::unsupported, "moe_cfg.router: expected switch, found sinkhorn"},
      {"activation of experts", moe(R"("n_expert":8,"d_expert":8,"activation":"gelu")"),
       ErrorCode::unsupported, "moe_cfg.activation: expected relu or silu, found gelu"},
      {"pattern of text", black(R"("mamba_moe_layers":"r4r4")"), ErrorCode::bad_config,
       "mamba_moe_layers: expected a list of strings, found \"r4r4\""},
      {"pattern of numbers", black(R"("mamba_moe_layers":["r",4])"), ErrorCode::bad_config,
       "mamba_moe_layers: expected a list of strings, found [\"r\",4]"},
      {"pattern of nothing", black(R"("mamba_moe_layers":[])"), ErrorCode::bad_config,
       "mamba_moe_layers: expected one entry per layer (1), found 0"},
      {"pattern too short", black(R"("mamba_moe_layers":["r","4"],"num_layers":3)"),
       ErrorCode::bad_config, "mamba_moe_layers: expected one entry per layer (3), found 2"},
      {"pattern too long", black(R"("mamba_moe_layers":["r","4"],"num_layers":1)"),
       ErrorCode::bad_config, "mamba_moe_layers: expected one entry per layer (1), found 2"},
      {"letter x", black(R"("mamba_moe_layers":["x"])"), ErrorCode::bad_config,
       pattern + ", found \"x\""},
      {"mixer and no expert", black(R"("mamba_moe_layers":["r0"])"), ErrorCode::bad_config,
       pattern},
      {"empty entry", black(R"("mamba_moe_layers":[""])"), ErrorCode::bad_config, pattern},
      {"two mixers", black(R"("mamba_moe_layers":["rr"])"), ErrorCode::bad_config, pattern},
      {"mixer last", black(R"("mamba_moe_layers":["8r"])"), ErrorCode::bad_config, pattern},
      {"no expert", black(R"("mamba_moe_layers":["0"])"), ErrorCode::bad_config, pattern},
      {"minus", black(R"("mamba_moe_layers":["-1"])"), ErrorCode::bad_config, pattern},
      {"beyond numbers", black(R"("mamba_moe_layers":["99999999999999999999"])"),
       ErrorCode::bad_config, pattern},
      {"countless single experts", black(R"("mamba_moe_layers":["999999"])"), ErrorCode::bad_config,
       "n_expert: expected 1 to 4096, found 999999"},
      {"no gate", black(R"("mamba_moe_layers":["4"],"swiglu":false)"), ErrorCode::unsupported,
       "swiglu: expected true, found false"},
      {"no width of experts", R"({"hidden_size":16,"vocab_size":40,"mamba_moe_layers":["r"]})",
       ErrorCode::bad_config, "ffn_hidden_size: expected a number, found none"},
      {"params of no groups", params(R"("n_groups":0)"), ErrorCode::bad_config, "n_groups"},
      {"params whose heads do not divide",
       R"({"dim":20,"n_layers":2,"vocab_size":40,"model_type":"mamba"})", ErrorCode::bad_config,
       "head_dim: expected a divisor of d_ssm (40), found 64"},
      {"params of text", R"({"dim":"big","n_layers":2,"vocab_size":40,"model_type":"mamba"})",
       ErrorCode::bad_config, "dim: expected a whole number from 1 to 268435456, found \"big\""},
      {"vast padding", ss(R"("pad_vocab_size_multiple":1000000000)"), ErrorCode::bad_config,
       "pad_vocab_size_multiple"},
  };
  for (const Bad& bad : table) {
    const auto result = read(bad.config);
    ASSERT_FALSE(result) << bad.name;
    const std::string& message = result.error().message;
    EXPECT_EQ(result.error().code, bad.code) << bad.name << ": " << message;
    EXPECT_NE(message.find(bad.part), std::string::npos) << bad.name << ": " << message;
    EXPECT_NE(message.find("somewhere"), std::string::npos) << bad.name << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << bad.name;
  }
}

TEST(Config, OfMamba1HasNoLimitsOfSteps) {
  const auto config = read("{" + transformers + R"(,"time_step_limit":[0.001,0.1]})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(config->ignored.empty());
}

TEST(Config, KeysThatChangeNothingAreCleaned) {
  EXPECT_EQ(read("{" + transformers + R"(,"\u001b[31m":1})").value().ignored,
            (std::vector<std::string>{"?[31m"}));
}

// A checkpoint of these tensors, of one number each.
Checkpoint with_names(const std::string& config, const std::vector<std::string>& names) {
  static const float number = 0.0F;
  Checkpoint checkpoint;
  checkpoint.path = "somewhere";
  checkpoint.config = config;
  for (const std::string& name : names) {
    checkpoint.weights.add(name, {&number, DType::f32, {1}}, nullptr);
  }
  return checkpoint;
}

TEST(Config, OfMamba2KeepsAGatedNormThatIsThere) {
  const std::string config = "{" + mamba2 + R"(,"rms_norm":false})";
  const auto norm_of = [&](const std::vector<std::string>& names, std::size_t layer) {
    const ModelConfig read = read_config(with_names(config, names)).value();
    return std::get<Mamba2Spec>(read.spec.layers[layer].residuals[0].block).norm;
  };
  const std::string embedding = "backbone.embeddings.weight";
  EXPECT_EQ(norm_of({embedding}, 0), GatedNorm::none);
  EXPECT_EQ(norm_of({embedding, "backbone.layers.0.mixer.norm.weight"}, 0), GatedNorm::after_gate);
  EXPECT_EQ(norm_of({embedding, "backbone.layers.0.mixer.norm.weight"}, 1), GatedNorm::none);
}

TEST(Config, PartsOfAnyFormTellTheLayout) {
  const auto embedding_of = [](const std::string& name) {
    return read_config(with_names("{" + original + "}", {name})).value().spec.embedding_name;
  };
  EXPECT_EQ(embedding_of("mambabyte.token_embedding.weight"), "token_embedding");
  EXPECT_EQ(embedding_of("mambabyte.token_embedding.trits"), "token_embedding");
  EXPECT_NE(embedding_of("mambabyte.token_embedding.bias"), "token_embedding");
  EXPECT_NE(embedding_of("mambabyte.token_embedding.more.weight"), "token_embedding");
}

TEST(Config, WordsBeforeEveryNameAreLookedThrough) {
  const auto names_of = [](const std::vector<std::string>& names) {
    const ModelConfig config = read_config(with_names("{" + transformers + "}", names)).value();
    return config.prefix + " " + config.spec.embedding_name + " " + config.spec.head_name;
  };
  EXPECT_EQ(names_of({"backbone.embeddings.weight"}), "backbone embeddings lm_head");
  EXPECT_EQ(names_of({"module.backbone.embeddings.weight", "module.backbone.norm_f.weight"}),
            "module.backbone embeddings module.lm_head");
  EXPECT_EQ(
      names_of({"module._orig_mod.backbone.embedding.weight", "module._orig_mod.lm_head.weight"}),
      "module._orig_mod.backbone embedding module._orig_mod.lm_head");
  EXPECT_EQ(names_of({"model.embeddings.weight", "model.norm_f.weight"}),
            "model embeddings model.lm_head");
  EXPECT_EQ(names_of({"embedding.weight"}), " embedding lm_head");
  // Tied, and stored under the head's name only.
  EXPECT_EQ(names_of({"backbone.norm_f.weight", "lm_head.weight"}), "backbone embeddings lm_head");
  EXPECT_EQ(names_of({"module.backbone.norm_f.weight", "module.lm_head.codes"}),
            "module.backbone embeddings module.lm_head");
  // Not before every name: no guess.
  EXPECT_EQ(names_of({"a.backbone.embeddings.weight", "b.backbone.embeddings.weight"}),
            "backbone embeddings lm_head");
  EXPECT_EQ(names_of({}), "backbone embeddings lm_head");
}

TEST(LoadModel, FindsBundledModelsByName) {
  const Model model = load_model("krait-bytes-draft").value();
  EXPECT_EQ(model.vocab(), 256);
  const auto absent = load_model("krait-bytes-none");
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::not_found);
  EXPECT_NE(absent.error().message.find("krait-bytes-2m"), std::string::npos);
}

TEST(LoadModel, TakesAModelFromMemory) {
  const auto folder = test::bundled_models_dir() / "krait-bytes-draft";
  const std::string weights = test::read_file(folder / "model.safetensors");
  const CheckpointBytes bytes{.config = test::read_file(folder / "config.json"),
                              .weights = {std::as_bytes(std::span(weights))},
                              .tokenizer = {}};
  const Checkpoint checkpoint = open_checkpoint(bytes).value();
  const ModelConfig config = read_config(checkpoint).value();
  const Model model = build_model(config.spec, checkpoint.weights, config.prefix).value();
  EXPECT_EQ(model.fingerprint(), load_model(folder.string()).value().fingerprint());
}

}  // namespace
}  // namespace krait::registry_test
