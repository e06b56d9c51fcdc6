// Lists and objects of a JSON schema.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "decoding/grammar/regex.hpp"
#include "decoding/grammar/schema_compiler.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

// What the element at an index has to fulfil.
Result<Parts> SchemaCompiler::item_parts(const Parts& parts, std::size_t index) {
  Parts items;
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (has(schema, "prefixItems")) {
      KRAIT_ASSIGN_OR_RETURN(const auto prefix, schemas_.list(part.schema, "prefixItems"));
      if (index < prefix.size()) {
        items.push_back({prefix[index]});
        continue;
      }
    }
    if (!has(schema, "items")) continue;
    if (schema["items"].array() != nullptr) {
      return Error{ErrorCode::unsupported,
                   fmt::format("[json-schema] items: expected one schema, found a list, which is "
                               "called prefixItems (at {})",
                               schemas_.where(part.schema))};
    }
    KRAIT_ASSIGN_OR_RETURN(const SchemaId item, schemas_.child(part.schema, "items"));
    items.push_back({item});
  }
  return items;
}

Result<ExprId> SchemaCompiler::array_of(const Parts& parts) {
  KRAIT_ASSIGN_OR_RETURN(const Sizes sizes, sizes_of(parts, "minItems", "maxItems"));
  if (sizes.least > sizes.most) return rules().never();
  std::size_t prefix = 0;
  for (const Part& part : parts) {
    prefix = std::max(prefix, schemas_[part.schema]["prefixItems"].size());
  }
  constexpr std::size_t longest = 200;
  if (prefix > longest) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] prefixItems: expected at most {}, found {} (at {})",
                             longest, prefix, schemas_.where(parts[0].schema))};
  }
  prefix = std::min<std::size_t>(prefix, sizes.most);
  const ExprId comma = rules().literal(", ");
  // From the end: what follows the element before.
  ExprId rest = rules().empty();
  if (prefix < sizes.most) {
    KRAIT_ASSIGN_OR_RETURN(const Parts tail, item_parts(parts, prefix));
    KRAIT_ASSIGN_OR_RETURN(const ExprId item, rule_of(tail));
    const auto before = static_cast<std::uint32_t>(std::max<std::size_t>(prefix, 1));
    rest =
        rules().repeat(rules().seq({comma, item}), sizes.least > before ? sizes.least - before : 0,
                       sizes.most == unbounded ? unbounded : sizes.most - before);
    if (prefix == 0) {
      rest = rules().seq({item, rest});
      if (sizes.least == 0) rest = rules().optional(rest);
    }
  }
  for (std::size_t i = prefix; i-- > 0;) {
    KRAIT_ASSIGN_OR_RETURN(const Parts element, item_parts(parts, i));
    KRAIT_ASSIGN_OR_RETURN(const ExprId item, rule_of(element));
    rest = i == 0 ? rules().seq({item, rest}) : rules().seq({comma, item, rest});
    if (i >= sizes.least) rest = rules().optional(rest);
  }
  return rules().seq({rules().literal("["), rest, rules().literal("]")});
}

// The members that are named, in the order in which they are, and whether they must be there.
Result<std::vector<std::pair<std::string, bool>>> SchemaCompiler::names_of(const Parts& parts) {
  std::vector<std::pair<std::string, bool>> names;
  std::map<std::string_view, std::size_t> places;
  const auto find = [&](const std::string& name) {
    const auto [place, is_new] = places.try_emplace(name, names.size());
    if (is_new) names.emplace_back(name, false);
    return names.begin() + static_cast<std::ptrdiff_t>(place->second);
  };
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (!has(schema, "properties")) continue;
    const auto* properties = schema["properties"].object();
    if (properties == nullptr) {
      return schemas_.bad(part.schema, "properties", "an object", schema["properties"]);
    }
    for (const auto& [name, ignored] : *properties) find(name);
  }
  for (const Part& part : parts) {
    const Metadata& required = schemas_[part.schema]["required"];
    if (!has(schemas_[part.schema], "required")) continue;
    if (required.array() == nullptr) {
      return schemas_.bad(part.schema, "required", "a list of names", required);
    }
    for (const Metadata& name : *required.array()) {
      if (name.text() == nullptr) {
        return schemas_.bad(part.schema, "required", "a list of names", required);
      }
      find(*name.text())->second = true;
    }
  }
  return names;
}

Result<std::vector<std::pair<std::string, SchemaId>>> SchemaCompiler::patterns_of(SchemaId id) {
  std::vector<std::pair<std::string, SchemaId>> patterns;
  const Metadata& schema = schemas_[id];
  if (!has(schema, "patternProperties")) return patterns;
  const auto* members = schema["patternProperties"].object();
  if (members == nullptr) {
    return schemas_.bad(id, "patternProperties", "an object", schema["patternProperties"]);
  }
  for (const auto& [pattern, ignored] : *members) {
    KRAIT_ASSIGN_OR_RETURN(const SchemaId value, schemas_.member(id, "patternProperties", pattern));
    patterns.emplace_back(pattern, value);
  }
  return patterns;
}

// What the value of a named member has to fulfil.
Result<Parts> SchemaCompiler::value_parts(const Parts& parts, const std::string& name) {
  Parts value;
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    bool is_additional = true;
    if (has(schema["properties"], name)) {
      KRAIT_ASSIGN_OR_RETURN(const SchemaId id, schemas_.member(part.schema, "properties", name));
      value.push_back({id});
      is_additional = false;
    }
    KRAIT_ASSIGN_OR_RETURN(const auto patterns, patterns_of(part.schema));
    for (const auto& [pattern, id] : patterns) {
      KRAIT_ASSIGN_OR_RETURN(const Dfa dfa,
                             pattern_dfa(part.schema, "patternProperties", pattern, false));
      if (!dfa.matches(json_escaped(name))) continue;
      value.push_back({id});
      is_additional = false;
    }
    if (is_additional && has(schema, "additionalProperties")) {
      KRAIT_ASSIGN_OR_RETURN(const SchemaId id,
                             schemas_.child(part.schema, "additionalProperties"));
      value.push_back({id});
    }
  }
  return value;
}

// What keys have to be, if `propertyNames` says so.
Result<std::optional<Dfa>> SchemaCompiler::key_dfa(const Parts& parts) {
  Parts names;
  for (const Part& part : parts) {
    if (!has(schemas_[part.schema], "propertyNames")) continue;
    KRAIT_ASSIGN_OR_RETURN(const SchemaId id, schemas_.child(part.schema, "propertyNames"));
    names.push_back({id});
  }
  if (names.empty()) return std::optional<Dfa>();
  KRAIT_ASSIGN_OR_RETURN(names, schemas_.expand(names));
  if (schemas_.has_false(names)) return std::optional<Dfa>(Dfa());
  KRAIT_ASSIGN_OR_RETURN(const Types types, types_of(names));
  if (!types[string]) return std::optional<Dfa>(Dfa());
  for (const Part& part : names) {
    for (const std::string_view keyword : {"anyOf", "oneOf", "const"}) {
      if (!has(schemas_[part.schema], keyword)) continue;
      return Error{
          ErrorCode::unsupported,
          fmt::format("[json-schema] {}: expected no such keyword for propertyNames, found "
                      "one (at {})",
                      keyword, schemas_.where(part.schema))};
    }
  }
  for (const Part& part : names) {
    if (!has(schemas_[part.schema], "enum")) continue;
    std::vector<ExprId> choices;
    for (std::size_t i = 0; i < schemas_[part.schema]["enum"].size(); ++i) {
      const Metadata& value = schemas_[part.schema]["enum"][i];
      KRAIT_ASSIGN_OR_RETURN(const bool is_allowed, allows(names, value));
      if (is_allowed && value.text() != nullptr) {
        choices.push_back(rules().literal(json_escaped(*value.text())));
      }
    }
    KRAIT_ASSIGN_OR_RETURN(Dfa dfa, json_dfa(rules().alt(std::move(choices))));
    return std::optional<Dfa>(std::move(dfa));
  }
  KRAIT_ASSIGN_OR_RETURN(std::optional<Dfa> dfa, string_dfa(names));
  KRAIT_ASSIGN_OR_RETURN(const Sizes sizes, sizes_of(names, "minLength", "maxLength"));
  const ExprId any = json_chars(rules(), any_char());
  KRAIT_ASSIGN_OR_RETURN(Dfa sized, json_dfa(rules().repeat(any, sizes.least, sizes.most)));
  if (dfa) {
    dfa = combine(*dfa, sized, Product::both, 100'000, budget_);
    if (!dfa) return json_dfa(rules().counted({}, 1, 1)).error();
    return dfa;
  }
  return std::optional<Dfa>(std::move(sized));
}

// Members beyond those that are named: for each pattern of names, and for all other names.
Result<std::vector<ExprId>> SchemaCompiler::extra_members(
    const Parts& parts, const std::vector<std::pair<std::string, bool>>& names) {
  const auto narrowed = [&](const Dfa& a, const Dfa& b, Product kind) -> Result<Dfa> {
    auto dfa = combine(a, b, kind, 100'000, budget_);
    if (!dfa) return json_dfa(rules().counted({}, 1, 1)).error();
    return *std::move(dfa);
  };
  // Keys without backslashes, so that each has one spelling.
  const Ranges plain = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x10FFFF}};
  KRAIT_ASSIGN_OR_RETURN(Dfa keys, json_dfa(rules().repeat(rules().chars(plain), 0, unbounded)));
  KRAIT_ASSIGN_OR_RETURN(const std::optional<Dfa> allowed, key_dfa(parts));
  if (allowed) {
    KRAIT_ASSIGN_OR_RETURN(keys, narrowed(keys, *allowed, Product::both));
  }
  std::vector<ExprId> named;
  for (const auto& [name, ignored] : names) named.push_back(rules().literal(json_escaped(name)));
  KRAIT_ASSIGN_OR_RETURN(const Dfa taken, json_dfa(rules().alt(std::move(named))));
  KRAIT_ASSIGN_OR_RETURN(keys, narrowed(keys, taken, Product::first_only));

  std::vector<ExprId> members;
  const auto add = [&](const Dfa& key, const Parts& value) -> Result<void> {
    if (key.is_empty()) return {};
    KRAIT_ASSIGN_OR_RETURN(const ExprId id, rule_of(value));
    // A rule of its own, so that the key is one automaton with a comma before it and without.
    const std::uint32_t rule = rules().declare("");
    rules().define(rule,
                   rules().seq({rules().literal("\""), rules().dfa(key), rules().literal("\": ")}));
    members.push_back(rules().seq({rules().rule(rule), id}));
    return {};
  };
  std::map<std::string, std::vector<std::pair<SchemaId, SchemaId>>> patterns;  // owner and value
  for (const Part& part : parts) {
    KRAIT_ASSIGN_OR_RETURN(const auto own, patterns_of(part.schema));
    for (const auto& [pattern, value] : own) patterns[pattern].emplace_back(part.schema, value);
  }
  const auto others = [&](const auto& owners) -> Result<Parts> {
    Parts value;
    for (const Part& part : parts) {
      const bool owns = std::ranges::any_of(
          owners, [&](const auto& owner) { return owner.first == part.schema; });
      if (owns || !has(schemas_[part.schema], "additionalProperties")) continue;
      KRAIT_ASSIGN_OR_RETURN(const SchemaId id,
                             schemas_.child(part.schema, "additionalProperties"));
      value.push_back({id});
    }
    return value;
  };
  std::vector<Dfa> found;
  for (const auto& [pattern, owners] : patterns) {
    KRAIT_ASSIGN_OR_RETURN(const Dfa matching,
                           pattern_dfa(owners[0].first, "patternProperties", pattern, false));
    KRAIT_ASSIGN_OR_RETURN(const Dfa own, narrowed(keys, matching, Product::both));
    for (const Dfa& other : found) {
      KRAIT_ASSIGN_OR_RETURN(const Dfa both, narrowed(own, other, Product::both));
      if (both.is_empty()) continue;
      return Error{
          ErrorCode::unsupported,
          fmt::format("[json-schema] patternProperties: expected patterns of which no name "
                      "matches two, found '{}' and another (at {})",
                      printable(pattern), schemas_.where(owners[0].first))};
    }
    KRAIT_ASSIGN_OR_RETURN(Parts value, others(owners));
    for (const auto& owner : owners) value.push_back({owner.second});
    KRAIT_RETURN_IF_ERROR(add(own, value));
    found.push_back(own);
  }
  for (const Dfa& own : found) {
    KRAIT_ASSIGN_OR_RETURN(keys, narrowed(keys, own, Product::first_only));
  }
  // Names that nobody speaks of are left out where others are.
  bool is_open = true;
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (has(schema, "properties") || has(schema, "patternProperties")) is_open = false;
  }
  for (const Part& part : parts) is_open |= has(schemas_[part.schema], "additionalProperties");
  if (is_open) {
    KRAIT_ASSIGN_OR_RETURN(const Parts value, others(std::vector<std::pair<SchemaId, SchemaId>>()));
    KRAIT_RETURN_IF_ERROR(add(keys, value));
  }
  return members;
}

Result<ExprId> SchemaCompiler::object_of(const Parts& parts) {
  KRAIT_ASSIGN_OR_RETURN(const auto names, names_of(parts));
  KRAIT_ASSIGN_OR_RETURN(const std::optional<Dfa> allowed, key_dfa(parts));
  std::vector<Member> named;
  for (const auto& [name, is_required] : names) {
    ExprId value = rules().never();
    if (!allowed || allowed->matches(json_escaped(name))) {
      KRAIT_ASSIGN_OR_RETURN(const Parts of_value, value_parts(parts, name));
      KRAIT_ASSIGN_OR_RETURN(value, rule_of(of_value));
    }
    named.push_back(
        {rules().seq({rules().literal('"' + json_escaped(name) + "\": "), value}), is_required});
  }
  KRAIT_ASSIGN_OR_RETURN(const auto extra, extra_members(parts, names));
  KRAIT_ASSIGN_OR_RETURN(const Sizes sizes, sizes_of(parts, "minProperties", "maxProperties"));
  KRAIT_ASSIGN_OR_RETURN(const ExprId inner, members(named, extra, sizes, parts));
  return rules().seq({rules().literal("{"), inner, rules().literal("}")});
}

// Members in a row. A rule stands for where one is in it: at a member, whether others are before
// it (so that a comma is due), and how many, where that matters.
Result<ExprId> SchemaCompiler::members(const std::vector<Member>& named,
                                       const std::vector<ExprId>& extra, const Sizes& sizes,
                                       const Parts& parts) {
  const auto count = static_cast<std::uint32_t>(named.size());
  const bool is_counted = sizes.least > 0 || sizes.most != unbounded;
  // Two members that nobody named might have one name, so only one of them counts as certain.
  if (!extra.empty() && sizes.least > count + 1) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] minProperties: expected at most {}, one more than are "
                             "named, found {} (at {})",
                             count + 1, sizes.least, schemas_.where(parts[0].schema))};
  }
  constexpr std::uint32_t most_counted = 1000;
  if (sizes.most != unbounded && sizes.most > most_counted) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] maxProperties: expected at most {}, found {} (at {})",
                             most_counted, sizes.most, schemas_.where(parts[0].schema))};
  }
  // Member, how many are before it (at most one if that is all that matters), of those others.
  using Place = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;
  std::map<Place, std::uint32_t> known;
  std::vector<std::pair<Place, std::uint32_t>> todo;
  const auto place_rule = [&](std::uint32_t at, std::uint32_t before, std::uint32_t others) {
    if (!is_counted) before = std::min<std::uint32_t>(before, 1);
    if (sizes.most == unbounded) {
      before = std::min(before, std::max<std::uint32_t>(sizes.least, 1));
      others = std::min<std::uint32_t>(others, 1);
    }
    const auto [place, is_new] = known.try_emplace({at, before, others}, 0);
    if (is_new) {
      place->second = rules().declare("");
      todo.emplace_back(place->first, place->second);
    }
    return rules().rule(place->second);
  };
  const ExprId first = place_rule(0, 0, 0);
  while (!todo.empty()) {
    const auto [place, rule] = todo.back();
    const auto [at, before, others] = place;
    todo.pop_back();
    const bool has_room = before + others < sizes.most;
    const ExprId comma = before + others > 0 ? rules().literal(", ") : rules().empty();
    std::vector<ExprId> choices;
    if (at < count) {
      if (has_room) {
        choices.push_back(
            rules().seq({comma, named[at].text, place_rule(at + 1, before + 1, others)}));
      }
      if (!named[at].is_required) choices.push_back(place_rule(at + 1, before, others));
    } else {
      if (before + std::min<std::uint32_t>(others, 1) >= sizes.least) {
        choices.push_back(rules().empty());
      }
      for (const ExprId member : extra) {
        if (!has_room) break;
        choices.push_back(rules().seq({comma, member, place_rule(at, before, others + 1)}));
      }
    }
    rules().define(rule, rules().alt(std::move(choices)));
  }
  return first;
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
