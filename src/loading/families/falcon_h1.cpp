// Falcon-H1 (TII 2025, arXiv:2507.22448): in every layer attention and a Mamba-2 mixer beside each
// other, then SwiGLU. Twelve factors stand between the parts. Those of a block's input and output
// that only scale its output are the residual's; attention's keys scale its scores.

#include "loading/families/falcon_h1.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_falcon_h1(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "falcon_h1";
}

// A factor that the configuration may lack.
Result<float> factor(const ConfigReader& config, std::string_view key) {
  KRAIT_ASSIGN_OR_RETURN(const double value, config.real(key, 1.0));
  return static_cast<float>(value);
}

Result<ResidualSpec> read_falcon_h1_mixer(const ConfigReader& config, const RmsNormSpec& norm,
                                          const FalconFactors& factors) {
  KRAIT_ASSIGN_OR_RETURN(Mamba2Spec mixer, read_mamba2(config, norm.eps));
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, config.number("hidden_size", 1, std::nullopt));
  const Index fallback = config.is_null("mamba_d_ssm") ? mixer.expand * d_model : 1024;
  KRAIT_ASSIGN_OR_RETURN(const Index d_ssm, config.number("mamba_d_ssm", 1, fallback));
  KRAIT_RETURN_IF_ERROR(check_channels(config, "mamba_n_heads", mixer, d_ssm));
  KRAIT_ASSIGN_OR_RETURN(const bool out_bias, config.boolean("projectors_bias", false));
  KRAIT_ASSIGN_OR_RETURN(const bool has_norm, config.boolean("mamba_rms_norm", false));
  KRAIT_ASSIGN_OR_RETURN(const bool before, config.boolean("mamba_norm_before_gate", true));
  mixer.norm = !has_norm ? GatedNorm::none
               : before  ? GatedNorm::before_gate
                         : GatedNorm::after_gate;
  const float in = factors.ssm_in;
  if (out_bias != mixer.bias || (mixer.bias && in != 1.0F)) {
    return config.fail("projectors_bias",
                       "the value of mamba_proj_bias, and with biases an ssm_in_multiplier of 1",
                       out_bias ? "true" : "false", ErrorCode::unsupported);
  }
  mixer.scales = {.z = in * factors.ssm[0],
                  .x = in * factors.ssm[1],
                  .B = in * factors.ssm[2],
                  .C = in * factors.ssm[3],
                  .dt = in * factors.ssm[4]};
  return ResidualSpec{"input_layernorm", norm, "mamba", mixer, factors.ssm_out};
}

Result<ResidualSpec> read_falcon_h1_attention(const ConfigReader& config, const RmsNormSpec& norm,
                                              const FalconFactors& factors, ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(AttentionSpec attention, read_attention(config, 8));
  KRAIT_RETURN_IF_ERROR(read_rotary(config, attention, 1.0, result));
  const float in = factors.attention_in;
  const float out = factors.attention_out;
  const float key = factors.key;
  if (attention.bias && (in != 1.0F || out != 1.0F)) {
    return config.fail("attention_bias", "false, beside factors of attention", "true",
                       ErrorCode::unsupported);
  }
  if (in == 0.0F || key == 0.0F) {
    return config.fail("key_multiplier", "factors other than 0", "0");
  }
  attention.scale = attention.resolved(result.spec.d_model()).scale * in * in * key;
  return ResidualSpec{.norm_name = "input_layernorm",
                      .norm = norm,
                      .block_name = "self_attn",
                      .block = attention,
                      .scale = in * out,
                      .beside = true};
}

Result<void> read_falcon_h1(const ConfigReader& config, const TensorNames& /*tensors*/,
                            ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(const Outline outline, read_outline(config, "falcon_h1", 1e-5F, result));
  ModelSpec& spec = result.spec;
  spec.final_norm_name = "final_layernorm";
  KRAIT_ASSIGN_OR_RETURN(const FalconFactors factors, read_falcon_factors(config));
  spec.embedding.scale = factors.embedding;
  spec.logit_scale = factors.head;
  KRAIT_ASSIGN_OR_RETURN(const ResidualSpec mixer,
                         read_falcon_h1_mixer(config, outline.norm, factors));
  KRAIT_ASSIGN_OR_RETURN(const ResidualSpec attention,
                         read_falcon_h1_attention(config, outline.norm, factors, result));
  KRAIT_ASSIGN_OR_RETURN(MlpSpec mlp, read_swiglu(config));
  mlp.gate_scale = factors.mlp[0];
  const ResidualSpec network{"pre_ff_layernorm", outline.norm, "feed_forward", mlp, factors.mlp[1]};
  spec.layers = stack(outline.n_layer, {{mixer, attention, network}});
  config.skip({"layer_types", "layers_block_type", "mamba_use_mlp"});
  return {};
}

}  // namespace

Result<FalconFactors> read_falcon_factors(const ConfigReader& config) {
  FalconFactors factors;
  for (const auto& [key, value] :
       {std::pair("embedding_multiplier", &factors.embedding),
        std::pair("lm_head_multiplier", &factors.head),
        std::pair("attention_in_multiplier", &factors.attention_in),
        std::pair("attention_out_multiplier", &factors.attention_out),
        std::pair("key_multiplier", &factors.key), std::pair("ssm_in_multiplier", &factors.ssm_in),
        std::pair("ssm_out_multiplier", &factors.ssm_out)}) {
    KRAIT_ASSIGN_OR_RETURN(*value, factor(config, key));
  }
  KRAIT_ASSIGN_OR_RETURN(factors.ssm, config.reals("ssm_multipliers", 5));
  KRAIT_ASSIGN_OR_RETURN(factors.mlp, config.reals("mlp_multipliers", 2));
  return factors;
}

const Family falcon_h1_family{"falcon_h1", is_falcon_h1, read_falcon_h1};

}  // namespace v0_1
}  // namespace krait
