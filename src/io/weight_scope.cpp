#include "krait/io/weight_scope.hpp"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "krait/core/function_ref.hpp"

namespace krait::inline v0_1 {
namespace {

template <class From, class To>
void convert(const From* from, To* to, Index count) noexcept {
  for (Index i = 0; i < count; ++i) {
    From stored;  // the file may hold it at any address
    std::memcpy(&stored, reinterpret_cast<const std::byte*>(from) + i * Index{sizeof(From)},
                sizeof(From));
    const float value = to_float(stored);
    if constexpr (std::is_same_v<To, float>) {
      to[i] = value;
    } else if constexpr (std::is_same_v<To, bf16>) {
      to[i] = to_bf16(value);
    } else {
      to[i] = to_f16(value);
    }
  }
}

template <class From>
void convert_from(const From* from, DType to, void* out, Index count) noexcept {
  switch (to) {
    case DType::f16:
      convert(from, static_cast<f16*>(out), count);
      break;
    case DType::bf16:
      convert(from, static_cast<bf16*>(out), count);
      break;
    default:
      convert(from, static_cast<float*>(out), count);
  }
}

DType form_dtype(WeightForm form, DType stored) noexcept {
  switch (form) {
    case WeightForm::f32:
      return DType::f32;
    case WeightForm::f16:
      return DType::f16;
    case WeightForm::bf16:
      return DType::bf16;
    case WeightForm::file:
      break;
  }
  return stored;
}

bool is_aligned(const TensorView& tensor) noexcept {
  return reinterpret_cast<std::uintptr_t>(tensor.data) %
             static_cast<std::uintptr_t>(bytes_of(tensor.dtype)) ==
         0;
}

// Whether the extents agree, extents of 1 aside: conv1d.weight is [d_inner, 1, d_conv] in some
// files and [d_inner, d_conv] in others.
bool same_but_ones(const Shape& a, const Shape& b) noexcept {
  const auto next = [](const Shape& shape, int axis) {
    while (axis < shape.rank() && shape[axis] == 1) ++axis;
    return axis;
  };
  int i = next(a, 0);
  int j = next(b, 0);
  while (i < a.rank() && j < b.rank()) {
    if (a[i] != b[j]) return false;
    i = next(a, i + 1);
    j = next(b, j + 1);
  }
  return i == a.rank() && j == b.rank();
}

}  // namespace

void convert_floats(const TensorView& from, DType to, void* out) noexcept {
  switch (from.dtype) {
    case DType::f16:
      convert_from(static_cast<const f16*>(from.data), to, out, from.size());
      break;
    case DType::bf16:
      convert_from(static_cast<const bf16*>(from.data), to, out, from.size());
      break;
    default:
      convert_from(static_cast<const float*>(from.data), to, out, from.size());
  }
}

std::vector<std::string> WeightBinder::unused() const {
  std::vector<std::string> names;
  if (store_ == nullptr) return names;
  for (const auto& [name, entry] : store_->entries()) {
    if (!used_names_.contains(name)) names.push_back(name);
  }
  return names;
}

Result<TensorView> WeightBinder::find(const std::string& name, const Shape& shape) const {
  if (store_ == nullptr) return TensorView{nullptr, DType::f32, shape};
  const WeightStore::Entry* entry = store_->find(name);
  if (entry == nullptr) {
    return Error{
        ErrorCode::missing_tensor,
        fmt::format("[build] {}: expected a tensor {}, found none", name, to_string(shape))};
  }
  const TensorView& tensor = entry->tensor;
  const auto found = [&] {
    return fmt::format("{} {}{}{}{}", to_string(tensor.dtype), to_string(tensor.shape),
                       entry->file.empty() ? "" : " (", entry->file,
                       entry->file.empty() ? "" : ")");
  };
  if (!is_float(tensor.dtype)) {
    return Error{ErrorCode::dtype_mismatch,
                 fmt::format("[build] {}: expected f32, f16 or bf16 {}, found {}", name,
                             to_string(shape), found())};
  }
  if (!same_but_ones(tensor.shape, shape)) {
    return Error{ErrorCode::shape_mismatch,
                 fmt::format("[build] {}: expected {}, found {}", name, to_string(shape), found())};
  }
  return TensorView{tensor.data, tensor.dtype, shape};
}

void WeightBinder::record(std::string name, std::string path, const TensorView& held,
                          Placement placement) {
  used_names_.insert(name);
  uses_.push_back(
      {std::move(name), std::move(path), held.shape, held.dtype, held.bytes(), placement});
}

void* WeightBinder::allocate(Index bytes) {
  auto block = std::make_shared<AlignedBuffer<std::byte>>(bytes);
  void* data = block->data();
  blocks_.push_back(std::move(block));
  return data;
}

// The tensor in `dtype`: in place if the file has it so and its address allows, else a copy.
Result<TensorView> WeightBinder::hold(std::string name, std::string path, const Shape& shape,
                                      DType dtype, bool keep_dtype) {
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, find(name, shape));
  TensorView held{nullptr, keep_dtype ? form_dtype(options_.form, stored.dtype) : dtype, shape};
  if (held.dtype == stored.dtype && is_aligned(stored)) {
    held.data = stored.data;
    record(std::move(name), std::move(path), held, Placement::in_place);
    return held;
  }
  if (materialize()) {
    void* copy = allocate(held.bytes());
    convert_floats(stored, held.dtype, copy);
    held.data = copy;
  }
  record(std::move(name), std::move(path), held, Placement::converted);
  return held;
}

WeightScope::WeightScope(WeightBinder& binder, std::string_view prefix)
    : binder_(&binder), prefix_(prefix) {
  if (!prefix_.empty()) prefix_ += '.';
}

WeightScope WeightScope::scope(std::string_view name) const {
  return {*binder_, prefix_, path(name) + "."};
}

WeightScope WeightScope::scope(std::string_view name, Index index) const {
  return {*binder_, prefix_, fmt::format("{}.{}.", path(name), index)};
}

std::string WeightScope::path(std::string_view name) const { return path_ + std::string(name); }

std::string WeightScope::name(std::string_view name) const { return prefix_ + path(name); }

bool WeightScope::contains(std::string_view name) const {
  return binder_->store() != nullptr && binder_->store()->contains(this->name(name));
}

Result<TensorView> WeightScope::matrix(std::string_view name, Index rows, Index cols) const {
  return binder_->hold(this->name(name), path(name), Shape{rows, cols}, DType::f32, true);
}

Result<std::span<const float>> WeightScope::floats(std::string_view name,
                                                   const Shape& shape) const {
  KRAIT_ASSIGN_OR_RETURN(const TensorView held,
                         binder_->hold(this->name(name), path(name), shape, DType::f32, false));
  return std::span<const float>{static_cast<const float*>(held.data),
                                held.data == nullptr ? 0 : static_cast<std::size_t>(held.size())};
}

Result<std::span<const float>> WeightScope::derive(
    std::string_view name, const Shape& shape, Index size,
    FunctionRef<void(std::span<const float> source, std::span<float> result)> fill) const {
  const std::string full_name = this->name(name);
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, binder_->find(full_name, shape));
  TensorView held{nullptr, DType::f32, shape};
  std::span<float> result;
  if (materialize()) {
    AlignedBuffer<float> source(stored.size());
    convert_floats(stored, DType::f32, source.data());
    auto* data = static_cast<float*>(binder_->allocate(size * bytes_of(DType::f32)));
    result = {data, static_cast<std::size_t>(size)};
    fill(source.span(), result);
    held.data = data;
  }
  binder_->record(full_name, path(name), held, Placement::derived);
  binder_->uses_.back().bytes = size * bytes_of(DType::f32);
  return std::span<const float>(result);
}

}  // namespace krait::inline v0_1
