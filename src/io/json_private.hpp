#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

inline constexpr int max_json_depth = 64;
inline constexpr std::size_t max_json_bytes = std::size_t{256} << 20U;

/// A value that ends without asking for memory. The destructor of nlohmann's values does, as many
/// children as they have, and when there is none it takes the program with it: a value with
/// children that lives while something may throw belongs in here.
class JsonDocument {
 public:
  JsonDocument() = default;
  explicit JsonDocument(nlohmann::json value) noexcept : value_(std::move(value)) {}
  JsonDocument(JsonDocument&& other) noexcept : value_(std::move(other.value_)) {}
  ~JsonDocument();

  nlohmann::json& operator*() noexcept { return value_; }
  const nlohmann::json& operator*() const noexcept { return value_; }
  nlohmann::json* operator->() noexcept { return &value_; }
  const nlohmann::json* operator->() const noexcept { return &value_; }

 private:
  nlohmann::json value_;  // at most `max_json_depth` levels
};

/// Which bare words are read beside standard JSON.
enum class JsonWords {
  none,
  python,  ///< Infinity, -Infinity and NaN, which Python writes, as strings of that name
};

/// Parses JSON from outside. Refuses, beside what is no JSON: duplicate keys, nesting beyond
/// `max_json_depth`, more than `max_json_bytes`. `name` is for messages, which give line and
/// column.
Result<JsonDocument> parse_json(std::string_view text, std::string_view name,
                                JsonWords words = JsonWords::python);

/// The number that a value stands for: a JSON number, the words Infinity, -Infinity and NaN as
/// strings (as which `parse_json` reads the bare ones), or {"__float__": word}. Nothing for all
/// other values.
std::optional<double> json_number(const nlohmann::json& value);

/// The value on one short line, for messages.
std::string json_text(const nlohmann::json& value);

}  // namespace v0_1
}  // namespace krait
