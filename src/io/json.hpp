#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"

namespace krait {
inline namespace v0_1 {

inline constexpr int max_json_depth = 64;
inline constexpr std::size_t max_json_bytes = std::size_t{256} << 20U;

/// Which bare words are read beside standard JSON.
enum class JsonWords {
  none,
  python,  ///< Infinity, -Infinity and NaN, which Python writes, as strings of that name
};

/// Parses JSON from outside. Refuses, beside what is no JSON: duplicate keys, nesting beyond
/// `max_json_depth`, more than `max_json_bytes`. `name` is for messages, which give line and
/// column.
KRAIT_API Result<Metadata> parse_json(std::string_view text, std::string_view name,
                                      JsonWords words = JsonWords::python);

/// The number that a value stands for: a JSON number, the words Infinity, -Infinity and NaN as
/// strings (as which `parse_json` reads the bare ones), or {"__float__": word}. Nothing for all
/// other values.
std::optional<double> json_number(const Metadata& value);

/// Appends the string in quotes. Bytes that are no UTF-8 become U+FFFD; `ascii` has all characters
/// beyond ASCII escaped.
KRAIT_API void append_json_string(std::string& json, std::string_view text, bool ascii = false);

/// The value on one short line, for messages.
KRAIT_API std::string json_text(const Metadata& value);

/// All of the value, on one line. What is no finite number becomes null.
KRAIT_API std::string full_json(const Metadata& value);

}  // namespace v0_1
}  // namespace krait
