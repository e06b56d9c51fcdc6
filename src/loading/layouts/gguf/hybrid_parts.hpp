#pragma once

/// \file
/// What GGUF files of hybrids of mixers and attention have in common. Which layers have attention
/// follows from their numbers of heads of keys.

#include <string>
#include <string_view>
#include <vector>

#include "krait/models/spec.hpp"
#include "loading/layouts/gguf/architecture.hpp"
#include "models/find_block.hpp"

namespace krait {
inline namespace v0_1 {

/// What the configurations of all of them have.
struct HybridSizes {
  Index d_model = 0;
  Index n_layer = 0;
  std::vector<Index> kv_heads;  // of each layer, 0 without attention
  Index n_kv_head = 0;
  Index attention_layer = 0;  // the first that has it, or 0
  Index mixer_layer = 0;      // the first that has none, or 0
};

/// "blk.3.ssm_in.bias".
std::string in_layer(Index layer, std::string_view name);

/// Fills in the configuration of a file, but for epsilon, mixers and networks.
Result<HybridSizes> configure_hybrid(const GgufKeys& keys, std::string_view model_type,
                                     std::string_view architecture, ConfigObject& config);

Result<void> set_epsilon(const GgufKeys& keys, const char* name, ConfigObject& config);

/// The width of heads, where the family's is not d_model / n_head.
Result<void> set_head_dim(const GgufKeys& keys, const HybridSizes& sizes, ConfigObject& config);

/// What positions are divided by. Files of before have it under another key, and 0 stands for 1.
Result<double> rope_factor(const GgufKeys& keys);

/// What the families call the sizes of Mamba-2 mixers.
struct MixerKeys {
  const char* n_head;
  const char* head_dim;
  const char* d_state;
  const char* n_group;
  const char* d_conv;
  const char* conv_bias;
};
inline constexpr MixerKeys mamba_keys{"mamba_n_heads",  "mamba_d_head", "mamba_d_state",
                                      "mamba_n_groups", "mamba_d_conv", "mamba_conv_bias"};

/// Fills in the sizes of a file's mixers, one of which is in `layer`.
Result<void> configure_mixer(const GgufKeys& keys, Index layer, const MixerKeys& called,
                             ConfigObject& config);

/// The heads with keys and values of each layer; 0 where there is no attention.
Metadata::Array kv_heads_of(const ModelSpec& spec);

/// The keys of sizes that are found in the model itself.
void describe_sizes(const ModelSpec& spec, Index n_head, std::string_view architecture,
                    ConfigObject& metadata);
/// … and of a resolved mixer.
void describe_mixer(const MambaSpec& mixer, std::string_view architecture, ConfigObject& metadata);
void describe_mixer(const Mamba2Spec& mixer, std::string_view architecture, ConfigObject& metadata);

/// Refuses a mixer that llama.cpp does not run.
Result<void> check_mixer(const ConfigReader& config, const Mamba2Spec& mixer);

/// The names of a mixer, of attention, and of what is around the layers.
#define KRAIT_OUTSIDE_NAMES(norm)                                                              \
  {"token_embd.weight", "model.embed_tokens.weight"}, {"output_norm.weight", "model." norm}, { \
    "output.weight", "lm_head.weight"                                                          \
  }
#define KRAIT_MIXER_NAMES(mixer)                                                                \
  {"blk.*.ssm_in.weight", mixer "in_proj.weight"}, {"blk.*.ssm_in.bias", mixer "in_proj.bias"}, \
      {"blk.*.ssm_conv1d.weight", mixer "conv1d.weight", GgufShape::depthwise},                 \
      {"blk.*.ssm_conv1d.bias", mixer "conv1d.bias"},                                           \
      {"blk.*.ssm_out.weight", mixer "out_proj.weight"}, {                                      \
    "blk.*.ssm_out.bias", mixer "out_proj.bias"                                                 \
  }
#define KRAIT_MIXER2_NAMES(mixer)                                                  \
  KRAIT_MIXER_NAMES(mixer), {"blk.*.ssm_dt.bias", mixer "dt_bias"},                \
      {"blk.*.ssm_a", mixer "A_log", GgufShape::column, GgufValues::negative_exp}, \
      {"blk.*.ssm_d", mixer "D", GgufShape::column}, {                             \
    "blk.*.ssm_norm.weight", mixer "norm.weight", GgufShape::groups                \
  }
#define KRAIT_ATTENTION_NAMES(attention)                       \
  {"blk.*.attn_q.weight", attention "q_proj.weight"},          \
      {"blk.*.attn_k.weight", attention "k_proj.weight"},      \
      {"blk.*.attn_v.weight", attention "v_proj.weight"},      \
      {"blk.*.attn_output.weight", attention "o_proj.weight"}, \
      {"blk.*.attn_q.bias", attention "q_proj.bias"},          \
      {"blk.*.attn_k.bias", attention "k_proj.bias"},          \
      {"blk.*.attn_v.bias", attention "v_proj.bias"}, {        \
    "blk.*.attn_output.bias", attention "o_proj.bias"          \
  }

}  // namespace v0_1
}  // namespace krait
