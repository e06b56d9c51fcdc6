#pragma once

#include "krait/models/model_plan.hpp"
#include "models/model_tree.hpp"

namespace krait {
inline namespace v0_1 {

/// Adds up what a bound model needs. Errors: bad_config if it is more than can be counted.
Result<ModelPlan> make_plan(const WeightBinder& binder, const Bookings& bookings,
                            const ModelSpec& spec, const ModelTree& tree);

}  // namespace v0_1
}  // namespace krait
