#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "krait/core/error.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/core/metadata.hpp"

/// Reading the fields of a tokenizer file: every type is checked before the value is touched.
namespace krait {
inline namespace v0_1 {
namespace fields {

/// "[tokenizer] where: expected X, found Y".
Error mismatch(ErrorCode code, std::string_view where, std::string_view expected,
               std::string_view found);

/// A value in a few characters, on one line.
std::string describe(const Metadata& value);

/// The field's value; `fallback` where it is absent or null.
Result<bool> boolean(const Metadata& object, std::string_view name, std::string_view where,
                     std::optional<bool> fallback);

/// The field, which must be a string.
Result<std::string_view> string(const Metadata& object, std::string_view name,
                                std::string_view where);

/// The field, which must be a string of one character.
Result<char32_t> character(const Metadata& object, std::string_view name, std::string_view where);

/// The two tokens of a merge, "a b" or ["a", "b"]; nothing where it is neither.
std::optional<std::pair<std::string_view, std::string_view>> merge(const Metadata& value);

/// Calls `read(element, its place)` for each element of the field, which must be an array, up to
/// the first error.
using ReadElement = FunctionRef<Result<void>(const Metadata& element, const std::string& place)>;
Result<void> elements(const Metadata& object, std::string_view name, std::string_view where,
                      ReadElement read);

/// Calls `read(type, step, its place)` for a step of the pipeline or, where that is a "Sequence",
/// for each step of its array `parts`, which may be sequences again; up to the first error. Refuses
/// more than 64 steps.
using ReadStep = FunctionRef<Result<void>(std::string_view type, const Metadata& step,
                                          const std::string& place)>;
Result<void> steps(const Metadata& step, std::string_view parts, const std::string& where,
                   ReadStep read);

}  // namespace fields
}  // namespace v0_1
}  // namespace krait
