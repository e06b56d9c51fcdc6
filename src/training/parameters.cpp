#include "krait/training/parameters.hpp"

#include <fmt/format.h>

#include "krait/core/bookings.hpp"
#include "krait/models/model_plan.hpp"
#include "krait/weights/binder.hpp"
#include "krait/weights/convert.hpp"
#include "training/frozen.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Matrices of products (a router's too) and embeddings; not convolutions, A_log, D, biases, norms.
bool decays(const TensorUse& use) {
  return use.role == TensorRole::matrix || (use.shape.rank() == 2 && use.path.ends_with(".weight"));
}

}  // namespace

Parameters::Parameters(const std::vector<TensorUse>& uses) {
  for (const TensorUse& use : uses) {
    by_path_.emplace(use.path, all_.size());
    all_.push_back({.name = use.name,
                    .path = use.path,
                    .shape = use.shape,
                    .offset = floats_,
                    .is_matrix = use.role == TensorRole::matrix,
                    .decays = decays(use)});
    floats_ += round_up(use.shape.size(), 16);
  }
}

Result<Parameters> Parameters::of(const ModelSpec& spec, const std::string& prefix) {
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, plan_model(spec, nullptr, prefix));
  return Parameters(plan.tensors);
}

Result<Parameters> Parameters::of(const BlockSpec& block, Index d_model) {
  KRAIT_RETURN_IF_ERROR(
      std::visit([&](const auto& kind) { return kind.validate(d_model); }, block));
  WeightBinder binder(nullptr, {});
  Bookings bookings(d_model);
  const bool is_wide = std::visit([](const auto& kind) { return reads_embedding(kind); }, block);
  if (is_wide) bookings.set_d_input(2 * d_model);
  const WeightScope root(binder, "");
  KRAIT_RETURN_IF_ERROR(
      std::visit([&](const auto& kind) { return kind.bind(root, bookings); }, block));
  return Parameters(binder.uses());
}

const Parameter* Parameters::find(std::string_view path) const {
  const auto it = by_path_.find(path);
  return it == by_path_.end() ? nullptr : &all_[it->second];
}

Result<void> Parameters::read(const WeightStore& weights, std::span<float> values) const {
  for (const Parameter& parameter : all_) {
    const WeightStore::Entry* entry = weights.find(parameter.name);
    if (entry == nullptr) {
      return Error{ErrorCode::missing_tensor,
                   fmt::format("[training] {}: expected a tensor of floats {}, found none",
                               parameter.name, to_string(parameter.shape))};
    }
    const TensorView& tensor = entry->tensor;
    if (tensor.shape != parameter.shape) {
      return Error{ErrorCode::shape_mismatch,
                   fmt::format("[training] {}: expected {}, found {} ({})", parameter.name,
                               to_string(parameter.shape), to_string(tensor.shape), entry->file)};
    }
    if (!is_float(tensor.dtype)) {
      return Error{ErrorCode::dtype_mismatch,
                   fmt::format("[training] {}: expected floats, found {} ({})", parameter.name,
                               to_string(tensor.dtype), entry->file)};
    }
    convert_floats(tensor, DType::f32, values.data() + parameter.offset);
  }
  return {};
}

WeightStore Parameters::store(const float* values) const {
  WeightStore store;
  for (const Parameter& parameter : all_) {
    store.add(parameter.name, {values + parameter.offset, DType::f32, parameter.shape}, nullptr);
  }
  return store;
}

ParameterScope ParameterScope::scope(std::string_view name) const {
  ParameterScope below = *this;
  below.path_ += name;
  below.path_ += '.';
  return below;
}

ParameterScope ParameterScope::scope(std::string_view name, Index index) const {
  return scope(name).scope(std::to_string(index));
}

ParameterScope ParameterScope::shared(std::string_view owner) const {
  ParameterScope scope = *this;
  scope.owner_ = std::string(owner) + '.';
  scope.own_ = path_.size();
  return scope;
}

ParameterScope ParameterScope::beside(std::string_view name) const {
  ParameterScope scope = *this;
  scope.owner_.clear();
  const std::size_t dot = path().rfind('.');
  scope.path_ = dot == std::string_view::npos ? std::string() : path_.substr(0, dot + 1);
  return scope.scope(name);
}

std::string ParameterScope::owner_path() const {
  return owner_.empty() ? std::string() : owner_ + std::string(path().substr(own_));
}

bool ParameterScope::is_at(const std::string& path) const {
  return frozen_ == nullptr ? parameters_->find(path) != nullptr : frozen_->values.contains(path);
}

std::string ParameterScope::place(std::string_view name) const {
  std::string path = path_ + std::string(name);
  if (owner_.empty() || is_at(path)) return path;
  return owner_ + path.substr(own_);
}

bool ParameterScope::contains(std::string_view name) const { return is_at(place(name)); }

const Parameter& ParameterScope::at(std::string_view name) const {
  const std::string path = place(name);
  const Parameter* found = parameters_->find(path);
  check_contract(found != nullptr, "[training] " + path + ": expected a parameter, found none");
  return *found;
}

const float* ParameterScope::value(std::string_view name) const {
  if (frozen_ == nullptr) return values_ + at(name).offset;
  const std::string path = place(name);
  const auto found = frozen_->values.find(path);
  check_contract(found != frozen_->values.end(),
                 "[training] " + path + ": expected a parameter, found none");
  return found->second;
}

float* ParameterScope::gradient(std::string_view name) const {
  if (gradients_ == nullptr || frozen_ != nullptr) return nullptr;
  return gradients_ + at(name).offset;
}

}  // namespace v0_1
}  // namespace krait
