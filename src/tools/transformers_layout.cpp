#include "tools/transformers_layout.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/json.hpp"
#include "krait/loading/language_model.hpp"
#include "models/find_block.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error unsupported(std::string_view what, std::string_view expected, const Metadata& found) {
  return {ErrorCode::unsupported,
          fmt::format("[convert] {}: expected {}, found {}", what, expected, json_text(found))};
}

// The number under a key, or what the original classes have without it.
Index number_or(const Metadata& config, std::string_view key, Index fallback) {
  const auto value = config[key].integer();
  return value ? *value : fallback;
}

bool flag_or(const Metadata& config, std::string_view key, bool fallback) {
  return config[key].boolean().value_or(fallback);
}

// transformers' classes have none of what these keys change.
Result<void> check_original(const Metadata& config) {
  const Metadata& ssm = config["ssm_cfg"];
  for (const char* key : {"d_ssm", "norm_before_gate", "D_has_hdim"}) {
    const Metadata& value = ssm[key];
    if (!value.is_null() && value.boolean() != false) {
      return unsupported(fmt::format("ssm_cfg.{}", key), "what transformers has a class for",
                         value);
    }
  }
  if (!flag_or(ssm, "rmsnorm", true)) {
    return unsupported("ssm_cfg.rmsnorm", "true", ssm["rmsnorm"]);
  }
  if (!flag_or(config, "rms_norm", true)) {
    return unsupported("rms_norm", "true", config["rms_norm"]);
  }
  if (!config["moe_cfg"].is_null()) return unsupported("moe_cfg", "none", config["moe_cfg"]);
  if (number_or(config, "d_intermediate", 0) != 0) {
    return unsupported("d_intermediate", "0", config["d_intermediate"]);
  }
  if (config["attn_layer_idx"].size() > 0) {
    return unsupported("attn_layer_idx", "none", config["attn_layer_idx"]);
  }
  return {};
}

// The object without a member.
Metadata without(const Metadata& object, std::string_view key) {
  Metadata::Object members;
  for (const Metadata::Member& member : *object.object()) {
    if (member.key != key) members.push_back(member);
  }
  return Metadata(std::move(members));
}

// Whether the head is the embedding, whatever the configuration says.
bool has_tied_head(const CheckpointPlan& stored) {
  const ModelSpec& spec = stored.config.spec;
  const std::vector<TensorUse>& uses = stored.plan.tensors;  // the embedding first
  return spec.tied_head && std::none_of(uses.begin() + 1, uses.end(), [&](const TensorUse& use) {
           return use.path.starts_with(spec.head_name + ".");
         });
}

// Where texts begin and end: original configurations leave that to other files.
Result<void> add_marks(const CheckpointPlan& stored, Metadata::Object& config) {
  const auto tokenizer = make_tokenizer(stored.checkpoint, stored.config);
  if (!tokenizer) return {};
  KRAIT_ASSIGN_OR_RETURN(const TextMarks marks, read_text_marks(stored.checkpoint, **tokenizer));
  if (marks.bos) config.push_back({"bos_token_id", *marks.bos});
  if (marks.ends.size() == 1) config.push_back({"eos_token_id", marks.ends.front()});
  if (marks.ends.size() > 1) {
    config.push_back({"eos_token_id", Metadata::Array(marks.ends.begin(), marks.ends.end())});
  }
  return {};
}

// config.json of transformers for an original one, of state-spaces or Mistral.
Result<std::string> transformers_config(const Metadata& original, const CheckpointPlan& stored) {
  KRAIT_RETURN_IF_ERROR(check_original(original));
  const ModelConfig& model = stored.config;
  const Metadata& ssm = original["ssm_cfg"];
  const bool is_mistral = original["d_model"].is_null();
  const bool is_mamba2 = is_mistral || ssm["layer"].is("Mamba2");
  const Index d_model = model.spec.embedding.d_model;
  const Index expand = number_or(ssm, "expand", 2);
  Metadata::Object config;
  const auto set = [&](const char* key, Metadata value) {
    config.push_back({key, std::move(value)});
  };
  set("architectures",
      Metadata::Array{std::string(is_mamba2 ? "Mamba2ForCausalLM" : "MambaForCausalLM")});
  set("model_type", std::string(is_mamba2 ? "mamba2" : "mamba"));
  set("hidden_size", d_model);
  set("num_hidden_layers", static_cast<Index>(model.spec.layers.size()));
  set("vocab_size", model.spec.embedding.rows());
  set("tie_word_embeddings", has_tied_head(stored));
  set("state_size", number_or(ssm, "d_state", is_mamba2 ? 128 : 16));
  set("conv_kernel", number_or(ssm, "d_conv", 4));
  set("expand", expand);
  set("use_bias", flag_or(ssm, "bias", false));
  set("use_conv_bias", flag_or(ssm, "conv_bias", true));
  set("hidden_act", std::string("silu"));
  set("layer_norm_epsilon", original["norm_epsilon"].number().value_or(1e-5));
  set("residual_in_fp32", true);
  if (is_mamba2) {
    const Index head_dim = number_or(ssm, "headdim", 64);
    set("head_dim", head_dim);
    set("num_heads", expand * d_model / head_dim);
    set("n_groups", number_or(is_mistral ? original : ssm, is_mistral ? "n_groups" : "ngroups", 1));
    if (!ssm["dt_limit"].is_null()) set("time_step_limit", ssm["dt_limit"]);
  } else {
    set("intermediate_size", expand * d_model);
    set("time_step_rank", number_or(ssm, "dt_rank", (d_model + 15) / 16));
  }
  KRAIT_RETURN_IF_ERROR(add_marks(stored, config));
  return full_json(Metadata(std::move(config)));
}

// The text with the type that it names replaced; a text that names none stays as it is.
std::string with_dtype(std::string config, DType dtype) {
  const std::string_view name = dtype == DType::f32   ? "float32"
                                : dtype == DType::f16 ? "float16"
                                                      : "bfloat16";
  for (const std::string_view key : {"\"torch_dtype\"", "\"dtype\""}) {
    const std::size_t place = config.find(key);
    if (place == config.npos) continue;
    const std::size_t open = config.find_first_not_of(" \t\r\n:", place + key.size());
    if (open == config.npos || config[open] != '"') continue;
    const std::size_t close = config.find('"', open + 1);
    if (close != config.npos) config.replace(open + 1, close - open - 1, name);
  }
  return config;
}

// What stands for `from` at the beginning of a name: all of it, or a part before a dot.
bool begins_with_part(std::string_view name, std::string_view from) {
  return !from.empty() && name.starts_with(from) &&
         (name.size() == from.size() || name[from.size()] == '.');
}

}  // namespace

Result<TransformersLayout> TransformersLayout::of(const CheckpointPlan& stored,
                                                  std::optional<DType> dtype) {
  const Checkpoint& checkpoint = stored.checkpoint;
  const ModelConfig& config = stored.config;
  KRAIT_ASSIGN_OR_RETURN(const Metadata json, parse_json(checkpoint.config, checkpoint.path));
  TransformersLayout layout;
  // Published configurations of transformers have keys of the original ones beside their own.
  const bool is_original =
      json["hidden_size"].is_null() && (!json["d_model"].is_null() || !json["dim"].is_null());
  if (!is_original) {
    if (!json["gate_in_input_linear"].is_null()) {
      return unsupported("model_type", "a model whose gates transformers has as this file has them",
                         json["model_type"]);
    }
    if (!json["rope_divisors"].is_null()) {
      return unsupported("rope_freqs.weight", "frequencies that transformers has keys for",
                         json["rope_divisors"]);
    }
    if (!json["mamba_moe_layers"].is_null()) {  // BlackMamba's, of Megatron
      return unsupported("mamba_moe_layers", "none", json["mamba_moe_layers"]);
    }
    layout.config_ = checkpoint.config;
    const auto* attention = find_block<AttentionSpec>(config.spec);
    if (attention != nullptr && attention->rotary && attention->rotary->interleaved) {
      const Index d_head = attention->resolved(config.spec.d_model()).d_head;
      if (attention->rotary->dim != d_head) {
        return unsupported("rope_interleave", "false, beside heads of which a part is rotated",
                           json["rope_interleave"]);
      }
      layout.config_ = full_json(without(json, "rope_interleave"));
      layout.pair_rows_ = d_head;
    }
  } else {
    KRAIT_ASSIGN_OR_RETURN(layout.config_, transformers_config(json, stored));
    const ModelSpec& spec = config.spec;
    layout.renames_ = true;
    layout.old_prefix_ = config.prefix.empty() ? "" : config.prefix + ".";
    layout.old_embedding_ = layout.old_prefix_ + spec.embedding_name;
    layout.old_layers_ = layout.old_prefix_ + spec.layers_name;
    layout.old_norm_ = layout.old_prefix_ + spec.final_norm_name;
    layout.old_head_ = spec.head_name;
  }
  if (dtype) layout.config_ = with_dtype(std::move(layout.config_), *dtype);
  return layout;
}

std::string TransformersLayout::name(const std::string& stored) const {
  if (!renames_) return stored;
  const std::pair<const std::string*, std::string_view> parts[] = {
      {&old_embedding_, "backbone.embeddings"},
      {&old_layers_, "backbone.layers"},
      {&old_norm_, "backbone.norm_f"},
      {&old_head_, "lm_head"}};
  for (const auto& [from, to] : parts) {
    if (begins_with_part(stored, *from)) return std::string(to) + stored.substr(from->size());
  }
  return stored;
}

Index TransformersLayout::pair_rows(std::string_view name) const noexcept {
  if (pair_rows_ == 0) return 0;
  const bool is_paired =
      name.find(".self_attn.q_proj.") != name.npos || name.find(".self_attn.k_proj.") != name.npos;
  return is_paired ? pair_rows_ : 0;
}

}  // namespace v0_1
}  // namespace krait
