#include "text/huggingface/json_fields.hpp"

#include <fmt/format.h>

#include "io/json_private.hpp"

namespace krait {
inline namespace v0_1 {
namespace fields {

Error mismatch(ErrorCode code, std::string_view where, std::string_view expected,
               std::string_view found) {
  return {code, fmt::format("[tokenizer] {}: expected {}, found {}", where, expected, found)};
}

std::string describe(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return json_text(value);
}

const json& get(const json& object, const char* name) {
  static const json null;
  if (!object.is_object()) return null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

bool is(const json& value, std::string_view text) noexcept {
  const auto* string = value.get_ptr<const std::string*>();
  return string != nullptr && *string == text;
}

Result<bool> boolean(const json& object, const char* name, std::string_view where,
                     std::optional<bool> fallback) {
  const json& value = get(object, name);
  if (value.is_null() && fallback) return *fallback;
  if (!value.is_boolean()) {
    return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "true or false",
                    describe(value));
  }
  return value.get<bool>();
}

Result<std::string_view> string(const json& object, const char* name, std::string_view where) {
  const json& value = get(object, name);
  if (!value.is_string()) {
    return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "a string",
                    describe(value));
  }
  return std::string_view(value.get_ref<const std::string&>());
}

Result<void> sequence(const json& object, const char* name, std::string_view where,
                      const std::function<Result<void>(const json&, const std::string&)>& read) {
  const json& list = get(object, name);
  if (!list.is_array()) {
    return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "an array",
                    describe(list));
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    KRAIT_RETURN_IF_ERROR(read(list[i], fmt::format("{}.{}[{}]", where, name, i)));
  }
  return {};
}

}  // namespace fields
}  // namespace v0_1
}  // namespace krait
