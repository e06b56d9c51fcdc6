#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait::inline v0_1 {

/// Parses JSON from outside. Stricter than the standard in refusing duplicate keys and nesting
/// beyond `max_json_depth`; laxer in reading the bare words Infinity, -Infinity and NaN, which
/// Python writes, as strings of that name. `name` is for messages.
Result<nlohmann::json> parse_json(std::string_view text, std::string_view name);

inline constexpr int max_json_depth = 64;

}  // namespace krait::inline v0_1
