#include "training/trained_model.hpp"

#include <algorithm>

#include "models/bind_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

ModelSpec trained_spec(const CheckpointPlan& plan) {
  ModelSpec spec = plan.config.spec;
  if (is_embedding_in_head(spec, &plan.checkpoint.weights, plan.config.prefix)) return spec;
  const std::string head = spec.head_name + ".weight";
  if (std::ranges::find(plan.plan.tensors, head, &TensorUse::path) != plan.plan.tensors.end()) {
    spec.tied_head = false;
  }
  return spec;
}

Result<WeightStore> trained_weights(const ModelSpec& spec, const std::string& prefix,
                                    const WeightStore& stored) {
  WeightStore weights = stored;
  const WeightStore::Entry* head = stored.find(spec.head_name + ".weight");
  if (head == nullptr || !is_embedding_in_head(spec, &stored, prefix)) return weights;
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan names, plan_model(spec, nullptr, prefix));
  weights.add(names.tensors.front().name, head->tensor, nullptr);
  return weights;
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
