#pragma once

/// \file
/// Checkpoints with additively quantised matrices (AQLM), as Hugging Face's transformers write
/// them: `codes`, `codebooks` and `scales` in place of `weight`.

#include "krait/core/error.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// What `quantization_config` of a config.json says where `quant_method` is "aqlm", with the values
/// that keys have where they are missing. Which matrices are quantised, tensors say better than its
/// `linear_weights_not_to_quantize`.
struct AqlmConfig {
  Index in_group_size = 8;
  Index out_group_size = 1;
  Index num_codebooks = 1;
  Index nbits_per_codebook = 16;
};

/// Whether the checkpoint has a quantised matrix, that is a tensor named `….codebooks` [codebooks,
/// 2^bits, out group, in group], of the sizes that its configuration gives. Others may have other
/// sizes: a checkpoint may mix schemes, of which the configuration can name one.
///
/// Errors   bad_format: no such matrix, or none of these sizes.
KRAIT_API Result<void> check_aqlm_config(const WeightStore& weights, const AqlmConfig& config);

}  // namespace v0_1
}  // namespace krait
