#include "krait/models/builder.hpp"

#include <type_traits>
#include <utility>

#include "krait/core/cpu.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/io/printable.hpp"
#include "models/bind_parts.hpp"
#include "models/fingerprint.hpp"
#include "models/make_plan.hpp"

namespace krait {
inline namespace v0_1 {

Result<Model> build_model(const ModelSpec& spec, const WeightStore& weights,
                          const std::string& prefix, const WeightOptions& options) {
  static_assert(std::is_nothrow_move_constructible_v<Residual>);
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(check_isa_environment());
  KRAIT_RETURN_IF_ERROR(validate(spec));
  WeightBinder binder(&weights, {.weights = options, .materialize = true});
  Bookings bookings(spec.d_model());
  ModelTree tree;
  const bool converts = options.form != "file";
  KRAIT_ASSIGN_OR_RETURN(Model::Parts parts,
                         printable(bind_to(spec, binder, prefix, converts, bookings, tree)));

  KRAIT_ASSIGN_OR_RETURN(parts.plan, make_plan(binder, bookings, spec, tree));
  auto layout = std::make_shared<StateLayout>();
  layout->tensors = bookings.state_tensors();
  layout->floats = bookings.state_floats();
  layout->cache = bookings.cache_tensors();
  layout->cache_floats = bookings.cache_floats();
  for (const CacheTensor& tensor : layout->cache) {
    if (tensor.slot.dtype != DType::f32) layout->kv_dtype = tensor.slot.dtype;
  }
  layout->fingerprint = fingerprint(spec, binder, layout->kv_dtype);
  parts.state_layout = std::move(layout);
  parts.owners = binder.take_blocks();
  parts.owners.insert(parts.owners.end(), weights.owners().begin(), weights.owners().end());
  return Model(std::make_shared<const Model::Parts>(std::move(parts)));
}

}  // namespace v0_1
}  // namespace krait
