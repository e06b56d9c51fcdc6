// Configurations that describe no model this version reads.

#include "krait/models/registry.hpp"

#include <gtest/gtest.h>

#include "tests/support/support.hpp"

namespace krait {
namespace {

const std::string transformers =
    R"("model_type":"mamba","hidden_size":16,"num_hidden_layers":2,"vocab_size":40)";
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
}

TEST(Config, InfinityMayBeSpeltInAnyWay) {
  for (const std::string infinity :
       {"Infinity", R"("Infinity")", R"({"__float__":"Infinity"})", "1e20", "1e30"}) {
    const auto config = read("{" + transformers + R"(,"time_step_limit":[0.0,)" + infinity + "]}");
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_TRUE(config->ignored.empty()) << infinity;
  }
}

struct Bad {
  const char* name;
  std::string config;
  ErrorCode code;
  const char* part;  // of the message
};

TEST(Config, RefusesWhatDescribesNoModel) {
  const auto hf = [](const std::string& more) { return "{" + transformers + "," + more + "}"; };
  const auto ss = [](const std::string& more) { return "{" + original + "," + more + "}"; };
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
       "d_inner"},
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
      {"clamped steps", hf(R"("time_step_limit":[0.001,0.1])"), ErrorCode::unsupported,
       "time_step_limit: expected [0, Infinity], found [0.001,0.1]"},
      {"limits upside down", hf(R"("time_step_limit":["Infinity",0])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers, the lower one first"},
      {"limit not a number", hf(R"("time_step_limit":[0,NaN])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers"},
      {"one limit", hf(R"("time_step_limit":[0])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers"},
      {"limit of text", hf(R"("time_step_limit":[0,"huge"])"), ErrorCode::bad_config,
       "time_step_limit: expected two numbers"},
      {"bias of text", hf(R"("use_bias":"yes")"), ErrorCode::bad_config, "use_bias"},
      {"other activation", hf(R"("hidden_act":"gelu")"), ErrorCode::unsupported, "hidden_act"},
      {"rank of text", hf(R"("time_step_rank":"some")"), ErrorCode::bad_config, "time_step_rank"},
      {"rank of zero", hf(R"("time_step_rank":0)"), ErrorCode::bad_config, "time_step_rank"},
      {"end of text", hf(R"("eos_token_id":"end")"), ErrorCode::bad_config, "eos_token_id"},
      {"other layer", ss(R"("ssm_cfg":{"layer":"Mamba3"})"), ErrorCode::unsupported,
       "ssm_cfg.layer"},
      {"attention", ss(R"("attn_layer_idx":[1])"), ErrorCode::unsupported, "attn_layer_idx"},
      {"mlp", ss(R"("d_intermediate":64)"), ErrorCode::unsupported, "d_intermediate"},
      {"experts", ss(R"("moe_cfg":{"n_expert":8})"), ErrorCode::bad_config, "moe_cfg.d_expert"},
      {"ssm of text", ss(R"("ssm_cfg":"default")"), ErrorCode::bad_config, "ssm_cfg"},
      {"no padding", ss(R"("pad_vocab_size_multiple":0)"), ErrorCode::bad_config,
       "pad_vocab_size_multiple"},
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
}  // namespace krait
