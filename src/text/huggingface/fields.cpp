#include "text/huggingface/fields.hpp"

#include <fmt/format.h>

#include "core/utf8.hpp"
#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {
namespace fields {

Error mismatch(ErrorCode code, std::string_view where, std::string_view expected,
               std::string_view found) {
  return {code, fmt::format("[tokenizer] {}: expected {}, found {}", where, expected, found)};
}

std::string describe(const Metadata& value) {
  if (value.object() != nullptr) return "an object";
  if (value.array() != nullptr) return "an array";
  return json_text(value);
}

Result<bool> boolean(const Metadata& object, std::string_view name, std::string_view where,
                     std::optional<bool> fallback) {
  const Metadata& value = object[name];
  if (value.is_null() && fallback) return *fallback;
  if (const auto truth = value.boolean()) return *truth;
  return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "true or false",
                  describe(value));
}

Result<std::string_view> string(const Metadata& object, std::string_view name,
                                std::string_view where) {
  const Metadata& value = object[name];
  if (const std::string* text = value.text()) return std::string_view(*text);
  return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "a string",
                  describe(value));
}

Result<char32_t> character(const Metadata& object, std::string_view name, std::string_view where) {
  KRAIT_ASSIGN_OR_RETURN(const std::string_view text, string(object, name, where));
  std::size_t end = 0;
  const char32_t code = text.empty() ? 0 : utf8::next(text, end);
  if (!text.empty() && end == text.size()) return code;
  return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "one character",
                  describe(object[name]));
}

std::optional<std::pair<std::string_view, std::string_view>> merge(const Metadata& value) {
  if (const std::string* text = value.text()) {
    const std::string_view both = *text;
    const std::size_t space = both.find(' ');
    if (space == both.npos) return std::nullopt;
    return std::pair(both.substr(0, space), both.substr(space + 1));
  }
  if (value.size() != 2 || value[0].text() == nullptr || value[1].text() == nullptr) {
    return std::nullopt;
  }
  return std::pair<std::string_view, std::string_view>(*value[0].text(), *value[1].text());
}

Result<void> elements(const Metadata& object, std::string_view name, std::string_view where,
                      ReadElement read) {
  const Metadata& list = object[name];
  if (list.array() == nullptr) {
    return mismatch(ErrorCode::bad_format, fmt::format("{}.{}", where, name), "an array",
                    describe(list));
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    KRAIT_RETURN_IF_ERROR(read(list[i], fmt::format("{}.{}[{}]", where, name, i)));
  }
  return {};
}

namespace {

constexpr int max_steps = 64;

Result<void> read_steps(const Metadata& step, std::string_view parts, const std::string& where,
                        ReadStep read, int& count) {
  KRAIT_ASSIGN_OR_RETURN(const std::string_view type, string(step, "type", where));
  if (type == "Sequence") {
    return elements(step, parts, where, [&](const Metadata& part, const std::string& place) {
      return read_steps(part, parts, place, read, count);
    });
  }
  if (++count > max_steps) {
    return mismatch(ErrorCode::unsupported, where, fmt::format("at most {} steps", max_steps),
                    "more");
  }
  return read(type, step, where);
}

}  // namespace

Result<void> steps(const Metadata& step, std::string_view parts, const std::string& where,
                   ReadStep read) {
  int count = 0;
  return read_steps(step, parts, where, read, count);
}

}  // namespace fields
}  // namespace v0_1
}  // namespace krait
