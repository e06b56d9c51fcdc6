#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"

/// Reading the fields of a tokenizer file: every type is checked before the value is touched.
namespace krait {
inline namespace v0_1 {
namespace fields {

using nlohmann::json;

/// "[tokenizer] where: expected X, found Y".
Error mismatch(ErrorCode code, std::string_view where, std::string_view expected,
               std::string_view found);

/// A value in a few characters, on one line.
std::string describe(const json& value);

/// The field, or null where it is absent. `object` may be anything.
const json& get(const json& object, const char* name);

/// Whether the value is that string. The comparison of nlohmann's makes a value of the string, and
/// ends the program where there is no memory for it.
bool is(const json& value, std::string_view text) noexcept;

/// The field's value; `fallback` where it is absent or null.
Result<bool> boolean(const json& object, const char* name, std::string_view where,
                     std::optional<bool> fallback);

/// The field, which must be a string.
Result<std::string_view> string(const json& object, const char* name, std::string_view where);

/// Calls `read(part, place of the part)` for each part of a "Sequence", up to the first error. The
/// field `name` must be an array.
Result<void> sequence(const json& object, const char* name, std::string_view where,
                      const std::function<Result<void>(const json&, const std::string&)>& read);

}  // namespace fields
}  // namespace v0_1
}  // namespace krait
