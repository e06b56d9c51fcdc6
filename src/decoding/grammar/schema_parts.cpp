#include "decoding/grammar/schema_parts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "io/json.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

// What says something about values.
constexpr std::string_view honoured[] = {"$ref",
                                         "additionalProperties",
                                         "allOf",
                                         "anyOf",
                                         "const",
                                         "enum",
                                         "exclusiveMaximum",
                                         "exclusiveMinimum",
                                         "format",
                                         "items",
                                         "maxItems",
                                         "maxLength",
                                         "maxProperties",
                                         "maximum",
                                         "minItems",
                                         "minLength",
                                         "minProperties",
                                         "minimum",
                                         "multipleOf",
                                         "oneOf",
                                         "pattern",
                                         "patternProperties",
                                         "prefixItems",
                                         "properties",
                                         "propertyNames",
                                         "required",
                                         "type"};

// What says nothing about them, or only where it is referred to.
constexpr std::string_view silent[] = {
    "$anchor",          "$comment",    "$defs",           "$id",
    "$schema",          "$vocabulary", "contentEncoding", "contentSchema",
    "contentMediaType", "default",     "definitions",     "deprecated",
    "description",      "examples",    "readOnly",        "title",
    "writeOnly"};

std::string escaped_key(std::string_view key) {
  std::string text;
  for (const char c : key) {
    if (c == '~') {
      text += "~0";
    } else if (c == '/') {
      text += "~1";
    } else {
      text += c;
    }
  }
  return printable(text);
}

// Of a reference: %41 and ~1 become what they stand for.
std::string unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, code, 16).ptr ==
            text.data() + i + 3) {
      result += static_cast<char>(code);
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string unescaped_key(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_escape = text[i] == '~' && i + 1 < text.size();
    if (is_escape && text[i + 1] == '1') {
      result += '/';
    } else if (is_escape && text[i + 1] == '0') {
      result += '~';
    } else {
      result += text[i];
      continue;
    }
    ++i;
  }
  return result;
}

const Metadata* find_anchor(const Metadata& value, std::string_view name) {
  if (value["$anchor"].is(name)) return &value;
  const Metadata* found = nullptr;
  if (const auto* array = value.array()) {
    for (const Metadata& item : *array) {
      if (found == nullptr) found = find_anchor(item, name);
    }
  }
  if (const auto* object = value.object()) {
    for (const auto& [key, member] : *object) {
      if (found == nullptr) found = find_anchor(member, name);
    }
  }
  return found;
}

// What a JSON pointer leads to; null if nothing is there.
const Metadata* follow(const Metadata* value, std::string_view pointer) {
  while (!pointer.empty() && value != nullptr) {
    if (pointer[0] != '/') return nullptr;
    pointer.remove_prefix(1);
    const std::string key = unescaped_key(pointer.substr(0, pointer.find('/')));
    pointer.remove_prefix(std::min(pointer.size(), pointer.find('/')));
    const Metadata* next = nullptr;
    if (has(*value, key)) {
      next = &(*value)[key];
    } else if (value->array() != nullptr) {
      std::size_t index = 0;
      const auto end = std::from_chars(key.data(), key.data() + key.size(), index);
      if (end.ptr == key.data() + key.size() && !key.empty() && index < value->size()) {
        next = &(*value)[index];
      }
    }
    value = next;
  }
  return value;
}

}  // namespace

Error Schemas::bad(SchemaId id, std::string_view keyword, std::string_view expected,
                   const Metadata& found) const {
  return {ErrorCode::bad_argument, fmt::format("[json-schema] {}: expected {}, found {} (at {})",
                                               keyword, expected, json_text(found), where(id))};
}

Result<SchemaId> Schemas::find(const Metadata& schema, std::string where) {
  const auto [place, is_new] = ids_.try_emplace(&schema, static_cast<SchemaId>(known_.size()));
  if (is_new) {
    known_.push_back({&schema, std::move(where)});
    KRAIT_RETURN_IF_ERROR(check(place->second));
  }
  return place->second;
}

Result<void> Schemas::check(SchemaId id) const {
  const Metadata& schema = (*this)[id];
  if (schema.boolean()) return {};
  if (schema.object() == nullptr) {
    return bad(id, "schema", "an object, true or false", schema);
  }
  for (const auto& [key, value] : *schema.object()) {
    if (std::ranges::find(honoured, key) != std::end(honoured) || is_silent(key)) {
      continue;
    }
    if (key == "uniqueItems" && value == Metadata(false)) continue;
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] {}: expected keywords that can be honoured, found this "
                             "one (at {})",
                             printable(key), where(id))};
  }
  return {};
}

bool is_silent(std::string_view keyword) {
  return std::ranges::find(silent, keyword) != std::end(silent);
}

Result<SchemaId> Schemas::child(SchemaId id, std::string_view keyword) {
  return find((*this)[id][keyword], fmt::format("{}/{}", where(id), keyword));
}

Result<SchemaId> Schemas::member(SchemaId id, std::string_view keyword, std::string_view name) {
  return find((*this)[id][keyword][name],
              fmt::format("{}/{}/{}", where(id), keyword, escaped_key(name)));
}

Result<std::vector<SchemaId>> Schemas::list(SchemaId id, std::string_view keyword) {
  const Metadata& schemas = (*this)[id][keyword];
  if (schemas.array() == nullptr || schemas.size() == 0) {
    return bad(id, keyword, "a list of schemas", schemas);
  }
  std::vector<SchemaId> ids;
  for (std::size_t i = 0; i < schemas.size(); ++i) {
    KRAIT_ASSIGN_OR_RETURN(const SchemaId found,
                           find(schemas[i], fmt::format("{}/{}/{}", where(id), keyword, i)));
    ids.push_back(found);
  }
  return ids;
}

Result<SchemaId> Schemas::target(SchemaId id) {
  const Metadata& ref = (*this)[id]["$ref"];
  if (ref.text() == nullptr || !ref.text()->starts_with('#')) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] $ref: expected a reference into the schema itself, "
                             "which begins with '#', found {} (at {})",
                             json_text(ref), where(id))};
  }
  const std::string pointer = unescaped(std::string_view(*ref.text()).substr(1));
  const Metadata* found =
      pointer.empty() || pointer[0] == '/' ? follow(&root_, pointer) : find_anchor(root_, pointer);
  if (found == nullptr) return bad(id, "$ref", "the place of a schema", ref);
  return find(*found, printable(*ref.text()));
}

Result<Parts> Schemas::expand(const Parts& parts) {
  Parts expanded;
  std::vector<SchemaId> path;
  for (const Part& part : parts) KRAIT_RETURN_IF_ERROR(add(part.schema, parts, expanded, path));
  return expanded;
}

Result<void> Schemas::add(SchemaId id, const Parts& given, Parts& parts,
                          std::vector<SchemaId>& path) {
  constexpr std::size_t deepest = 500;
  if (std::ranges::find(path, id) != path.end()) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[json-schema] $ref: expected a reference that leads to a schema, "
                             "found one that leads back to itself (at {})",
                             where(id))};
  }
  if (path.size() > deepest) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] $ref: expected references at most {} deep, found more "
                             "(at {})",
                             deepest, where(id))};
  }
  if (std::ranges::find(parts, id, &Part::schema) != parts.end()) return {};
  if ((*this)[id] == Metadata(true)) return {};
  // With the alternatives that were chosen of it.
  const auto place = std::ranges::find(given, id, &Part::schema);
  parts.push_back(place == given.end() ? Part{id} : *place);
  path.push_back(id);
  if (has((*this)[id], "$ref")) {
    KRAIT_ASSIGN_OR_RETURN(const SchemaId found, target(id));
    KRAIT_RETURN_IF_ERROR(add(found, given, parts, path));
  }
  if (has((*this)[id], "allOf")) {
    KRAIT_ASSIGN_OR_RETURN(const auto all, list(id, "allOf"));
    for (const SchemaId found : all) KRAIT_RETURN_IF_ERROR(add(found, given, parts, path));
  }
  path.pop_back();
  return {};
}

bool Schemas::has_false(const Parts& parts) const noexcept {
  return std::ranges::any_of(
      parts, [&](const Part& part) { return (*this)[part.schema] == Metadata(false); });
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
