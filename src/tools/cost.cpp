#include "krait/tools/cost.hpp"

namespace krait {
inline namespace v0_1 {

TokenCost token_cost(const Model& model) {
  const ModelPlan& plan = model.plan();
  TokenCost cost{.weights_bytes = plan.bytes_per_token, .state_bytes = plan.state_bytes};
  double head = 0.0;
  double embedding = 0.0;  // of which a token takes one row, unless it is the head
  for (const TensorUse& use : plan.tensors) {
    if (use.role != TensorRole::matrix) continue;
    const double flop = 2.0 * static_cast<double>(use.shape.size()) * use.active;
    if (use.path.starts_with(model.spec().head_name + ".")) {
      head += flop;
    } else if (use.path.starts_with(model.spec().embedding_name + ".")) {
      embedding += flop;
    } else {
      cost.prompt_flop += flop;
    }
  }
  cost.decode_flop = cost.prompt_flop + (head > 0.0 ? head : embedding);
  return cost;
}

}  // namespace v0_1
}  // namespace krait
