#include "training/frozen.hpp"

#include "krait/models/model_plan.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

constexpr std::string_view weight = "weight";

// The scope and the last word of a tensor's name.
std::pair<WeightScope, std::string> place_of(const WeightScope& root, const std::string& tensor) {
  const std::size_t dot = tensor.rfind('.');
  if (dot == tensor.npos) return {root, tensor};
  return {root.scope(tensor.substr(0, dot)), tensor.substr(dot + 1)};
}

}  // namespace

Result<Frozen> Frozen::bind(const ModelSpec& spec, const std::string& prefix,
                            const WeightStore& weights, const WeightOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, plan_model(spec, nullptr, prefix));
  WeightBinder binder(&weights, {.weights = options});
  Bookings bookings(spec.d_model());
  const std::string head = spec.head_name + ".";
  Frozen frozen;
  for (const TensorUse& use : plan.tensors) {
    // Embedding and head are the model's own.
    if (&use == &plan.tensors.front()) continue;
    const bool is_head = use.path.starts_with(head);
    // By names: layers that share tensors have them below paths of their own.
    const auto [scope, name] = place_of(WeightScope(binder, ""), use.name);
    const Shape& shape = use.shape;
    if (use.role == TensorRole::parameter) {
      KRAIT_ASSIGN_OR_RETURN(const auto floats, scope.get<float>(name, shape));
      frozen.values.emplace(use.path, floats.data());
      continue;
    }
    if (is_head || name != weight) continue;
    std::vector<Linear>& linears =
        frozen.matrices[use.path.substr(0, use.path.size() - weight.size() - 1)];
    if (shape.rank() == 3) {
      KRAIT_ASSIGN_OR_RETURN(linears,
                             Linear::bind_stack(scope, bookings, shape[0], shape[1], shape[2]));
    } else {
      KRAIT_ASSIGN_OR_RETURN(Linear one, Linear::bind(scope, bookings, shape[0], shape[1], false));
      linears.push_back(std::move(one));
    }
  }
  frozen.workspace = bookings.workspace_floats();
  frozen.owners = binder.take_blocks();
  return frozen;
}

const Linear* Frozen::find(std::string_view path, Index i) const {
  const auto found = matrices.find(path);
  return found == matrices.end() ? nullptr : &found->second[static_cast<std::size_t>(i)];
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
