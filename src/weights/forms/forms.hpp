#pragma once

/// \file
/// krait's own forms. A new one is a file beside this one, a line here, and its place in the list.

#include <memory>

#include "krait/weights/form.hpp"

namespace krait {
inline namespace v0_1 {

const WeightForm& f32_form() noexcept;         // dense.cpp
const WeightForm& bf16_form() noexcept;        // dense.cpp
const WeightForm& f16_form() noexcept;         // dense.cpp
const WeightForm& q8_form() noexcept;          // grouped.cpp
const WeightForm& q4_form() noexcept;          // grouped.cpp
const WeightForm& aqlm_form() noexcept;        // aqlm.cpp
const WeightForm& aqlm_exact_form() noexcept;  // aqlm.cpp
const WeightForm& gguf_form() noexcept;        // gguf.cpp

/// A matrix of q8 or q4, over codes and scales that outlive it (grouped.cpp).
std::shared_ptr<const WeightMatrix> grouped_matrix(const kernels::GroupedWeights& W);

}  // namespace v0_1
}  // namespace krait
