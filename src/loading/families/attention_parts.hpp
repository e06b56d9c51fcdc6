#pragma once

/// \file
/// What configurations of transformers have in common whose models have attention among their
/// blocks.

#include <optional>
#include <string_view>
#include <vector>

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {

/// What stands around the layers, with the keys of these classes.
struct Outline {
  Index n_layer = 0;
  RmsNormSpec norm;  ///< of every block
};

/// Reads it into `result`, and declares the keys that change nothing. `n_layer`: where another key
/// says it. `family` and names of tensors are set.
Result<Outline> read_outline(const ConfigReader& config, std::string_view family, float eps,
                             ModelConfig& result, std::optional<Index> n_layer = {});

/// Heads and biases. `n_kv_head` is the class's default, 0: as many as heads of queries.
Result<AttentionSpec> read_attention(const ConfigReader& config, Index n_kv_head = 0);

/// The rotary embedding of heads, of which a share `part` is rotated unless the configuration says
/// another. A factor of rotated queries and keys goes into the scale of their products.
Result<void> read_rotary(const ConfigReader& config, AttentionSpec& attention, double part,
                         ModelConfig& result);

/// YaRN's factor of rotated queries and keys where positions are divided by `factor`.
double yarn_magnitude(double factor, double weight = 1.0);

/// A Mamba-2 mixer from keys that begin with "mamba_". The channels are those of its heads.
Result<Mamba2Spec> read_mamba2(const ConfigReader& config, float norm_eps);

/// Refuses heads of a mixer other than `d_inner` channels.
Result<void> check_channels(const ConfigReader& config, std::string_view key,
                            const Mamba2Spec& mixer, Index d_inner);

/// SwiGLU of three matrices.
Result<MlpSpec> read_swiglu(const ConfigReader& config);

/// The kinds of layers, from the first of these keys that is there; `is_known` says which words are
/// kinds. None where no key is there; at most most_layers.
enum class LayerKind { mixer, attention, mlp, experts, hybrid };
Result<std::vector<LayerKind>> read_layer_kinds(const ConfigReader& config,
                                                std::initializer_list<LayerKind> allowed);

}  // namespace v0_1
}  // namespace krait
