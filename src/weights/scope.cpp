#include "krait/weights/scope.hpp"

#include <fmt/format.h>

#include "krait/core/aligned_buffer.hpp"
#include "krait/weights/convert.hpp"

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

std::string WeightScope::path(std::string_view name) const { return path_ + std::string(name); }

std::string WeightScope::name(std::string_view name) const { return prefix_ + path(name); }

bool WeightScope::contains(std::string_view name) const {
  return binder_->store() != nullptr && binder_->store()->contains(this->name(name));
}

Result<TensorView> WeightScope::matrix(std::string_view name, const Shape& shape) const {
  return binder_->hold(this->name(name), path(name), shape, DType::f32, TensorRole::matrix,
                       active_);
}

const WeightOptions& WeightScope::options() const noexcept { return binder_->options_.weights; }

const Shape* WeightScope::stored_shape(std::string_view name) const {
  const WeightStore* store = binder_->store();
  const WeightStore::Entry* entry = store == nullptr ? nullptr : store->find(this->name(name));
  return entry == nullptr ? nullptr : &entry->tensor.shape;
}

Result<PackedMatrix> WeightScope::find_packed(const Shape& codes, const Shape& scales) const {
  PackedMatrix packed;
  KRAIT_ASSIGN_OR_RETURN(packed.codes, binder_->find_part(name("codes"), DType::u8, codes));
  KRAIT_ASSIGN_OR_RETURN(packed.scales, binder_->find_part(name("scales"), DType::f16, scales));
  return packed;
}

// A matrix that the checkpoint has, or could have, under the name "weight".
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

Result<PackedMatrix> WeightScope::packed(std::string_view form, const Shape& matrix,
                                         const Shape& codes, const Shape& scales) const {
  KRAIT_ASSIGN_OR_RETURN(const PackedMatrix packed, find_packed(codes, scales));
  record_matrix(form, matrix, Placement::in_place, {packed.codes, packed.scales});
  return packed;
}

Result<PackedMatrix> WeightScope::pack(std::string_view form, const Shape& matrix,
                                       const Shape& codes, const Shape& scales, Pack pack) const {
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, binder_->find(name("weight"), matrix));
  PackedMatrix packed{{nullptr, DType::u8, codes}, {nullptr, DType::f16, scales}};
  if (materialize()) {
    auto* code = static_cast<std::uint8_t*>(binder_->allocate(packed.codes.bytes()));
    auto* scale = static_cast<f16*>(binder_->allocate(packed.scales.bytes()));
    if (Result<void> done = pack(stored, code, scale); !done) {
      return Error{done.error().code,
                   fmt::format("[build] {}: {}", name("weight"), done.error().message)};
    }
    packed.codes.data = code;
    packed.scales.data = scale;
  }
  record_matrix(form, matrix, Placement::converted, {packed.codes, packed.scales});
  return packed;
}

Result<TensorView> WeightScope::unpacked(const Shape& matrix, const Shape& codes,
                                         const Shape& scales, UnpackRow unpack) const {
  KRAIT_ASSIGN_OR_RETURN(const PackedMatrix packed, find_packed(codes, scales));
  TensorView held{nullptr, WeightBinder::form_dtype(options().form, DType::f32), matrix};
  if (materialize()) {
    auto* data = static_cast<std::byte*>(binder_->allocate(held.bytes()));
    const Index cols = matrix[matrix.rank() - 1];
    AlignedBuffer<float> row(cols);
    for (Index r = 0; r < matrix.size() / cols; ++r) {
      unpack(packed, r, row.span());
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
  KRAIT_ASSIGN_OR_RETURN(const TensorView held,
                         binder_->hold(this->name(name), path(name), shape, DType::f32,
                                       TensorRole::parameter, active_));
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
