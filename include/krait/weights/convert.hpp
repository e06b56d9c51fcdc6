#pragma once

/// \file
/// Floats of one type made of those of another, and what to say of those that have no place in it.

#include <optional>
#include <string>
#include <string_view>

#include "krait/core/dtype.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// Converts a tensor of floats (f64 as well, by way of f32) to another type of float, rounding to
/// nearest even.
KRAIT_API void convert_floats(const TensorView& from, DType to, void* out) noexcept;

/// The first element of f32, f16 or bf16 that is infinite or no number, counted from the first.
KRAIT_API std::optional<Index> find_not_finite(const TensorView& tensor) noexcept;

/// What to say of an element that a narrower type cannot hold: "weights that f16 can hold (at most
/// 65504), found 70000 (element [3,5])". `element` counts within `from`; `first_row` is the place
/// of its first row in the whole tensor.
KRAIT_API std::string not_representable(const TensorView& from, Index element,
                                        std::string_view form, Index first_row = 0);

}  // namespace v0_1
}  // namespace krait
