#include "krait/models/model_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "krait/io/printable.hpp"
#include "models/bind_parts.hpp"
#include "models/make_plan.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// The share of `whole` elements or bytes of a tensor that one token reads.
Index active_part(Index whole, const TensorUse& use) {
  return static_cast<Index>(std::llround(static_cast<double>(whole) * use.active));
}

}  // namespace

Result<ModelPlan> make_plan(const WeightBinder& binder, const Bookings& bookings,
                            const ModelSpec& spec, const ModelTree& tree) {
  ModelPlan result;
  result.tensors = binder.uses();
  result.state_tensors = bookings.state_tensors();
  result.cache_tensors = bookings.cache_tensors();
  result.cache_bytes_per_token = bookings.cache_floats() * bytes_of(DType::f32);
  result.state_bytes = bookings.state_floats() * bytes_of(DType::f32);
  result.scratch_bytes_per_token = (bookings.scratch_layout().floats_per_token() +
                                    bookings.workspace_floats() + spec.d_model()) *
                                   bytes_of(DType::f32);
  result.workspace_bytes_per_token = bookings.workspace_floats() * bytes_of(DType::f32);
  result.trail_bytes_per_token = bookings.trail_layout().floats_per_token() * bytes_of(DType::f32);
  result.unused = binder.unused();
  constexpr Index most = Index{1} << 60;  // more could overflow in sums
  for (const TensorUse& use : result.tensors) {
    const Index bytes = result.in_place_bytes + result.owned_bytes;
    if (use.shape.size() > most - result.parameters || use.bytes > most - bytes) {
      return bad_spec("weights", fmt::format("at most {} bytes", most), "more");
    }
    result.parameters += use.shape.size();
    result.active_parameters += active_part(use.shape.size(), use);
    result.bytes_per_token += active_part(use.bytes, use);
    (use.placement == Placement::in_place ? result.in_place_bytes : result.owned_bytes) +=
        use.bytes;
  }
  // A token reads one row of the embedding, unless the matrix is also the head.
  const TensorUse& embedding = result.tensors.front();
  const bool is_head_own =
      std::any_of(result.tensors.begin() + 1, result.tensors.end(),
                  [&](const TensorUse& use) { return use.path.starts_with(spec.head_name + "."); });
  if (is_head_own) {
    result.bytes_per_token -= embedding.bytes - embedding.bytes / spec.embedding.rows();
  }
  result.tree = tree.text(result, spec);
  return result;
}

Result<ModelPlan> plan_model(const ModelSpec& spec, const WeightStore* store,
                             const std::string& prefix, const WeightOptions& options) {
  KRAIT_RETURN_IF_ERROR(validate(spec));
  WeightBinder binder(store, {.weights = options, .materialize = false});
  Bookings bookings(spec.d_model());
  ModelTree tree;
  const auto bound = printable(bind_to(spec, binder, prefix, false, bookings, tree));
  if (!bound) return bound.error();
  return make_plan(binder, bookings, spec, tree);
}

}  // namespace v0_1
}  // namespace krait
