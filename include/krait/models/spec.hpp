#pragma once

/// \file
/// ModelSpec: what a model is, as plain data.
///
/// The same spec comes from a config.json (registry.hpp), from a ModelBuilder, or from a test.

#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/function.hpp"
#include "krait/modules/attention.hpp"
#include "krait/modules/embedding.hpp"
#include "krait/modules/mamba.hpp"
#include "krait/modules/mamba2.hpp"
#include "krait/modules/mlp.hpp"
#include "krait/modules/moe.hpp"
#include "krait/modules/norms.hpp"
#include "krait/modules/shared_transformer.hpp"

namespace krait {
inline namespace v0_1 {

/// A block that an application supplies. Two CustomSpecs are equal if they have the same kind and
/// parameters; `bind` is called once per layer, when the model is built and when it is planned.
struct CustomSpec {
  std::string kind;             ///< name of the kind of block, for messages and comparison
  std::string parameters = {};  ///< its sizes in words, for messages and comparison
  Function<Result<std::unique_ptr<const Block>>(const WeightScope&, Bookings&)> bind = {};
  Index n_expert = 0;  ///< width of the block's `Site::routing`, for statistics; 0: no router

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  /// None: what an application's block binds, tools do not know.
  std::vector<BlockMatrix> matrices(Index /*d_model*/) const { return {}; }

  friend bool operator==(const CustomSpec& a, const CustomSpec& b) {
    return a.kind == b.kind && a.parameters == b.parameters;
  }
};

/// The kinds of block. Each alternative is an AnyBlockSpec (modules/block_spec.hpp).
using BlockSpec = std::variant<MambaSpec, Mamba2Spec, AttentionSpec, MlpSpec, MoeSpec,
                               SharedTransformerSpec, CustomSpec>;

/// h = h + scale block(norm(h)), with the names of both in the checkpoint.
struct ResidualSpec {
  std::string norm_name;  ///< "norm"
  NormSpec norm;
  std::string block_name;  ///< "mixer"
  BlockSpec block;
  float scale = 1.0F;  ///< multiplies the block's output
  /// Whether it reads what the block before it in the layer read, instead of what that one left.
  /// Such neighbours with one name of a norm share the norm.
  bool beside = false;
  /// Whether its output is added to what the block after it in the layer reads, and not to h.
  bool aside = false;
  /// The layer whose tensors norm and block use; layers with the same one share them. -1: its own.
  Index weights_of = -1;
  friend bool operator==(const ResidualSpec&, const ResidualSpec&) = default;
};

/// One entry of `layers`: usually a single residual block.
struct LayerSpec {
  std::vector<ResidualSpec> residuals;
  friend bool operator==(const LayerSpec&, const LayerSpec&) = default;
};

/// A language model: embedding, a stack of layers, a final norm, a head.
struct ModelSpec {
  std::string family;  ///< "mamba"; free text for models built by hand
  std::string embedding_name = "embedding";
  EmbeddingSpec embedding;
  std::string layers_name = "layers";
  std::vector<LayerSpec> layers;
  std::string final_norm_name = "norm_f";
  NormSpec final_norm;
  bool tied_head = true;              ///< the head is the embedding's matrix
  std::string head_name = "lm_head";  ///< in the checkpoint, outside the prefix
  bool head_bias = false;             ///< <head_name>.bias exists
  float logit_scale = 1.0F;           ///< multiplies the logits

  Index d_model() const noexcept { return embedding.d_model; }
  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

/// Whether the sizes describe a model. Errors: bad_config, naming the first bad size.
KRAIT_API Result<void> validate(const ModelSpec& spec);

/// The model without these layers (from 0; repeats are the same), over the same weights: what reads
/// the layer before one of them reads what that layer read. A drafter for the whole, as in Zhang et
/// al., "Draft & Verify", 2023 (arXiv:2309.08168). Errors: bad_argument (no such layer, or none
/// left), unsupported (a SharedTransformerSpec).
KRAIT_API Result<ModelSpec> without_layers(const ModelSpec& spec, std::span<const Index> layers);

/// The weight matrices of the residual's block.
KRAIT_API std::vector<BlockMatrix> matrices(const ResidualSpec& residual, Index d_model);

/// Several lines: one per part, equal layers folded.
KRAIT_API std::string to_string(const ModelSpec& spec);

}  // namespace v0_1
}  // namespace krait
