#pragma once

/// \file
/// Random weights for any spec: for benchmarks, tests and models yet to be trained.

#include <cstdint>
#include <string>

#include "krait/io/weight_store.hpp"
#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

/// All tensors that the spec needs, a pure function of (spec, seed). As the Mamba authors
/// initialise: matrices uniform with variance 1/in, norms 1, A_log = ln(1 … d_state), D = 1, and
/// time-step biases such that dt is between 0.001 and 0.1. Matrices and embeddings are stored as
/// `dtype` (f32, f16, bf16), everything else as f32. Errors: bad_argument (dtype), bad_config.
KRAIT_API Result<WeightStore> random_weights(const ModelSpec& spec, std::uint64_t seed,
                                             const std::string& prefix = "",
                                             DType dtype = DType::f32);

}  // namespace v0_1
}  // namespace krait
