// The configuration of the original state-spaces repository, which MambaByte's authors use as well:
// Mamba-1 or Mamba-2, with attention in place of some mixers (mamba2attn), MLPs or mixtures of
// experts (MoE-Mamba) between them where "attn_cfg", "d_intermediate" and "moe_cfg" say so.

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_state_spaces(const ConfigReader& config) {
  const auto type = config.text("model_type", "mamba");
  return config.has("d_model") && config.has("n_layer") && type &&
         (*type == "mamba" || *type == "mambabyte");
}

// Its entries are arguments of the authors' class MHA.
Result<AttentionSpec> read_mha(const ConfigReader& attn, Index d_model) {
  AttentionSpec attention{.names = {.qkv = "in_proj", .out = "out_proj"}};
  KRAIT_ASSIGN_OR_RETURN(attention.n_head, attn.number("num_heads", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(attention.n_kv_head, attn.number("num_heads_kv", 1, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(attention.d_head, attn.number("head_dim", 1, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(attention.bias, attn.boolean("qkv_proj_bias", true));
  KRAIT_ASSIGN_OR_RETURN(attention.out_bias, attn.boolean("out_proj_bias", true));
  KRAIT_ASSIGN_OR_RETURN(attention.d_conv, attn.number("d_conv", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const double scale, attn.real("softmax_scale", 0.0));
  attention.scale = static_cast<float>(scale);
  RotarySpec rotary;
  KRAIT_ASSIGN_OR_RETURN(rotary.dim, attn.number("rotary_emb_dim", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(rotary.theta, attn.real("rotary_emb_base", 10000.0));
  KRAIT_ASSIGN_OR_RETURN(rotary.interleaved, attn.boolean("rotary_emb_interleaved", false));
  if (rotary.dim > 0) attention.rotary = rotary;
  KRAIT_ASSIGN_OR_RETURN(const bool is_causal, attn.boolean("causal", false));
  if (!is_causal) return attn.fail("causal", "true", "false", ErrorCode::unsupported);
  KRAIT_ASSIGN_OR_RETURN(const Index d_mlp, attn.number("mlp_dim", 0, Index{0}));
  if (d_mlp > 0) {
    return attn.fail("mlp_dim", "0", fmt::to_string(d_mlp), ErrorCode::unsupported);
  }
  KRAIT_RETURN_IF_ERROR(attention.validate(d_model));
  return attention;
}

// Puts attention in place of the mixer in the layers that the configuration lists.
Result<void> read_attention_layers(const ConfigReader& config, ModelConfig& result) {
  ModelSpec& spec = result.spec;
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Index> layers,
                         config.numbers("attn_layer_idx", std::ssize(spec.layers) - 1));
  KRAIT_ASSIGN_OR_RETURN(const ConfigReader attn, config.object("attn_cfg"));
  if (layers.empty()) return {};
  KRAIT_ASSIGN_OR_RETURN(const AttentionSpec attention, read_mha(attn, spec.d_model()));
  for (const Index i : layers) {
    spec.layers[static_cast<std::size_t>(i)].residuals.front().block = attention;
  }
  for (std::string& key : attn.unknown()) result.ignored.push_back(std::move(key));
  return {};
}

Result<BlockSpec> read_ssm_mamba(const ConfigReader& ssm) {
  MambaSpec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, ssm.number("d_state", 1, 16));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, ssm.number("d_conv", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, ssm.number("expand", 1, 2));
  if (ssm.has("dt_rank") && ssm.value_text("dt_rank") != "\"auto\"") {
    KRAIT_ASSIGN_OR_RETURN(mixer.dt_rank, ssm.number("dt_rank", 1, std::nullopt));
  }
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, ssm.boolean("bias", false));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, ssm.boolean("conv_bias", true));
  ssm.skip({"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"});
  return BlockSpec(mixer);
}

// Its entries are arguments of the authors' class Mamba2.
Result<BlockSpec> read_ssm_mamba2(const ConfigReader& ssm) {
  Mamba2Spec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, ssm.number("d_state", 1, 128));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, ssm.number("d_conv", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, ssm.number("expand", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(mixer.head_dim, ssm.number("headdim", 1, 64));
  KRAIT_ASSIGN_OR_RETURN(mixer.n_group, ssm.number("ngroups", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_ssm, ssm.number("d_ssm", 1, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, ssm.boolean("bias", false));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, ssm.boolean("conv_bias", true));
  KRAIT_ASSIGN_OR_RETURN(mixer.D_per_channel, ssm.boolean("D_has_hdim", false));
  KRAIT_ASSIGN_OR_RETURN(const bool has_norm, ssm.boolean("rmsnorm", true));
  KRAIT_ASSIGN_OR_RETURN(const bool before_gate, ssm.boolean("norm_before_gate", false));
  mixer.norm = !has_norm     ? GatedNorm::none
               : before_gate ? GatedNorm::before_gate
                             : GatedNorm::after_gate;
  KRAIT_ASSIGN_OR_RETURN(const auto steps, step_limits(ssm, "dt_limit"));
  mixer.dt_min = steps.first;
  mixer.dt_max = steps.second;
  ssm.skip({"A_init_range", "chunk_size", "conv_init", "dt_min", "dt_max", "dt_init_floor",
            "use_mem_eff_path"});
  return BlockSpec(mixer);
}

Result<BlockSpec> read_ssm(const ConfigReader& ssm, const std::string& layer) {
  if (layer == "Mamba1") return read_ssm_mamba(ssm);
  if (layer == "Mamba2") return read_ssm_mamba2(ssm);
  return ssm.fail("layer", "Mamba1 or Mamba2", layer, ErrorCode::unsupported);
}

Result<MoeSpec> read_moe(const ConfigReader& config) {
  MoeSpec moe;
  KRAIT_ASSIGN_OR_RETURN(moe.n_expert, config.number("n_expert", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(moe.top_k, config.number("top_k", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(moe.d_expert, config.number("d_expert", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const std::string router, config.text("router", "switch"));
  if (router != "switch") return config.fail("router", "switch", router, ErrorCode::unsupported);
  KRAIT_ASSIGN_OR_RETURN(const std::string activation, config.text("activation", "relu"));
  if (activation != "relu" && activation != "silu") {
    return config.fail("activation", "relu or silu", activation, ErrorCode::unsupported);
  }
  moe.activation = activation == "relu" ? Activation::relu : Activation::silu;
  return moe;
}

Result<void> read_state_spaces(const ConfigReader& config, const TensorNames& /*tensors*/,
                               ModelConfig& result) {
  ModelSpec& spec = result.spec;
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("d_model", 1, std::nullopt));
  KRAIT_RETURN_IF_ERROR(read_padded_vocab(config, Index{50277}, spec.embedding));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, layer_count(config, "n_layer"));
  KRAIT_ASSIGN_OR_RETURN(const bool rms_norm, config.boolean("rms_norm", true));
  KRAIT_ASSIGN_OR_RETURN(const float eps, config.positive_float("norm_epsilon", 1e-5F));
  const NormSpec norm = rms_norm ? NormSpec(RmsNormSpec{eps}) : NormSpec(LayerNormSpec{eps});

  KRAIT_ASSIGN_OR_RETURN(const ConfigReader ssm, config.object("ssm_cfg"));
  KRAIT_ASSIGN_OR_RETURN(const std::string kind, ssm.text("layer", "Mamba1"));
  KRAIT_ASSIGN_OR_RETURN(const BlockSpec mixer, read_ssm(ssm, kind));
  spec.family = kind == "Mamba2" ? "mamba2" : "mamba";
  LayerSpec layer{{{"norm", norm, "mixer", mixer}}};
  KRAIT_ASSIGN_OR_RETURN(const ConfigReader moe_config, config.object("moe_cfg"));
  if (config.has("moe_cfg")) {
    KRAIT_ASSIGN_OR_RETURN(const MoeSpec moe, read_moe(moe_config));
    spec.family = "moe_" + spec.family;
    layer.residuals.push_back({"norm2", norm, "moe", moe});
  }
  KRAIT_ASSIGN_OR_RETURN(const Index d_intermediate, config.number("d_intermediate", 0, Index{0}));
  if (d_intermediate > 0) {
    if (layer.residuals.size() > 1) {
      return config.fail("d_intermediate", "0, beside moe_cfg", fmt::to_string(d_intermediate),
                         ErrorCode::unsupported);
    }
    // The authors' class rounds it up, and has the gate last.
    const MlpSpec mlp{.d_hidden = round_up(d_intermediate, Index{128}),
                      .up = "fc1",
                      .down = "fc2",
                      .gate_last = true};
    layer.residuals.push_back({"norm2", norm, "mlp", mlp});
  }
  spec.layers = stack(n_layer, layer);
  spec.final_norm = norm;
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_embeddings", true));
  KRAIT_RETURN_IF_ERROR(read_attention_layers(config, result));
  config.skip({"model_type", "residual_in_fp32", "fused_add_norm"});
  for (std::string& key : ssm.unknown()) result.ignored.push_back(std::move(key));
  for (std::string& key : moe_config.unknown()) result.ignored.push_back(std::move(key));
  return {};
}

}  // namespace

const Family state_spaces_family{"state-spaces (Mamba, Mamba-2, mamba2attn, MambaByte, MoE-Mamba)",
                                 is_state_spaces, read_state_spaces};

}  // namespace v0_1
}  // namespace krait
