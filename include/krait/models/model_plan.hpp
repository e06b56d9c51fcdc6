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
  std::vector<TensorUse> tensors;  ///< in order of binding
  std::vector<StateTensor> state_tensors;
  std::vector<CacheTensor> cache_tensors;
  Index parameters = 0;               ///< elements of all tensors, a shared one once
  Index active_parameters = 0;        ///< the same without the experts that a token is not sent to
  Index bytes_per_token = 0;          ///< weights that one step reads, as held in memory
  Index in_place_bytes = 0;           ///< weights used where the file has them
  Index owned_bytes = 0;              ///< weights converted or derived
  Index state_bytes = 0;              ///< one sequence, constant for ever
  Index cache_bytes_per_token = 0;    ///< what every token adds to it; 0 in recurrent models
  Index scratch_bytes_per_token = 0;  ///< working memory for each token of a run
  Index trail_bytes_per_token = 0;    ///< recorded of each token of a verification
  std::vector<std::string> unused;    ///< tensors of the checkpoint that the model does not use
  std::string tree;                   ///< the model as an indented tree
};

/// The plan of a model with the weights of `store` held as the options say, or, without a store,
/// of the spec alone (all tensors in f32). Allocates no weight. Errors as `ModelBuilder::build`.
KRAIT_API Result<ModelPlan> plan_model(const ModelSpec& spec, const WeightStore* store = nullptr,
                                       const std::string& prefix = "",
                                       const WeightOptions& options = {});

}  // namespace v0_1
}  // namespace krait
