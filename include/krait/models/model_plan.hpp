#pragma once

/// \file
/// ModelPlan: what a model needs, known before anything is allocated.

#include <string>
#include <vector>

#include "krait/core/bookings.hpp"
#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

/// Tensors, bytes and parameters of a model.
struct ModelPlan {
  std::vector<TensorUse> tensors;  ///< in the order of binding, the embedding first
  std::vector<StateTensor> state_tensors;
  std::vector<CacheTensor> cache_tensors;
  Index parameters = 0;                 ///< elements of all tensors; a tied head counts once
  Index active_parameters = 0;          ///< the same with only as many experts as a token uses
  Index bytes_per_token = 0;            ///< bytes of weights that one step reads
  Index in_place_bytes = 0;             ///< weights that are used in the mapped file
  Index owned_bytes = 0;                ///< weights that are converted or derived
  Index state_bytes = 0;                ///< recurrent state of a sequence; does not grow
  Index cache_bytes_per_token = 0;      ///< KV cache per token of a sequence; 0 without attention
  Index scratch_bytes_per_token = 0;    ///< working memory per token of a run
  Index workspace_bytes_per_token = 0;  ///< the part of it that a matrix product needs
  Index trail_bytes_per_token = 0;      ///< what is recorded per tentative token
  std::vector<std::string> unused;      ///< tensors of the checkpoint that the model does not use
  std::string tree;                     ///< the model as an indented tree
};

/// What a model would need with the weights of `store`, held as the options say; without a store,
/// with all tensors in f32. Reads and allocates no weight. Errors as `ModelBuilder::build`.
KRAIT_API Result<ModelPlan> plan_model(const ModelSpec& spec, const WeightStore* store = nullptr,
                                       const std::string& prefix = "",
                                       const WeightOptions& options = {});

}  // namespace v0_1
}  // namespace krait
