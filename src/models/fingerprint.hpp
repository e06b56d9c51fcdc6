#pragma once

#include <string>

#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

/// Identifies a model by its sizes and by samples of every tensor (floats as f32), as the model
/// holds it, in hexadecimal. A bf16 file and its f32 copy, which give the same bits, have the same
/// fingerprint; weights that were rounded on the way have another one, and so has another type of
/// cached keys and values.
std::string fingerprint(const ModelSpec& spec, const WeightBinder& binder, DType kv_dtype);

}  // namespace v0_1
}  // namespace krait
