#pragma once

/// \file
/// Weights to begin training with.

#include <cstdint>
#include <span>

#include "krait/training/parameters.hpp"

namespace krait {
inline namespace v0_1 {

/// Fills `values` [parameters.floats()] as the Mamba authors' code initialises a model: the
/// embedding from N(0, 0.02²); matrices and convolutions uniform within ±1/√inputs, the mixers'
/// out_proj also divided by √n_layer; dt_proj within ±1/√dt_rank; time steps log-uniform between
/// 0.001 and 0.1; A = 1 … d_state (Mamba-2: uniform between 1 and 16); D and norms 1, other biases
/// 0. A pure function of (spec, seed), the same on every system.
KRAIT_API void initial_weights(const ModelSpec& spec, const Parameters& parameters,
                               std::uint64_t seed, std::span<float> values);

}  // namespace v0_1
}  // namespace krait
