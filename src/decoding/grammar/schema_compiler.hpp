#pragma once

/// \file
/// SchemaCompiler: from a JSON schema to rules.

#include <bitset>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decoding/grammar/json_schema.hpp"
#include "decoding/grammar/json_text.hpp"
#include "decoding/grammar/schema_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Whether an object somewhere in the value has a member of that name.
inline bool has_member(const Metadata& value, std::string_view name) {
  for (std::size_t i = 0; i < value.size(); ++i) {
    const auto* members = value.object();
    if (members != nullptr && (*members)[i].key == name) return true;
    if (has_member(members != nullptr ? (*members)[i].value : value[i], name)) return true;
  }
  return false;
}

/// How many elements, characters or members there may be.
struct Sizes {
  std::uint32_t least = 0, most = unbounded;
};

/// Makes one rule for each set of schemas that a value has to fulfil at once. `anyOf` and `oneOf`
/// become alternatives with one schema more each; where none is open, the rule is the alternatives
/// of the types that all of the set allow. So a recursive schema ends where a set comes back.
class SchemaCompiler {
 public:
  explicit SchemaCompiler(const Metadata& root)
      : schemas_(root), has_one_of_(has_member(root, "oneOf")) {}
  Result<SchemaRules> run();

 private:
  enum Type : std::size_t { null, boolean, integer, number, string, array, object };
  using Types = std::bitset<7>;

  // That alternatives of oneOf are apart, and that a value fulfils the schema; names the place of
  // the part that none does, if that is not the whole.
  Result<void> check_texts();

  Rules& rules() noexcept { return result_.rules; }

  // The values that all parts allow: a reference to their rule, or nothing at all.
  Result<ExprId> rule_of(const Parts& parts);
  Result<ExprId> body_of(const Parts& parts);
  Result<ExprId> any_of(const Parts& parts, std::size_t i);
  Result<ExprId> one_of(const Parts& parts, std::size_t i);

  Result<Types> types_of(const Parts& parts);
  Result<Sizes> sizes_of(const Parts& parts, std::string_view least, std::string_view most);

  Result<ExprId> enumeration(const Parts& parts);
  Result<bool> allows(const Parts& parts, const Metadata& value);
  Result<void> check_numbers(SchemaId where, const Metadata& value);
  Result<NumberRange> range_of(const Parts& parts, bool is_integer);

  // What stands between the quotes of a string, if patterns or formats say so.
  Result<std::optional<Dfa>> string_dfa(const Parts& parts);
  Result<Dfa> pattern_dfa(SchemaId id, std::string_view keyword, std::string_view pattern,
                          bool is_whole);
  Result<Dfa> json_dfa(ExprId id);
  Result<ExprId> string_of(const Parts& parts);
  const Dfa& any_char_dfa();

  Result<ExprId> array_of(const Parts& parts);
  Result<Parts> item_parts(const Parts& parts, std::size_t index);

  // A member that an object may have: how its key is written, and its value.
  struct Member {
    ExprId text;
    bool is_required;
  };
  Result<ExprId> object_of(const Parts& parts);
  Result<std::vector<std::pair<std::string, bool>>> names_of(const Parts& parts);
  Result<std::vector<std::pair<std::string, SchemaId>>> patterns_of(SchemaId id);
  Result<Parts> value_parts(const Parts& parts, const std::string& name);
  Result<std::optional<Dfa>> key_dfa(const Parts& parts);
  Result<std::vector<ExprId>> extra_members(const Parts& parts,
                                            const std::vector<std::pair<std::string, bool>>& names);
  Result<ExprId> members(const std::vector<Member>& members, const std::vector<ExprId>& extra,
                         const Sizes& sizes, const Parts& parts);

  Schemas schemas_;
  // Whether alternatives are apart is seen from numbers that are written out.
  bool has_one_of_;
  SchemaRules result_;
  Budget budget_;
  std::map<Parts, std::uint32_t> known_;  // by sorted parts
  std::vector<std::pair<std::uint32_t, Parts>> todo_;
  std::map<std::uint32_t, SchemaId> places_;  // by rule: the first of its parts
  std::optional<Dfa> any_char_;
  std::optional<ExprId> any_string_;
  std::optional<ExprId> any_number_;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
