#include "krait/weights/convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace krait {
inline namespace v0_1 {
namespace {

float widened(auto value) noexcept { return to_float(value); }

// Rounds to nearest even; values beyond the largest float become infinite.
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

}  // namespace

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
  constexpr Index step = 1024;  // checked together, then one by one if any is not finite
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
    case DType::f64:
      return find_exponent<std::uint64_t>(tensor.data, tensor.size(), 0x7FF0'0000'0000'0000U);
    default:
      return find_exponent<std::uint32_t>(tensor.data, tensor.size(), 0x7F800000U);
  }
}

std::string element_text(const TensorView& from, Index element, Index first_row) {
  const double value = element_of(from, element);
  return fmt::format("{:g} (element {})", std::isnan(value) ? std::abs(value) : value,
                     place_in(from.shape, element, first_row));
}

std::string not_representable(const TensorView& from, Index element, std::string_view form,
                              Index first_row) {
  return fmt::format("weights that {} can hold (at most {:g}), found {}", form, largest_of(form),
                     element_text(from, element, first_row));
}

}  // namespace v0_1
}  // namespace krait
