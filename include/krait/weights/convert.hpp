#pragma once

/// \file
/// Conversions between types of floats, and messages about values that do not fit.

#include <optional>
#include <string>
#include <string_view>

#include "krait/core/dtype.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// Converts a tensor of f32, f16, bf16 or f64 (by way of f32) to f32, f16 or bf16, rounding to
/// nearest even. `out` has room for all elements.
KRAIT_API void convert_floats(const TensorView& from, DType to, void* out) noexcept;

/// Index of the first element (f32, f16, bf16 or f64) that is infinite or NaN.
KRAIT_API std::optional<Index> find_not_finite(const TensorView& tensor) noexcept;

/// An element and where it stands, for messages: "nan (element [3,5])". `element` is an index into
/// `from`, whose first row is row `first_row` of the whole tensor.
KRAIT_API std::string element_text(const TensorView& from, Index element, Index first_row = 0);

/// A message about an element that a narrower type cannot hold: "weights that f16 can hold (at most
/// 65504), found 70000 (element [3,5])".
KRAIT_API std::string not_representable(const TensorView& from, Index element,
                                        std::string_view form, Index first_row = 0);

}  // namespace v0_1
}  // namespace krait
