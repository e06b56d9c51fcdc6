#include "krait/weights/binder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "io/place_tensor.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/weights/convert.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Whether the shapes agree apart from extents of 1: conv1d.weight is [d_inner, 1, d_conv] in some
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

std::vector<std::string> WeightBinder::unused() const {
  std::vector<std::string> names;
  if (store_ == nullptr) return names;
  std::vector<std::string> used = used_names_;
  std::ranges::sort(used);
  for (const auto& [name, entry] : store_->entries()) {
    if (!std::ranges::binary_search(used, name)) names.push_back(name);
  }
  for (const auto& [name, tensor] : store_->unreadable()) names.push_back(name);
  return names;
}

// A copy in the narrower type `dtype`, in which every element must be representable. The binder
// keeps it until the next tensor is looked up; what the model needs goes to `blocks_`.
Result<TensorView> WeightBinder::narrow(const std::string& name, const TensorView& stored,
                                        DType dtype) {
  auto block = std::make_shared<AlignedBuffer<std::byte>>(stored.size() * bytes_of(dtype));
  const TensorView copy{block->data(), dtype, stored.shape};
  convert_floats(stored, dtype, block->data());
  if (const auto bad = find_not_finite(copy)) {
    const WeightStore::Entry* entry = store_->find(name);
    return Error{
        ErrorCode::bad_format,
        fmt::format(
            "[build] {}: expected {}{}", name, not_representable(stored, *bad, to_string(dtype)),
            entry == nullptr || entry->file.empty() ? "" : fmt::format(" ({})", entry->file))};
  }
  narrowed_ = std::move(block);
  return copy;
}

Result<TensorView> WeightBinder::find(const std::string& name, const Shape& shape) {
  narrowed_.reset();
  if (store_ == nullptr) return TensorView{nullptr, DType::f32, shape};
  const WeightStore::Entry* entry = store_->find(name);
  if (entry == nullptr) {
    const auto other = store_->unreadable().find(name);
    if (other != store_->unreadable().end()) {
      return Error{
          ErrorCode::dtype_mismatch,
          fmt::format("[build] {}: expected f32, f16, bf16 or f64 {}, found {}{}", name,
                      to_string(shape), other->second.what,
                      other->second.file.empty() ? "" : fmt::format(" ({})", other->second.file))};
    }
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
  if (!is_float(tensor.dtype) && tensor.dtype != DType::f64) {
    return Error{ErrorCode::dtype_mismatch,
                 fmt::format("[build] {}: expected f32, f16, bf16 or f64 {}, found {}", name,
                             to_string(shape), found())};
  }
  if (!same_but_ones(tensor.shape, shape)) {
    return Error{ErrorCode::shape_mismatch,
                 fmt::format("[build] {}: expected {}, found {}", name, to_string(shape), found())};
  }
  if (tensor.dtype != DType::f64) return TensorView{tensor.data, tensor.dtype, shape};
  // Nothing computes in f64: a lookup of such a tensor gives it in f32.
  if (!materialize()) return TensorView{nullptr, DType::f32, shape};
  return narrow(name, {tensor.data, tensor.dtype, shape}, DType::f32);
}

// A part of a coded matrix, of exactly this type and shape; copied if its address is not aligned.
Result<TensorView> WeightBinder::find_part(const std::string& name, DType dtype,
                                           const Shape& shape) {
  const WeightStore::Entry* entry = store_->find(name);
  if (entry == nullptr) {
    return Error{ErrorCode::missing_tensor, fmt::format("[build] {}: expected {} {}, found none",
                                                        name, to_string(dtype), to_string(shape))};
  }
  TensorView tensor = entry->tensor;
  if (tensor.dtype != dtype || !(tensor.shape == shape)) {
    return Error{tensor.dtype != dtype ? ErrorCode::dtype_mismatch : ErrorCode::shape_mismatch,
                 fmt::format("[build] {}: expected {} {}, found {} {}", name, to_string(dtype),
                             to_string(shape), to_string(tensor.dtype), to_string(tensor.shape))};
  }
  used_names_.push_back(name);
  if (materialize() && !is_element_aligned(tensor.data, tensor.dtype)) {
    void* copy = allocate(tensor.bytes());
    std::memcpy(copy, tensor.data, static_cast<std::size_t>(tensor.bytes()));
    tensor.data = copy;
  }
  return tensor;
}

void WeightBinder::record(TensorUse use) {
  used_names_.push_back(use.name);
  for (const TensorView& part : use.parts) use.bytes += part.bytes();
  uses_.push_back(std::move(use));
}

void* WeightBinder::allocate(Index bytes) {
  auto block = std::make_shared<AlignedBuffer<std::byte>>(bytes);
  void* data = block->data();
  blocks_.push_back(std::move(block));
  return data;
}

// The tensor in `dtype`, by default the stored one: in place if the file has that type at an
// aligned address, otherwise a copy.
Result<TensorView> WeightBinder::hold(std::string name, std::string path, const Shape& shape,
                                      std::optional<DType> dtype, TensorRole role, double active) {
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, find(name, shape));
  TensorView held{nullptr, dtype.value_or(stored.dtype), shape};
  const WeightStore::Entry* entry = store_ == nullptr ? nullptr : store_->find(name);
  const bool was_narrowed = entry != nullptr && entry->tensor.dtype == DType::f64;
  const bool is_in_place =
      held.dtype == stored.dtype && is_element_aligned(stored.data, stored.dtype) && !was_narrowed;
  if (is_in_place) {
    held.data = stored.data;
  } else if (materialize() && bytes_of(held.dtype) < bytes_of(DType::f32) &&
             held.dtype != stored.dtype) {
    const std::shared_ptr<const void> source = std::move(narrowed_);
    KRAIT_ASSIGN_OR_RETURN(held, narrow(name, stored, held.dtype));
    blocks_.push_back(std::move(narrowed_));
  } else if (materialize() && was_narrowed) {
    held.data = stored.data;
    blocks_.push_back(std::move(narrowed_));
  } else if (materialize()) {
    void* copy = allocate(held.bytes());
    convert_floats(stored, held.dtype, copy);
    held.data = copy;
  }
  record({.name = std::move(name),
          .path = std::move(path),
          .shape = shape,
          .form = std::string(to_string(held.dtype)),
          .placement = is_in_place ? Placement::in_place : Placement::converted,
          .role = role,
          .active = active,
          .parts = {held}});
  return held;
}

}  // namespace v0_1
}  // namespace krait
