#include "krait/modules/shared_transformer.hpp"

namespace krait {
inline namespace v0_1 {

Result<void> SharedTransformerSpec::validate(Index d_model) const {
  KRAIT_RETURN_IF_ERROR(check_extent("d_head", attention.d_head));
  KRAIT_RETURN_IF_ERROR(check_extent("2 · d_model", 2 * d_model));
  KRAIT_RETURN_IF_ERROR(attention.validate(d_model));
  KRAIT_RETURN_IF_ERROR(krait::validate(norm_name, NormSpec(norm)));
  return mlp.validate(d_model);
}

std::string SharedTransformerSpec::to_string(Index d_model) const {
  return "SharedTransformer (" + attention.to_string(d_model) + ", " +
         krait::to_string(NormSpec(norm)) + ", " + mlp.to_string(d_model) + ")";
}

Result<std::unique_ptr<const Block>> SharedTransformer::bind(const SharedTransformerSpec& spec,
                                                             const WeightScope& weights,
                                                             Bookings& bookings) {
  const Index d_model = bookings.d_model();
  auto block = std::make_unique<SharedTransformer>();
  KRAIT_ASSIGN_OR_RETURN(block->attention_,
                         spec.attention.bind(weights.scope(spec.attention_name), bookings));
  KRAIT_ASSIGN_OR_RETURN(block->norm_,
                         Norm::bind(spec.norm, weights.scope(spec.norm_name), d_model));
  KRAIT_ASSIGN_OR_RETURN(block->mlp_, spec.mlp.bind(weights.scope(spec.mlp_name), bookings));
  KRAIT_ASSIGN_OR_RETURN(block->linear_, Linear::bind(weights.beside(spec.linear_name), bookings,
                                                      d_model, d_model, false));
  block->output_ = bookings.scratch(d_model);
  return std::unique_ptr<const Block>(std::move(block));
}

Result<std::unique_ptr<const Block>> SharedTransformerSpec::bind(const WeightScope& weights,
                                                                 Bookings& bookings) const {
  return SharedTransformer::bind(*this, weights, bookings);
}

}  // namespace v0_1
}  // namespace krait
