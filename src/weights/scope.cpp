#include "krait/weights/scope.hpp"

#include <fmt/format.h>

#include "krait/core/aligned_buffer.hpp"
#include "krait/weights/convert.hpp"
#include "weights/adapted.hpp"

namespace krait {
inline namespace v0_1 {

WeightScope::WeightScope(WeightBinder& binder, std::string_view prefix)
    : binder_(&binder), prefix_(prefix) {
  if (!prefix_.empty()) prefix_ += '.';
}

WeightScope WeightScope::scope(std::string_view name) const { return below(path(name) + "."); }

WeightScope WeightScope::scope(std::string_view name, Index index) const {
  return below(fmt::format("{}.{}.", path(name), index));
}

WeightScope WeightScope::factor(std::string_view name) const {
  WeightScope factor = scope(name);
  factor.is_factor_ = true;
  return factor;
}

std::string WeightScope::path(std::string_view name) const {
  if (is_factor_ && name == "weight") return path_.substr(0, path_.size() - 1);
  return path_ + std::string(name);
}

std::string WeightScope::name(std::string_view name) const {
  return prefix_ + (owner_.empty() ? path(name) : owner_ + path(name).substr(own_));
}

WeightScope WeightScope::shared(const WeightScope& owner) const {
  WeightScope scope = *this;
  scope.owner_ = owner.path_;
  scope.own_ = path_.size();
  return scope;
}

WeightScope WeightScope::beside(std::string_view name) const {
  WeightScope scope = *this;
  scope.owner_.clear();
  // Up to the dot in front of this scope's last word.
  const std::size_t dot = path_.size() < 2 ? path_.npos : path_.rfind('.', path_.size() - 2);
  scope.path_ = dot == path_.npos ? std::string() : path_.substr(0, dot + 1);
  return scope.scope(name);
}

std::shared_ptr<const WeightMatrix>* WeightScope::shared_matrix() const {
  return owner_.empty() ? nullptr : &binder_->shared_matrices_[name("")];
}

// The name without its final dot.
std::string WeightScope::here() const {
  std::string place = name("");
  if (!place.empty()) place.pop_back();
  return place;
}

bool WeightScope::contains(std::string_view name) const {
  return binder_->store() != nullptr && binder_->store()->contains(this->name(name));
}

Result<TensorView> WeightScope::matrix(std::string_view name, const Shape& shape,
                                       std::optional<DType> dtype) const {
  return binder_->hold(this->name(name), path(name), shape, dtype, TensorRole::matrix, active_);
}

const WeightOptions& WeightScope::options() const noexcept { return binder_->options(); }

const TensorView* WeightScope::stored(std::string_view name) const {
  const WeightStore* store = binder_->store();
  const WeightStore::Entry* entry = store == nullptr ? nullptr : store->find(this->name(name));
  return entry == nullptr ? nullptr : &entry->tensor;
}

std::string_view WeightScope::metadata(std::string_view key) const {
  const WeightStore* store = binder_->store();
  if (store == nullptr) return {};
  const auto own = store->metadata.find(fmt::format("{}:{}", key, here()));
  return own == store->metadata.end() ? std::string_view() : std::string_view(own->second);
}

std::string_view WeightScope::stored_form() const {
  const std::string_view own = metadata(weight_form_key);
  const WeightStore* store = binder_->store();
  if (!own.empty() || store == nullptr) return own;
  const auto all = store->metadata.find(weight_form_key);
  return all != store->metadata.end() ? std::string_view(all->second) : std::string_view();
}

namespace {

// Calls body(name, tensor) for every tensor that may be a part of a matrix.
template <class Body>
void for_parts(const WeightStore& store, std::string_view matrix, Body&& body) {
  const std::string prefix = fmt::format("{}{}", matrix, matrix.empty() ? "" : ".");
  const auto& entries = store.entries();
  for (auto it = entries.lower_bound(prefix); it != entries.end(); ++it) {
    const std::string_view name = it->first;
    if (!name.starts_with(prefix)) break;
    const std::string_view part = name.substr(prefix.size());
    if (part == "weight" || part == "bias" || part.find('.') != part.npos) continue;
    if (is_part_of_adapter(part)) continue;
    body(name, it->second.tensor);
  }
}

}  // namespace

bool has_parts(const WeightStore& store, std::string_view name) {
  bool has = false;
  const auto found = [&](std::string_view, const TensorView&) { has = true; };
  for_parts(store, name, found);
  for (const char* factor : {"u", "v"}) for_parts(store, fmt::format("{}.{}", name, factor), found);
  return has;
}

bool WeightScope::has_parts() const {
  return is_stored() && krait::has_parts(*binder_->store(), here());
}

std::string WeightScope::describe_parts() const {
  std::string text;
  if (!is_stored()) return text;
  int shown = 0;
  for_parts(*binder_->store(), here(), [&](std::string_view name, const TensorView& tensor) {
    if (++shown > 5) {
      if (shown == 6) text += ", …";
      return;
    }
    text += fmt::format("{}{} {} {}", text.empty() ? "" : ", ", name, to_string(tensor.dtype),
                        to_string(tensor.shape));
  });
  return text;
}

// Lists a matrix in the plan, under the name "weight".
void WeightScope::record_matrix(std::string_view form, const Shape& matrix, Placement placement,
                                std::vector<TensorView> parts) const {
  binder_->record({.name = name("weight"),
                   .path = path("weight"),
                   .shape = matrix,
                   .form = std::string(form),
                   .placement = placement,
                   .role = TensorRole::matrix,
                   .active = active_,
                   .parts = std::move(parts)});
}

Result<std::vector<TensorView>> WeightScope::stored_parts(
    std::string_view form, const Shape& matrix, const std::vector<WeightPart>& parts) const {
  std::vector<TensorView> found;
  for (const WeightPart& part : parts) {
    KRAIT_ASSIGN_OR_RETURN(const TensorView tensor,
                           binder_->find_part(name(part.name), part.dtype, part.shape));
    found.push_back(tensor);
  }
  record_matrix(form, matrix, Placement::in_place, found);
  return found;
}

Result<std::vector<TensorView>> WeightScope::encoded_parts(std::string_view form,
                                                           const Shape& matrix,
                                                           const std::vector<WeightPart>& parts,
                                                           Encode encode) const {
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, binder_->find(name("weight"), matrix));
  // The f32 copy of an f64 tensor lives until the parts are made.
  const std::shared_ptr<const void> source = std::move(binder_->narrowed_);
  std::vector<TensorView> made;
  for (const WeightPart& part : parts) {
    TensorView tensor{nullptr, part.dtype, part.shape};
    if (materialize()) tensor.data = binder_->allocate(tensor.bytes());
    made.push_back(tensor);
  }
  if (materialize()) {
    if (Result<void> done = encode(stored, made); !done) {
      return Error{done.error().code,
                   fmt::format("[build] {}: {}", name("weight"), done.error().message)};
    }
  }
  record_matrix(form, matrix, Placement::converted, made);
  return made;
}

Result<TensorView> WeightScope::rearranged_part(std::string_view form, const Shape& matrix,
                                                const WeightPart& stored, const WeightPart& held,
                                                Rearrange rearrange) const {
  KRAIT_ASSIGN_OR_RETURN(const TensorView source,
                         binder_->find_part(name(stored.name), stored.dtype, stored.shape));
  TensorView made{nullptr, held.dtype, held.shape};
  if (materialize()) {
    auto* data = static_cast<std::byte*>(binder_->allocate(made.bytes()));
    KRAIT_RETURN_IF_ERROR(rearrange(source, data));
    made.data = data;
  }
  record_matrix(form, matrix, Placement::converted, {made});
  return made;
}

Result<TensorView> WeightScope::decoded(const Shape& matrix, DType dtype,
                                        FunctionRef<Result<void>()> bind, DecodeRow decode) const {
  const auto uses = static_cast<std::ptrdiff_t>(binder_->uses_.size());
  const auto blocks = static_cast<std::ptrdiff_t>(binder_->blocks_.size());
  KRAIT_RETURN_IF_ERROR(bind());
  // The model does not keep what `bind` recorded and copied; the copies live until rows are
  // decoded.
  binder_->uses_.erase(binder_->uses_.begin() + uses, binder_->uses_.end());
  auto& kept = binder_->blocks_;
  const std::vector<std::shared_ptr<const void>> copies(kept.begin() + blocks, kept.end());
  kept.erase(kept.begin() + blocks, kept.end());
  TensorView held{nullptr, dtype, matrix};
  if (materialize()) {
    auto* data = static_cast<std::byte*>(binder_->allocate(held.bytes()));
    const Index cols = matrix[matrix.rank() - 1];
    AlignedBuffer<float> row(cols);
    for (Index r = 0; r < matrix.size() / cols; ++r) {
      decode(r, row.span());
      convert_floats({row.data(), DType::f32, {cols}}, held.dtype,
                     data + r * cols * bytes_of(held.dtype));
    }
    held.data = data;
  }
  record_matrix(to_string(held.dtype), matrix, Placement::converted, {held});
  return held;
}

Result<std::span<const float>> WeightScope::floats(std::string_view name,
                                                   const Shape& shape) const {
  TensorView held;
  const auto shared = binder_->shared_tensors_.find(this->name(name));
  if (!owner_.empty() && shared != binder_->shared_tensors_.end() &&
      shared->second.shape == shape) {
    held = shared->second;
  } else {
    KRAIT_ASSIGN_OR_RETURN(held, binder_->hold(this->name(name), path(name), shape, DType::f32,
                                               TensorRole::parameter, active_));
    if (!owner_.empty()) binder_->shared_tensors_.emplace(this->name(name), held);
  }
  return std::span<const float>{static_cast<const float*>(held.data),
                                held.data == nullptr ? 0 : static_cast<std::size_t>(held.size())};
}

Result<std::span<const float>> WeightScope::derive(
    std::string_view name, const Shape& shape, Index size,
    FunctionRef<void(std::span<const float> source, std::span<float> result)> fill) const {
  const std::string full_name = this->name(name);
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, binder_->find(full_name, shape));
  std::span<float> result;
  if (materialize()) {
    AlignedBuffer<float> source(stored.size());
    convert_floats(stored, DType::f32, source.data());
    auto* data = static_cast<float*>(binder_->allocate(size * bytes_of(DType::f32)));
    result = {data, static_cast<std::size_t>(size)};
    fill(source.span(), result);
    if (binder_->narrowed_ != nullptr) binder_->blocks_.push_back(std::move(binder_->narrowed_));
  }
  binder_->record({.name = full_name,
                   .path = path(name),
                   .shape = shape,
                   .form = std::string(to_string(DType::f32)),
                   .placement = Placement::derived,
                   .active = active_,
                   .parts = {{stored.data, stored.dtype, shape}}});
  binder_->uses_.back().bytes = size * bytes_of(DType::f32);
  return std::span<const float>(result);
}

}  // namespace v0_1
}  // namespace krait
