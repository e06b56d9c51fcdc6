#pragma once

/// \file
/// WeightOptions: how a model holds its weights and multiplies with them.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

class WeightForm;

/// The type of the activations in products with f32, f16 and bf16 matrices.
enum class Compute {
  f32,
  bf16,  ///< activations are rounded before each product; only for bf16 matrices
};

/// How a model holds its weights and its keys and values, and multiplies with them.
struct WeightOptions {
  std::string form = "file";  ///< a name of `weight_forms` or of `forms`; "file": as stored
  Compute compute = Compute::f32;
  /// Type in which attention keeps keys and values: f32, f16 or bf16. Nothing in other models.
  DType kv_dtype = DType::f32;
  Executor* executor = nullptr;  ///< threads for conversions (q8, q4); null: the calling thread
  /// The application's own forms, in addition to krait's.
  std::vector<std::shared_ptr<const WeightForm>> forms = {};

  /// The threads that convert: those lent, or else the calling one.
  Executor& converting_threads() const noexcept {
    static SerialExecutor caller;
    return executor != nullptr ? *executor : caller;
  }
};

/// Keys of a checkpoint's metadata: the form of its matrices, and the version of the layout of
/// codes and scales. A matrix in another form than the rest has its own entry, whose key is the
/// form key, a colon and the matrix's name ("krait.form:backbone.layers.3.mixer.in_proj").
inline constexpr std::string_view weight_form_key = "krait.form";
inline constexpr std::string_view weight_format_version_key = "krait.format_version";
inline constexpr std::string_view weight_format_version = "1";

/// A matrix of low rank is a product u v, stored as `P.u` [out, rank] and `P.v` [rank, in] in place
/// of `P.weight`; each factor may be in any form ("P.u.codes"). Where the factors are coded, the
/// metadata tells the rank: the key is this one, a colon and the matrix's name. As the form of a
/// matrix, the metadata may say `low_rank_form`.
inline constexpr std::string_view weight_rank_key = "krait.rank";
inline constexpr std::string_view low_rank_form = "low-rank";

}  // namespace v0_1
}  // namespace krait
