#include "krait/tools/cost.hpp"

namespace krait {
inline namespace v0_1 {

TokenCost token_cost(const Model& model) {
  const ModelPlan& plan = model.plan();
  const std::string head = model.spec().head_name + ".weight";
  TokenCost cost{.weights_bytes = plan.bytes_per_token, .state_bytes = plan.state_bytes};
  // The first is the embedding, of which a token takes one row.
  for (std::size_t i = 1; i < plan.tensors.size(); ++i) {
    const TensorUse& use = plan.tensors[i];
    if (use.role == TensorRole::matrix && use.path != head) {
      cost.prompt_flop += 2.0 * static_cast<double>(use.shape.size()) * use.active;
    }
  }
  // Whichever matrix the head is: the embedding's or its own.
  cost.decode_flop = cost.prompt_flop + 2.0 * static_cast<double>(model.vocab_padded()) *
                                            static_cast<double>(model.d_model());
  return cost;
}

}  // namespace v0_1
}  // namespace krait
