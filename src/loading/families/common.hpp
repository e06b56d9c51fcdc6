#pragma once

/// \file
/// What the configurations of several families have in common.

#include <fmt/format.h>

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "loading/families/families.hpp"

namespace krait {
inline namespace v0_1 {

/// More than any model has: each costs memory before a single tensor is looked up.
inline constexpr Index most_layers = 4096;

/// The number of layers; refuses more than most_layers.
Result<Index> layer_count(const ConfigReader& config, std::string_view key,
                          std::optional<Index> fallback = std::nullopt);

/// "vocab_size", and the multiple that the rows are padded to.
Result<void> read_padded_vocab(const ConfigReader& config, std::optional<Index> fallback,
                               EmbeddingSpec& embedding);

/// The same layer so many times.
std::vector<LayerSpec> stack(Index n_layer, const LayerSpec& layer);

/// Refuses an activation other than SiLU.
Result<void> check_silu(const ConfigReader& config, std::string_view key);

/// The lower and upper limit of time steps, [0, infinity] by default. Infinity is also written as
/// 1e20 or more, which no step comes near.
Result<std::pair<float, float>> step_limits(const ConfigReader& config, std::string_view key);

/// The Mamba-1 mixer of a configuration of transformers.
Result<MambaSpec> read_transformers_mamba(const ConfigReader& config);

/// All of such a configuration but the mixer. What a configuration leaves out has the class's
/// default, which is a parameter where classes differ.
struct TransformersDefaults {
  std::optional<Index> d_model = {};
  std::optional<Index> vocab = {};
  std::optional<Index> n_layer = {};
  bool tied_head = true;
};
Result<void> read_transformers_model(const ConfigReader& config, const BlockSpec& mixer,
                                     const TransformersDefaults& defaults, ModelConfig& result);

}  // namespace v0_1
}  // namespace krait
