#pragma once

/// \file
/// Small models with random weights, for tests that compare bits.

#include <string>
#include <string_view>
#include <vector>

#include "krait/kernels/aqlm.hpp"
#include "krait/models/builder.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"

namespace krait::test {

/// A spec with odd sizes: no extent is a multiple of a vector.
ModelSpec tiny_spec(Index n_layer = 2);

/// The same around Mamba-2 mixers, of which the layers differ in norm, groups and time steps, one
/// with an MLP beside it.
ModelSpec tiny_mamba2_spec();

/// The same around mixtures of experts: stacked and single, one with a shared expert, several
/// routers, and a layer of parallel blocks.
ModelSpec tiny_expert_spec();

/// The same with attention among the mixers: shared and own keys, with and without a rotary
/// embedding of either kind, beside a mixer and before one.
ModelSpec tiny_hybrid_spec();

/// The same with the options of hybrid families: windows, convolved and fused projections, factors,
/// gates of their own, weights of inner norms, blocks beside others that share a norm.
ModelSpec tiny_hybrid_options_spec();

/// The same with a shared transformer block in two of four layers, which reads the embedding, and
/// blocks that are aside: in front of a mixer, of attention, and of parallel blocks.
ModelSpec tiny_shared_spec();

/// The same with extents that codewords and blocks of weights divide, many rows and long ones among
/// the matrices: mixers, attention, an MLP and experts.
ModelSpec tiny_wide_spec();

/// All of them but the last by name: what a promise about every stack is tested on.
struct TinyStack {
  const char* name;
  ModelSpec (*spec)();
};
inline constexpr TinyStack tiny_stacks[] = {
    {"mamba", [] { return tiny_spec(); }},
    {"mamba2", tiny_mamba2_spec},
    {"experts", tiny_expert_spec},
    {"hybrid", tiny_hybrid_spec},
    {"hybrid_options", tiny_hybrid_options_spec},
    {"shared", tiny_shared_spec},
};

/// Random weights for a spec, a pure function of it.
Model tiny_model(const ModelSpec& spec, DType dtype, const WeightOptions& options = {});

/// The same with every matrix, embedding and experts included, a product of random factors; ranks
/// differ and are no multiples of a vector.
WeightStore factored_weights(const ModelSpec& spec, DType dtype);
Model tiny_factored_model(const ModelSpec& spec, DType dtype, const WeightOptions& options = {});

/// The same with every matrix of random codes of the scheme. Groups are the largest part of the
/// scheme's that divides the matrix.
WeightStore aqlm_weights(const ModelSpec& spec, const kernels::AqlmScheme& scheme);

/// The same with matrices in blocks of GGUF: rows of whole `long_rows` ("q4_k") in these, other
/// rows of whole `short_rows` ("q5_1") in those. The rest stays f32.
WeightStore gguf_weights(const ModelSpec& spec, std::string_view short_rows,
                         std::string_view long_rows);

/// Random weights for `tiny_spec`; the seed of the library's own generator.
Model tiny_model(DType dtype = DType::f32, const WeightOptions& options = {}, Index n_layer = 2);
inline Model tiny_model(DType dtype, const std::string& form, Index n_layer = 2) {
  return tiny_model(dtype, WeightOptions{.form = form}, n_layer);
}

/// Token ids below `vocab`, a pure function of the seed.
std::vector<Token> random_tokens(Index count, Index vocab, std::uint64_t seed);

}  // namespace krait::test
