#pragma once

/// \file
/// Files of adapters of low rank (LoRA): PEFT's and MLX's.

#include <string>

#include "krait/core/error.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

struct ModelConfig;

/// Reads the adapter at `path` (empty: none) and attaches it to the matrices of `weights` (see
/// weights/adapter.hpp), usually a copy of a checkpoint's store, which shares all tensors. `path`
/// is a folder with adapter_config.json, or the file with the weights beside one:
/// - PEFT's adapter_model.safetensors: `base_model.model.M.lora_A.weight` [r, in] and
///   `.lora_B.weight` [out, r] for a module M; of the embedding `.lora_embedding_A` [r, vocab] and
///   `.lora_embedding_B` [d_model, r]. The scale is lora_alpha / r, with use_rslora lora_alpha /
///   √r; rank_pattern and alpha_pattern count.
/// - MLX's adapters.safetensors: `M.lora_a` [in, r] and `M.lora_b` [r, out], and a scale.
/// Matrix e of a stack is the module of the stack's name, a dot and e.
///
/// Errors: not_found, bad_format and bad_config (no such files, values that are not finite, no
/// rank), missing_tensor (a factor, or those of a module that the configuration names), not_found
/// (factors of a matrix that the model does not have), shape_mismatch (with the model or with the
/// rank), unsupported (DoRA, biases, modules_to_save and whatever else changes more than matrices).
KRAIT_API Result<void> add_adapter(const std::string& path, const ModelConfig& config,
                                   WeightStore& weights);

}  // namespace v0_1
}  // namespace krait
