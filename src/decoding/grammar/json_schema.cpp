#include "decoding/grammar/json_schema.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "core/utf8.hpp"
#include "decoding/grammar/regex.hpp"
#include "decoding/grammar/schema_compiler.hpp"
#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

constexpr std::string_view type_names[] = {"null",   "boolean", "integer", "number",
                                           "string", "array",   "object"};

constexpr std::uint32_t most_string_states = 100'000;  // of one string

// Which rules have a text, by the least set that agrees with itself.
std::vector<bool> rules_with_text(const Rules& rules) {
  std::vector<bool> has_text(rules.rules().size());
  const auto holds = [&](const auto& self, ExprId id) -> bool {
    const Expr& expr = rules[id];
    const auto of_part = [&](ExprId part) { return self(self, part); };
    switch (expr.kind) {
      case Expr::Kind::literal:
        return true;
      case Expr::Kind::chars:
        return !expr.ranges.empty();
      case Expr::Kind::seq:
        return std::ranges::all_of(expr.parts, of_part);
      case Expr::Kind::alt:
        return std::ranges::any_of(expr.parts, of_part);
      case Expr::Kind::repeat:
        return expr.least == 0 || of_part(expr.parts[0]);
      case Expr::Kind::rule:
        return has_text[expr.index];
      case Expr::Kind::dfa:
        return !rules.dfas()[expr.index].is_empty();
      case Expr::Kind::counted:
        return expr.least == 0 || !rules.dfas()[expr.index].is_empty();
    }
    return false;
  };
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (std::size_t r = rules.rules().size(); r-- > 0;) {
      if (has_text[r] || !holds(holds, rules.rules()[r].body)) continue;
      has_text[r] = has_changed = true;
    }
  }
  return has_text;
}

// Finds the part of a schema for which the whole is without a text.
class Lacking {
 public:
  // `places` has the rules of schemas.
  Lacking(const Rules& rules, const std::vector<bool>& has_text,
          const std::map<std::uint32_t, SchemaId>& places)
      : rules_(rules), has_text_(has_text), places_(places) {}

  // The rule of a schema that every text of the root would need, and that is without a text for no
  // other such rule. Nothing where there is none, where rules lead back to themselves, or very far.
  std::optional<std::uint32_t> find() {
    const Needed needed = needed_by_rule(0).value_or(Needed());
    const auto is_alone = [&](std::uint32_t rule) {
      const auto& own = needed_by_rule(rule);
      return own && own->size() == 1;
    };
    const auto found = std::ranges::find_if(needed, is_alone);
    if (found == needed.end() || is_out_of_reach_) return std::nullopt;
    return *found;
  }

 private:
  // Rules of schemas, without a text, ascending. Of very many, some. Nothing stands for what is
  // without a text whatever these rules are.
  using Needed = std::vector<std::uint32_t>;
  // Chains of more rules are not followed: each takes room on the stack.
  static constexpr std::size_t most_open = 200;

  const std::optional<Needed>& needed_by_rule(std::uint32_t rule) {
    const auto [place, is_new] = known_.try_emplace(rule);
    if (!is_new) {
      is_out_of_reach_ |= open_.contains(rule);
      return place->second;
    }
    if (open_.size() >= most_open) {
      is_out_of_reach_ = true;
      return place->second;
    }
    open_.insert(rule);
    std::optional<Needed> needed = needed_by(rules_.rules()[rule].body);
    open_.erase(rule);
    if (places_.contains(rule)) needed = joined(needed.value_or(Needed()), {rule});
    return place->second = std::move(needed);
  }

  static Needed joined(const Needed& a, const Needed& b) {
    Needed both;
    std::ranges::set_union(a, b, std::back_inserter(both));
    // The latest: what is referred to comes behind what refers to it.
    constexpr std::size_t most = 64;
    if (both.size() > most) both.erase(both.begin(), both.end() - most);
    return both;
  }

  std::optional<Needed> needed_by(ExprId expr_id) {
    const Expr& expr = rules_[expr_id];
    switch (expr.kind) {
      case Expr::Kind::literal:
        return Needed();
      case Expr::Kind::chars:
        return expr.ranges.empty() ? std::nullopt : std::optional(Needed());
      case Expr::Kind::rule:
        return has_text_[expr.index] ? Needed() : needed_by_rule(expr.index);
      case Expr::Kind::repeat:
        return expr.least == 0 ? Needed() : needed_by(expr.parts[0]);
      case Expr::Kind::dfa:
      case Expr::Kind::counted: {
        const bool may_be_left_out = expr.kind == Expr::Kind::counted && expr.least == 0;
        const bool has_text = may_be_left_out || !rules_.dfas()[expr.index].is_empty();
        return has_text ? std::optional(Needed()) : std::nullopt;
      }
      case Expr::Kind::seq:
      case Expr::Kind::alt:
        break;
    }
    const bool is_alt = expr.kind == Expr::Kind::alt;
    std::optional<Needed> all = is_alt ? std::nullopt : std::optional(Needed());
    for (const ExprId id : expr.parts) {
      const std::optional<Needed> part = needed_by(id);
      if (!part && is_alt) continue;
      if (!part) return std::nullopt;
      if (!all) {
        all = part;
      } else if (is_alt) {
        Needed both;
        std::ranges::set_intersection(*all, *part, std::back_inserter(both));
        all = std::move(both);
      } else {
        all = joined(*all, *part);
      }
    }
    return all;
  }

  const Rules& rules_;
  const std::vector<bool>& has_text_;
  const std::map<std::uint32_t, SchemaId>& places_;
  std::map<std::uint32_t, std::optional<Needed>> known_;  // by rule
  std::set<std::uint32_t> open_;                          // rules that are being looked at
  bool is_out_of_reach_ = false;
};

}  // namespace

Result<SchemaRules> SchemaCompiler::run() {
  rules().merges_rules = false;
  const std::uint32_t first = rules().declare("schema");
  KRAIT_ASSIGN_OR_RETURN(const SchemaId root, schemas_.find_root());
  KRAIT_ASSIGN_OR_RETURN(const ExprId body, rule_of({Part{root}}));
  rules().define(first, body);
  while (!todo_.empty()) {
    const auto [rule, parts] = std::move(todo_.back());
    todo_.pop_back();
    KRAIT_ASSIGN_OR_RETURN(const ExprId made, body_of(parts));
    rules().define(rule, made);
  }
  KRAIT_RETURN_IF_ERROR(check_texts());
  return std::move(result_);
}

Result<void> SchemaCompiler::check_texts() {
  const std::vector<bool> has_text = rules_with_text(result_.rules);
  for (const SchemaRules::Apart& apart : result_.apart) {
    if (!has_text[apart.both]) continue;
    return Error{ErrorCode::unsupported, "[json-schema] oneOf: " + apart.where};
  }
  if (has_text[0]) return {};
  const std::optional<std::uint32_t> rule = Lacking(result_.rules, has_text, places_).find();
  // Of the whole schema there is no more to say than the compiler of grammars does.
  if (!rule || schemas_.where(places_[*rule]) == "#") return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[constraint] texts: expected at least one that is allowed, found none "
                           "(at {})",
                           schemas_.where(places_[*rule]))};
}

Result<ExprId> SchemaCompiler::rule_of(const Parts& parts) {
  KRAIT_ASSIGN_OR_RETURN(Parts expanded, schemas_.expand(parts));
  if (schemas_.has_false(expanded)) return rules().never();
  Parts key = expanded;
  std::ranges::sort(key);
  const auto [place, is_new] = known_.try_emplace(std::move(key), 0);
  if (is_new) {
    constexpr std::size_t most = 20'000;
    if (known_.size() > most) {
      return Error{ErrorCode::unsupported,
                   fmt::format("[json-schema] schema: expected one that comes to at most {} "
                               "combinations of its parts, found more",
                               most)};
    }
    place->second = rules().declare("");
    if (!parts.empty()) places_.emplace(place->second, parts.front().schema);
    todo_.emplace_back(place->second, std::move(expanded));
  }
  return rules().rule(place->second);
}

Result<ExprId> SchemaCompiler::body_of(const Parts& parts) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Metadata& schema = schemas_[parts[i].schema];
    if (parts[i].any < 0 && has(schema, "anyOf")) return any_of(parts, i);
    if (parts[i].one < 0 && has(schema, "oneOf")) return one_of(parts, i);
  }
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (has(schema, "const") || has(schema, "enum")) return enumeration(parts);
  }
  KRAIT_ASSIGN_OR_RETURN(const Types types, types_of(parts));
  std::vector<ExprId> choices;
  const auto add = [&](Result<ExprId> made) -> Result<void> {
    KRAIT_ASSIGN_OR_RETURN(const ExprId id, std::move(made));
    choices.push_back(id);
    return {};
  };
  if (types[null]) choices.push_back(rules().literal("null"));
  if (types[boolean]) {
    choices.push_back(rules().alt({rules().literal("true"), rules().literal("false")}));
  }
  if (types[number] || types[integer]) {
    KRAIT_ASSIGN_OR_RETURN(const NumberRange range, range_of(parts, !types[number]));
    if (range.is_free() && any_number_ && !range.is_integer) {
      choices.push_back(*any_number_);
    } else {
      KRAIT_RETURN_IF_ERROR(add(json_number(rules(), range, !has_one_of_, budget_)));
      if (range.is_free() && !range.is_integer) any_number_ = choices.back();
    }
  }
  if (types[string]) KRAIT_RETURN_IF_ERROR(add(string_of(parts)));
  if (types[array]) KRAIT_RETURN_IF_ERROR(add(array_of(parts)));
  if (types[object]) KRAIT_RETURN_IF_ERROR(add(object_of(parts)));
  return rules().alt(std::move(choices));
}

Result<ExprId> SchemaCompiler::any_of(const Parts& parts, std::size_t i) {
  KRAIT_ASSIGN_OR_RETURN(const auto alternatives, schemas_.list(parts[i].schema, "anyOf"));
  std::vector<ExprId> choices;
  for (std::size_t k = 0; k < alternatives.size(); ++k) {
    // An alternative that is the whole again adds nothing.
    KRAIT_ASSIGN_OR_RETURN(const Parts alone, schemas_.expand({Part{alternatives[k]}}));
    if (std::ranges::find(alone, parts[i].schema, &Part::schema) != alone.end()) continue;
    Parts chosen = parts;
    chosen[i].any = static_cast<int>(k);
    chosen.push_back({alternatives[k]});
    KRAIT_ASSIGN_OR_RETURN(const ExprId id, rule_of(chosen));
    choices.push_back(id);
  }
  return rules().alt(std::move(choices));
}

// As anyOf, if no value can fulfil two.
Result<ExprId> SchemaCompiler::one_of(const Parts& parts, std::size_t i) {
  KRAIT_ASSIGN_OR_RETURN(const auto alternatives, schemas_.list(parts[i].schema, "oneOf"));
  std::vector<ExprId> choices;
  for (std::size_t k = 0; k < alternatives.size(); ++k) {
    Parts chosen = parts;
    chosen[i].one = static_cast<int>(k);
    chosen.push_back({alternatives[k]});
    KRAIT_ASSIGN_OR_RETURN(const ExprId id, rule_of(chosen));
    choices.push_back(id);
    for (std::size_t j = 0; j < k; ++j) {
      Parts two = chosen;
      two.push_back({alternatives[j]});
      KRAIT_ASSIGN_OR_RETURN(const ExprId both, rule_of(two));
      if (rules()[both].kind != Expr::Kind::rule) continue;  // nothing
      result_.apart.push_back(
          {rules()[both].index, fmt::format("expected alternatives that no value fulfils two of, "
                                            "found {} and {} (at {})",
                                            j, k, schemas_.where(parts[i].schema))});
    }
  }
  return rules().alt(std::move(choices));
}

Result<SchemaCompiler::Types> SchemaCompiler::types_of(const Parts& parts) {
  Types all = Types().set();
  for (const Part& part : parts) {
    if (!has(schemas_[part.schema], "type")) continue;
    const Metadata& type = schemas_[part.schema]["type"];
    Types types;
    const bool is_list = type.array() != nullptr;
    for (std::size_t i = 0; i < (is_list ? type.size() : 1); ++i) {
      const Metadata& name = is_list ? type[i] : type;
      const auto* found = std::ranges::find_if(type_names, [&](auto n) { return name.is(n); });
      if (found == std::end(type_names)) {
        return schemas_.bad(part.schema, "type",
                            "null, boolean, integer, number, string, array or object", name);
      }
      types.set(static_cast<std::size_t>(found - type_names));
    }
    if (types[number]) types.set(integer);
    all &= types;
  }
  if (all[number]) all.reset(integer);  // numbers have them
  return all;
}

Result<Sizes> SchemaCompiler::sizes_of(const Parts& parts, std::string_view least,
                                       std::string_view most) {
  Sizes sizes;
  for (const Part& part : parts) {
    for (const std::string_view keyword : {least, most}) {
      const Metadata& schema = schemas_[part.schema];
      if (!has(schema, keyword)) continue;
      std::optional<std::uint64_t> size = schema[keyword].whole();
      const auto real = schema[keyword].number();
      if (!size && real && *real >= 0.0 && *real < 1e9 && *real == std::floor(*real)) {
        size = static_cast<std::uint64_t>(*real);
      }
      if (!size) return schemas_.bad(part.schema, keyword, "a whole number", schema[keyword]);
      const auto limited = static_cast<std::uint32_t>(std::min<std::uint64_t>(*size, unbounded));
      if (keyword == least) {
        sizes.least = std::max(sizes.least, limited);
      } else {
        sizes.most = std::min(sizes.most, limited);
      }
    }
  }
  return sizes;
}

Result<ExprId> SchemaCompiler::enumeration(const Parts& parts) {
  // The values of the first such keyword, as far as the rest allows them.
  std::vector<Metadata> values;
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (has(schema, "const")) {
      values = {schema["const"]};
    } else if (has(schema, "enum")) {
      if (schema["enum"].array() == nullptr) {
        return schemas_.bad(part.schema, "enum", "a list of values", schema["enum"]);
      }
      values = *schema["enum"].array();
    } else {
      continue;
    }
    for (const Metadata& value : values) {
      KRAIT_RETURN_IF_ERROR(check_numbers(part.schema, value));
    }
    break;
  }
  std::vector<ExprId> choices;
  for (const Metadata& value : values) {
    KRAIT_ASSIGN_OR_RETURN(const bool is_allowed, allows(parts, value));
    if (is_allowed) choices.push_back(rules().literal(json_spaced(value)));
  }
  return rules().alt(std::move(choices));
}

// What is too small is 0, what is too large infinite.
double as_double(const Decimal& decimal) {
  const std::string text = decimal.whole + "." + decimal.fraction + "0";
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    value = decimal.whole.find_first_not_of('0') == std::string::npos
                ? 0.0
                : std::numeric_limits<double>::infinity();
  }
  return decimal.is_negative ? -value : value;
}

// Whole numbers that do not fit into 64 bits are others once they are read.
Result<void> SchemaCompiler::check_numbers(SchemaId where, const Metadata& value) {
  constexpr double most = 9007199254740992.0;  // 2^53: from here on doubles leave some out
  const auto real = value.number();
  if (real && !value.whole() && !value.integer() && std::abs(*real) > most) {
    return schemas_.bad(where, "const", "numbers of at most 64 bits", value);
  }
  for (std::size_t i = 0; i < value.size(); ++i) {
    const Metadata& part = value.object() != nullptr ? (*value.object())[i].value : value[i];
    KRAIT_RETURN_IF_ERROR(check_numbers(where, part));
  }
  return {};
}

// Of a value that an enumeration has.
Result<bool> SchemaCompiler::allows(const Parts& parts, const Metadata& value) {
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (has(schema, "const") && !is_same_json(schema["const"], value)) return false;
    if (const auto* listed = schema["enum"].array()) {
      const auto is_same = [&](const Metadata& other) { return is_same_json(other, value); };
      if (std::ranges::none_of(*listed, is_same)) return false;
    }
    const bool is_plain = value.array() == nullptr && value.object() == nullptr;
    if (schema.object() == nullptr || is_plain) continue;
    for (const auto& [key, ignored] : *schema.object()) {
      // Alternatives, and what all have to fulfil, are parts of their own.
      const bool is_a_part = key == "anyOf" || key == "oneOf" || key == "allOf" || key == "$ref";
      const bool is_done = key == "const" || key == "enum" || key == "type";
      if (is_a_part || is_done || is_silent(key)) continue;
      return Error{
          ErrorCode::unsupported,
          fmt::format("[json-schema] {}: expected no such keyword beside lists and objects "
                      "of enum or const, found one (at {})",
                      key, schemas_.where(part.schema))};
    }
  }
  KRAIT_ASSIGN_OR_RETURN(const Types types, types_of(parts));
  if (value.is_null()) return types[null];
  if (value.boolean()) return types[boolean];
  if (value.array() != nullptr) return types[array];
  if (value.object() != nullptr) return types[object];
  if (const std::string* text = value.text()) {
    if (!types[string]) return false;
    KRAIT_ASSIGN_OR_RETURN(const Sizes sizes, sizes_of(parts, "minLength", "maxLength"));
    std::size_t size = 0;
    for (const char c : *text) size += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
    if (size < sizes.least || size > sizes.most) return false;
    KRAIT_ASSIGN_OR_RETURN(const auto dfa, string_dfa(parts));
    return !dfa || dfa->matches(json_escaped(*text));
  }
  const double real = value.number().value_or(0.0);
  if (!types[number] && !(types[integer] && real == std::floor(real))) return false;
  KRAIT_ASSIGN_OR_RETURN(const NumberRange range, range_of(parts, false));
  return std::ranges::all_of(range.least,
                             [&](const NumberRange::Bound& bound) {
                               const double least = as_double(bound.value);
                               return real > least || (real == least && !bound.is_strict);
                             }) &&
         std::ranges::all_of(range.most,
                             [&](const NumberRange::Bound& bound) {
                               const double most = as_double(bound.value);
                               return real < most || (real == most && !bound.is_strict);
                             }) &&
         std::ranges::all_of(range.multiples, [&](const Metadata& multiple) {
           return std::fmod(real, multiple.number().value_or(1.0)) == 0.0;
         });
}

Result<NumberRange> SchemaCompiler::range_of(const Parts& parts, bool is_integer) {
  NumberRange range{.is_integer = is_integer};
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    const auto add = [&](std::string_view keyword, bool is_strict,
                         std::vector<NumberRange::Bound>& bounds) -> Result<void> {
      if (!has(schema, keyword)) return {};
      const auto decimal = to_decimal(schema[keyword]);
      if (!decimal) return schemas_.bad(part.schema, keyword, "a number", schema[keyword]);
      bounds.push_back({*decimal, is_strict});
      return {};
    };
    KRAIT_RETURN_IF_ERROR(add("minimum", false, range.least));
    KRAIT_RETURN_IF_ERROR(add("exclusiveMinimum", true, range.least));
    KRAIT_RETURN_IF_ERROR(add("maximum", false, range.most));
    KRAIT_RETURN_IF_ERROR(add("exclusiveMaximum", true, range.most));
    if (has(schema, "multipleOf")) range.multiples.push_back(schema["multipleOf"]);
  }
  return range;
}

const Dfa& SchemaCompiler::any_char_dfa() {
  if (!any_char_) {
    const ExprId any = json_chars(rules(), any_char());
    any_char_ = to_dfa(rules(), any, most_string_states, budget_).value_or(Dfa());
  }
  return *any_char_;
}

Result<Dfa> SchemaCompiler::json_dfa(ExprId id) {
  auto dfa = to_dfa(rules(), id, most_string_states, budget_);
  if (dfa) return *std::move(dfa);
  return Error{ErrorCode::unsupported,
               fmt::format("[json-schema] string: expected patterns and lengths that come to at "
                           "most {} states, found more",
                           most_string_states)};
}

Result<Dfa> SchemaCompiler::pattern_dfa(SchemaId id, std::string_view keyword,
                                        std::string_view pattern, bool is_whole) {
  const auto chars = [&](const Ranges& ranges) { return json_chars(rules(), ranges); };
  const auto parsed = parse_regex(rules(), pattern, is_whole ? Match::whole : Match::search, chars);
  if (!parsed) {
    Error error = parsed.error();
    error.message = fmt::format("[json-schema] {}{} (at {})", keyword,
                                error.message.substr(std::string_view("[regex] pattern").size()),
                                schemas_.where(id));
    return error;
  }
  return json_dfa(*parsed);
}

Result<std::optional<Dfa>> SchemaCompiler::string_dfa(const Parts& parts) {
  std::optional<Dfa> all;
  const auto narrow = [&](Dfa dfa) -> Result<void> {
    if (all) {
      auto both = combine(*all, dfa, Product::both, most_string_states, budget_);
      if (!both) return json_dfa(rules().counted({}, 1, 1)).error();
      dfa = *std::move(both);
    }
    all = std::move(dfa);
    return {};
  };
  for (const Part& part : parts) {
    const Metadata& schema = schemas_[part.schema];
    if (has(schema, "pattern")) {
      const std::string* pattern = schema["pattern"].text();
      if (pattern == nullptr) {
        return schemas_.bad(part.schema, "pattern", "a text", schema["pattern"]);
      }
      KRAIT_ASSIGN_OR_RETURN(Dfa dfa, pattern_dfa(part.schema, "pattern", *pattern, false));
      KRAIT_RETURN_IF_ERROR(narrow(std::move(dfa)));
    }
    if (has(schema, "format")) {
      const std::string* name = schema["format"].text();
      const auto pattern = name == nullptr ? std::nullopt : json_format(*name);
      if (!pattern) {
        return schemas_.bad(part.schema, "format", "one of " + json_formats(), schema["format"]);
      }
      KRAIT_ASSIGN_OR_RETURN(Dfa dfa, pattern_dfa(part.schema, "format", *pattern, true));
      KRAIT_RETURN_IF_ERROR(narrow(std::move(dfa)));
    }
  }
  return all;
}

Result<ExprId> SchemaCompiler::string_of(const Parts& parts) {
  KRAIT_ASSIGN_OR_RETURN(std::optional<Dfa> dfa, string_dfa(parts));
  KRAIT_ASSIGN_OR_RETURN(const Sizes sizes, sizes_of(parts, "minLength", "maxLength"));
  if (sizes.least > sizes.most) return rules().never();
  const ExprId quote = rules().literal("\"");
  const bool is_free = sizes.least == 0 && sizes.most == unbounded;
  if (dfa && !is_free) {
    // Written out, so only where that is short.
    const ExprId any = json_chars(rules(), any_char());
    KRAIT_ASSIGN_OR_RETURN(const Dfa sized, json_dfa(rules().repeat(any, sizes.least, sizes.most)));
    dfa = combine(*dfa, sized, Product::both, most_string_states, budget_);
    if (!dfa) return json_dfa(rules().counted({}, 1, 1)).error();
  }
  if (dfa) return rules().seq({quote, rules().dfa(*std::move(dfa)), quote});
  if (!is_free) {
    return rules().seq({quote, rules().counted(any_char_dfa(), sizes.least, sizes.most), quote});
  }
  return rules().seq({quote, rules().repeat(json_chars(rules(), any_char()), 0, unbounded), quote});
}

Result<SchemaRules> parse_json_schema(const Metadata& schema) {
  return SchemaCompiler(schema).run();
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
