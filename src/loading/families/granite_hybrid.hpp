#pragma once

/// \file
/// What is read of configurations of Granite 4 for its family, and for its GGUF files.

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {

/// Attention as layers have it that do; without a rotary embedding where there are no positions.
Result<AttentionSpec> read_granite_attention(const ConfigReader& config, ModelConfig& result);

}  // namespace v0_1
}  // namespace krait
