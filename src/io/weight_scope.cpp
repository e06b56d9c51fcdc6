#include "krait/io/weight_scope.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "krait/core/function_ref.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

float widened(auto value) noexcept { return to_float(value); }

// Rounds to nearest even; what is beyond the largest float becomes infinite.
float widened(double value) noexcept { return static_cast<float>(value); }

template <class From, class To>
void convert(const From* from, To* to, Index count) noexcept {
  for (Index i = 0; i < count; ++i) {
    From stored;  // the file may hold it at any address
    std::memcpy(&stored, reinterpret_cast<const std::byte*>(from) + i * Index{sizeof(From)},
                sizeof(From));
    const float value = widened(stored);
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
    default:
      return stored;
  }
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

std::string_view to_string(WeightForm form) noexcept {
  switch (form) {
    case WeightForm::file:
      return "file";
    case WeightForm::f32:
      return "f32";
    case WeightForm::f16:
      return "f16";
    case WeightForm::bf16:
      return "bf16";
    case WeightForm::q8:
      return "q8";
    case WeightForm::q4:
      return "q4";
  }
  return "?";
}

void convert_floats(const TensorView& from, DType to, void* out) noexcept {
  switch (from.dtype) {
    case DType::f16:
      convert_from(static_cast<const f16*>(from.data), to, out, from.size());
      break;
    case DType::bf16:
      convert_from(static_cast<const bf16*>(from.data), to, out, from.size());
      break;
    case DType::f64:
      convert_from(static_cast<const double*>(from.data), to, out, from.size());
      break;
    default:
      convert_from(static_cast<const float*>(from.data), to, out, from.size());
  }
}

namespace {

template <class Bits>
std::optional<Index> find_exponent(const void* data, Index count, Bits exponent) noexcept {
  const auto* from = static_cast<const std::byte*>(data);
  constexpr Index step = 1024;  // looked at together, then one by one where it matters
  for (Index first = 0; first < count; first += step) {
    const Index last = std::min(count, first + step);
    const auto is_bad = [&](Index i) {
      Bits bits;
      std::memcpy(&bits, from + i * Index{sizeof bits}, sizeof bits);
      return (bits & exponent) == exponent;
    };
    bool any = false;
    for (Index i = first; i < last; ++i) any |= is_bad(i);
    for (Index i = first; any && i < last; ++i) {
      if (is_bad(i)) return i;
    }
  }
  return std::nullopt;
}

double largest_of(std::string_view form) noexcept {
  return form == "f16" ? 65504.0 : form == "bf16" ? 0x1.FEp127 : 0x1.FFFFFEp127;
}

double element_of(const TensorView& tensor, Index i) noexcept {
  if (tensor.dtype == DType::f64) {
    double value;
    std::memcpy(&value, static_cast<const std::byte*>(tensor.data) + i * Index{sizeof value},
                sizeof value);
    return value;
  }
  float value = 0.0F;
  convert_floats({static_cast<const std::byte*>(tensor.data) + i * bytes_of(tensor.dtype),
                  tensor.dtype, Shape{1}},
                 DType::f32, &value);
  return static_cast<double>(value);
}

// "[3,5]" for element 23 of [4,6].
std::string place_in(const Shape& shape, Index element, Index first_row) {
  std::vector<Index> at(static_cast<std::size_t>(shape.rank()));
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    at[static_cast<std::size_t>(axis)] = element % shape[axis];
    element /= shape[axis];
  }
  if (!at.empty()) at[0] += first_row;
  return fmt::format("[{}]", fmt::join(at, ","));
}

}  // namespace

std::optional<Index> find_not_finite(const TensorView& tensor) noexcept {
  switch (tensor.dtype) {
    case DType::f16:
      return find_exponent<std::uint16_t>(tensor.data, tensor.size(), 0x7C00U);
    case DType::bf16:
      return find_exponent<std::uint16_t>(tensor.data, tensor.size(), 0x7F80U);
    default:
      return find_exponent<std::uint32_t>(tensor.data, tensor.size(), 0x7F800000U);
  }
}

std::string not_representable(const TensorView& from, Index element, std::string_view form,
                              Index first_row) {
  return fmt::format("weights that {} can hold (at most {:g}), found {:g} (element {})", form,
                     largest_of(form), element_of(from, element),
                     place_in(from.shape, element, first_row));
}

std::vector<std::string> WeightBinder::unused() const {
  std::vector<std::string> names;
  if (store_ == nullptr) return names;
  for (const auto& [name, entry] : store_->entries()) {
    if (!used_names_.contains(name)) names.push_back(name);
  }
  for (const auto& [name, tensor] : store_->unreadable()) names.push_back(name);
  return names;
}

// A copy in `dtype`, which holds fewer numbers: all of them must be such as it has. The binder
// keeps it until another tensor is looked for; `blocks_` keeps what the model needs.
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
  // Nothing computes with f64: whoever looks for the tensor finds it in f32.
  if (!materialize()) return TensorView{nullptr, DType::f32, shape};
  return narrow(name, {tensor.data, tensor.dtype, shape}, DType::f32);
}

// A part of a packed matrix, of exactly this type and shape; copied if it lies at an odd address.
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
  used_names_.insert(name);
  if (materialize() && !is_aligned(tensor)) {
    void* copy = allocate(tensor.bytes());
    std::memcpy(copy, tensor.data, static_cast<std::size_t>(tensor.bytes()));
    tensor.data = copy;
  }
  return tensor;
}

void WeightBinder::record(TensorUse use) {
  used_names_.insert(use.name);
  for (const TensorView& part : use.parts) use.bytes += part.bytes();
  uses_.push_back(std::move(use));
}

void* WeightBinder::allocate(Index bytes) {
  auto block = std::make_shared<AlignedBuffer<std::byte>>(bytes);
  void* data = block->data();
  blocks_.push_back(std::move(block));
  return data;
}

// The tensor in `dtype`: in place if the file has it so and its address allows, else a copy.
Result<TensorView> WeightBinder::hold(std::string name, std::string path, const Shape& shape,
                                      DType dtype, TensorRole role, double active) {
  KRAIT_ASSIGN_OR_RETURN(const TensorView stored, find(name, shape));
  const bool is_matrix = role == TensorRole::matrix;
  TensorView held{nullptr, is_matrix ? form_dtype(options_.weights.form, stored.dtype) : dtype,
                  shape};
  const WeightStore::Entry* entry = store_ == nullptr ? nullptr : store_->find(name);
  const bool was_narrowed = entry != nullptr && entry->tensor.dtype == DType::f64;
  const bool is_in_place = held.dtype == stored.dtype && is_aligned(stored) && !was_narrowed;
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
  TensorView held{nullptr, form_dtype(options().form, DType::f32), matrix};
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
