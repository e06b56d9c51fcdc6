#pragma once

/// \file
/// WeightOptions: how a model holds its weights and multiplies with them.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

class WeightForm;

/// The type of the activations in products with f32, f16 and bf16 matrices.
enum class Compute {
  f32,
  bf16,  ///< rounded before each product; for matrices of bf16 only
};

/// How a model holds its weights and multiplies with them.
struct WeightOptions {
  std::string form = "file";  ///< of `weight_forms`, of `forms`, or "file": as they are stored
  Compute compute = Compute::f32;
  Executor* executor = nullptr;  ///< threads that make q8 and q4 of floats; null: the caller's
  /// Forms of the application's own, beside krait's.
  std::vector<std::shared_ptr<const WeightForm>> forms = {};
};

/// What the metadata of a checkpoint says of its matrices: their form, and the version of the
/// layout of codes and scales. A matrix in a form of its own has an entry of its own, whose key
/// ends in a colon and the matrix's name ("krait.form:backbone.layers.3.mixer.in_proj").
inline constexpr std::string_view weight_form_key = "krait.form";
inline constexpr std::string_view weight_format_version_key = "krait.format_version";
inline constexpr std::string_view weight_format_version = "1";

}  // namespace v0_1
}  // namespace krait
