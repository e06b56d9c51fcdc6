#pragma once

/// \file
/// Schemas: the parts of a JSON schema, and which of them hold for a value at once.

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

using SchemaId = std::uint32_t;

/// A schema that a value has to fulfil, and which alternative of its `anyOf` and `oneOf` is meant;
/// -1 where that is open.
struct Part {
  SchemaId schema = 0;
  int any = -1, one = -1;
  friend auto operator<=>(const Part&, const Part&) = default;
};
using Parts = std::vector<Part>;  // in the order in which they were found, each schema once

/// Whether it says nothing about values.
bool is_silent(std::string_view keyword);

inline bool has(const Metadata& schema, std::string_view key) {
  if (schema.object() == nullptr) return false;
  for (const auto& member : *schema.object()) {
    if (member.key == key) return true;
  }
  return false;
}

/// The schemas within a schema, by number, as they are found. Each is looked at once, so that
/// keywords that cannot be honoured are refused where they matter.
class Schemas {
 public:
  explicit Schemas(const Metadata& root) : root_(root) {}

  Result<SchemaId> find_root() { return find(root_, "#"); }
  /// The schema that is the value of a keyword, or of a member or element of it.
  Result<SchemaId> child(SchemaId id, std::string_view keyword);
  Result<SchemaId> member(SchemaId id, std::string_view keyword, std::string_view name);
  Result<std::vector<SchemaId>> list(SchemaId id, std::string_view keyword);

  const Metadata& operator[](SchemaId id) const noexcept { return *known_[id].schema; }
  const std::string& where(SchemaId id) const noexcept { return known_[id].where; }

  /// With what `$ref` and `allOf` of the parts add.
  Result<Parts> expand(const Parts& parts);
  /// Whether one of them allows nothing.
  bool has_false(const Parts& parts) const noexcept;

  Error bad(SchemaId id, std::string_view keyword, std::string_view expected,
            const Metadata& found) const;

 private:
  struct Known {
    const Metadata* schema;
    std::string where;
  };

  Result<SchemaId> find(const Metadata& schema, std::string where);
  Result<void> check(SchemaId id) const;
  Result<SchemaId> target(SchemaId id);
  Result<void> add(SchemaId id, const Parts& given, Parts& parts, std::vector<SchemaId>& path);

  const Metadata& root_;
  std::vector<Known> known_;
  std::map<const Metadata*, SchemaId> ids_;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
