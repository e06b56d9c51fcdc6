#pragma once

/// \file
/// WeightOptions: how a model holds its weights and multiplies with them.

#include <string_view>

#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

/// In which form the weight matrices are held in memory.
enum class WeightForm { file, f32, f16, bf16, q8, q4 };

/// "file", "f32", "f16", "bf16", "q8", "q4".
KRAIT_API std::string_view to_string(WeightForm form) noexcept;

/// The type of the activations in products with f32, f16 and bf16 matrices.
enum class Compute {
  f32,
  bf16,  ///< rounded before each product; for matrices of bf16 only
};

/// How a model holds its weights and multiplies with them.
struct WeightOptions {
  WeightForm form = WeightForm::file;
  Compute compute = Compute::f32;
  Executor* executor = nullptr;  ///< threads that make q8 and q4 of floats; null: the caller's
};

/// What the metadata of a checkpoint that krait wrote says of its matrices: their form, and the
/// version of the layout of codes and scales.
inline constexpr std::string_view weight_form_key = "krait.form";
inline constexpr std::string_view weight_format_version_key = "krait.format_version";
inline constexpr std::string_view weight_format_version = "1";

}  // namespace v0_1
}  // namespace krait
