#pragma once

/// \file
/// What is read of configurations of Falcon-H1 for its family, and for its GGUF files.

#include <vector>

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {

/// The factors between the parts of a model.
struct FalconFactors {
  float embedding = 1.0F, head = 1.0F;
  float attention_in = 1.0F, attention_out = 1.0F, key = 1.0F;
  float ssm_in = 1.0F, ssm_out = 1.0F;
  std::vector<float> ssm;  ///< of z, x, B, C and dt
  std::vector<float> mlp;  ///< of the gate, and of what the network gives
};
Result<FalconFactors> read_falcon_factors(const ConfigReader& config);

}  // namespace v0_1
}  // namespace krait
