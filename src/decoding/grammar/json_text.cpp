#include "decoding/grammar/json_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "io/json.hpp"
#include "text/unicode/code_sets.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

struct Format {
  std::string_view name, pattern;
};

#define KRAIT_DATE                                                                                \
  "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-31|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[1-9]|1[0-2])-"     \
  "(?:0[1-9]|1[0-9]|2[0-8]))|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[1357" \
  "9][26])00)-02-29)"
#define KRAIT_TIME                                                                      \
  "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2" \
  "[0-3]):[0-5][0-9])"
#define KRAIT_LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,20}[A-Za-z0-9])?"
#define KRAIT_HOST KRAIT_LABEL "(?:\\." KRAIT_LABEL "){0,4}"
#define KRAIT_BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define KRAIT_HEX "[0-9a-fA-F]{1,4}"

constexpr Format formats[] = {
    {"date", KRAIT_DATE},
    {"date-time", KRAIT_DATE "T" KRAIT_TIME},
    {"duration",
     "P(?:[0-9]{1,3}W|(?:[0-9]{1,3}Y(?:[0-9]{1,3}M(?:[0-9]{1,3}D)?)?|[0-9]{1,3}M(?:[0-9]{1,3}D)?|"
     "[0-9]{1,3}D)(?:T[0-9]{1,3}H)?|T(?:[0-9]{1,3}H(?:[0-9]{1,3}M(?:[0-9]{1,3}S)?)?|[0-9]{1,3}M"
     "(?:[0-9]{1,3}S)?|[0-9]{1,3}S))"},
    {"email", "[A-Za-z0-9_]{1,20}(?:[.+-][A-Za-z0-9_]{1,20}){0,2}@" KRAIT_LABEL "(?:\\." KRAIT_LABEL
              "){1,3}"},
    {"hostname", KRAIT_HOST},
    {"ipv4", "(?:" KRAIT_BYTE "\\.){3}" KRAIT_BYTE},
    {"ipv6", "(?:" KRAIT_HEX ":){7}" KRAIT_HEX "|(?:" KRAIT_HEX ":){1,7}:|(?:" KRAIT_HEX
             ":){1,6}:" KRAIT_HEX "|::(?:" KRAIT_HEX ":){0,6}" KRAIT_HEX "|::"},
    {"time", KRAIT_TIME},
    {"uri", "[a-z][a-z0-9+.-]{1,10}://" KRAIT_HOST
            "(?::[1-9][0-9]{0,3})?(?:/[A-Za-z0-9._~-]*)*(?:\\?[A-Za-z0-9=&._~-]*)?"
            "(?:#[A-Za-z0-9._~-]*)?"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
};

Ranges digits_from(char first, char last) {
  return {{static_cast<char32_t>(first), static_cast<char32_t>(last)}};
}

// Numbers without a sign, compared digit by digit with a bound.
class Digits {
 public:
  Digits(Rules& rules, Budget& budget) : rules_(rules), budget_(budget) {}

  Result<Dfa> all(bool is_integer) {
    const ExprId whole =
        rules_.alt({rules_.literal("0"),
                    rules_.seq({digits('1', '9'), rules_.repeat(digits('0', '9'), 0, 14)})});
    if (is_integer) return dfa(whole);
    const ExprId fraction =
        rules_.seq({rules_.literal("."), rules_.repeat(digits('0', '9'), 1, 15)});
    KRAIT_ASSIGN_OR_RETURN(const Dfa numbers, dfa(rules_.seq({whole, rules_.optional(fraction)})));
    KRAIT_ASSIGN_OR_RETURN(const Dfa few, dfa(rules_.repeat(rules_.chars(any_byte()), 1, 16)));
    return both(numbers, few);
  }

  Result<Dfa> zero() {
    return dfa(rules_.seq(
        {rules_.literal("0"), rules_.optional(rules_.seq({rules_.literal("."), zeros(1)}))}));
  }

  Result<Dfa> at_least(const Decimal& bound, bool is_strict) {
    const std::string& whole = bound.whole;
    const auto size = static_cast<std::uint32_t>(whole.size());
    std::vector<ExprId> parts = {
        rules_.seq({rules_.repeat(digits('0', '9'), size + 1, unbounded), any_fraction()})};
    add_beyond(whole, true, false, parts);
    std::vector<ExprId> rest = {};  // of those with the same whole part
    add_beyond(bound.fraction, true, true, rest);
    // The bound itself, and what is behind its last digit.
    const ExprId more = rules_.seq({any_digits(), digits('1', '9'), any_digits()});
    rest.push_back(rules_.seq({rules_.literal(bound.fraction), is_strict ? more : any_digits()}));
    const ExprId fraction = rules_.seq({rules_.literal("."), rules_.alt(rest)});
    parts.push_back(
        rules_.seq({rules_.literal(whole),
                    bound.fraction.empty() && !is_strict ? rules_.optional(fraction) : fraction}));
    return dfa(rules_.alt(parts));
  }

  Result<Dfa> at_most(const Decimal& bound, bool is_strict) {
    const std::string& whole = bound.whole;
    std::vector<ExprId> parts;
    if (whole.size() > 1) {
      parts.push_back(rules_.seq(
          {rules_.repeat(digits('0', '9'), 1, static_cast<std::uint32_t>(whole.size()) - 1),
           any_fraction()}));
    }
    add_beyond(whole, false, false, parts);
    const std::string& places = bound.fraction;
    std::vector<ExprId> rest;
    add_beyond(places, false, true, rest);
    for (std::size_t n = 1; n < places.size(); ++n) {
      rest.push_back(rules_.literal(places.substr(0, n)));
    }
    if (!is_strict) {
      rest.push_back(rules_.seq({rules_.literal(places), zeros(places.empty() ? 1 : 0)}));
    }
    const ExprId fraction = rules_.seq({rules_.literal("."), rules_.alt(rest)});
    if (!places.empty() || !is_strict) {
      parts.push_back(rules_.seq({rules_.literal(whole), rules_.optional(fraction)}));
    }
    return dfa(rules_.alt(parts));
  }

  // Multiples of `step` · 10^-places: the digits so far modulo `step`.
  Result<Dfa> multiples(std::uint32_t step, std::uint32_t places) {
    Nfa nfa;
    const std::uint32_t start = nfa.add();
    const std::uint32_t end = nfa.add();
    // [digits behind the point + 1, or 0 before it][remainder]
    std::vector<std::vector<std::uint32_t>> states(places + 2);
    for (auto& row : states) {
      for (std::uint32_t r = 0; r < step; ++r) row.push_back(nfa.add());
    }
    nfa.connect(start, states[0][0]);
    for (std::uint32_t phase = 0; phase < states.size(); ++phase) {
      for (std::uint32_t r = 0; r < step; ++r) {
        for (std::uint32_t d = 0; d < 10; ++d) {
          const auto byte = static_cast<std::uint8_t>('0' + d);
          if (phase <= places) {
            const std::uint32_t to = phase == 0 ? 0 : phase + 1;
            nfa.connect(states[phase][r], states[to][(10 * r + d) % step], byte, byte);
          } else if (d == 0) {
            nfa.connect(states[phase][r], states[phase][r], byte, byte);
          }
        }
        if (phase == 0) nfa.connect(states[0][r], states[1][r], '.', '.');
        std::uint64_t scaled = r;
        const std::uint32_t behind = phase == 0 ? 0 : phase - 1;
        for (std::uint32_t i = behind; i < places; ++i) scaled = scaled * 10 % step;
        if (scaled % step == 0) nfa.connect(states[phase][r], end);
      }
    }
    return checked(determinise(nfa, start, end, most_states, budget_));
  }

  Result<Dfa> both(const Dfa& a, const Dfa& b) {
    return checked(combine(a, b, Product::both, most_states, budget_));
  }
  Result<Dfa> without(const Dfa& a, const Dfa& b) {
    return checked(combine(a, b, Product::first_only, most_states, budget_));
  }

 private:
  static constexpr std::uint32_t most_states = 200'000;

  static Ranges any_byte() { return {{'-', '9'}}; }
  static Result<Dfa> checked(std::optional<Dfa> dfa) {
    if (dfa) return *std::move(dfa);
    return Error{ErrorCode::unsupported,
                 "[json-schema] number: expected a range of few digits, found one of too many"};
  }
  Result<Dfa> dfa(ExprId id) { return checked(to_dfa(rules_, id, most_states, budget_)); }
  ExprId digits(char first, char last) { return rules_.chars(digits_from(first, last)); }
  ExprId any_digits() { return rules_.repeat(digits('0', '9'), 0, unbounded); }
  ExprId zeros(std::uint32_t least) { return rules_.repeat(digits('0', '0'), least, unbounded); }
  ExprId any_fraction() {
    return rules_.optional(
        rules_.seq({rules_.literal("."), rules_.repeat(digits('0', '9'), 1, unbounded)}));
  }

  // Digits that leave the bound at some place, upwards or downwards, and what may follow: as many
  // digits as the bound has, or, behind the point, any.
  void add_beyond(const std::string& bound, bool is_up, bool is_fraction,
                  std::vector<ExprId>& parts) {
    for (std::size_t i = 0; i < bound.size(); ++i) {
      if (bound[i] == (is_up ? '9' : '0')) continue;
      const ExprId digit = is_up ? digits(static_cast<char>(bound[i] + 1), '9')
                                 : digits('0', static_cast<char>(bound[i] - 1));
      const auto left = static_cast<std::uint32_t>(bound.size() - i - 1);
      const ExprId behind =
          is_fraction ? any_digits()
                      : rules_.seq({rules_.repeat(digits('0', '9'), left, left), any_fraction()});
      parts.push_back(rules_.seq({rules_.literal(bound.substr(0, i)), digit, behind}));
    }
  }

  Rules& rules_;
  Budget& budget_;
};

Result<Dfa> narrowed(Digits& digits, Dfa dfa, const std::vector<NumberRange::Bound>& bounds,
                     bool is_least) {
  for (const auto& bound : bounds) {
    KRAIT_ASSIGN_OR_RETURN(const Dfa side, is_least ? digits.at_least(bound.value, bound.is_strict)
                                                    : digits.at_most(bound.value, bound.is_strict));
    KRAIT_ASSIGN_OR_RETURN(dfa, digits.both(dfa, side));
  }
  return dfa;
}

bool is_zero(const Decimal& value) { return value.whole == "0" && value.fraction.empty(); }

// The numbers of one sign, without it.
Result<Dfa> magnitudes(Digits& digits, const NumberRange& range, Dfa dfa, bool is_negative) {
  std::vector<NumberRange::Bound> least;
  std::vector<NumberRange::Bound> most;
  for (const auto& bound : is_negative ? range.most : range.least) {
    const bool counts =
        bound.value.is_negative == is_negative && (!is_zero(bound.value) || bound.is_strict);
    if (counts) least.push_back(bound);
    // Zero or more, of negative numbers; a negative number or less, of others: none.
  }
  for (const auto& bound : is_negative ? range.least : range.most) {
    if (bound.value.is_negative != is_negative || (is_negative && is_zero(bound.value))) {
      return Dfa();
    }
    most.push_back(bound);
  }
  KRAIT_ASSIGN_OR_RETURN(dfa, narrowed(digits, std::move(dfa), least, true));
  return narrowed(digits, std::move(dfa), most, false);
}

// As a whole number of 10^-places.
Result<std::pair<std::uint32_t, std::uint32_t>> multiple_of(const Metadata& value) {
  const auto decimal = to_decimal(value);
  const double number = value.number().value_or(0.0);
  constexpr double binary = 64.0;  // a sixty-fourth is exact in both
  if (!decimal || decimal->is_negative || !(number > 0.0) || number > 10000.0 ||
      number * binary != std::floor(number * binary)) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[json-schema] multipleOf: expected a number above 0, at most 10000, "
                             "that is exact in binary, found {}",
                             json_text(value))};
  }
  std::uint64_t step = 0;
  for (const char c : decimal->whole + decimal->fraction) {
    step = step * 10 + static_cast<unsigned>(c - '0');
  }
  if (step > 20000) {
    return Error{
        ErrorCode::unsupported,
        fmt::format("[json-schema] multipleOf: expected few digits, found {}", json_text(value))};
  }
  return std::pair(static_cast<std::uint32_t>(step),
                   static_cast<std::uint32_t>(decimal->fraction.size()));
}

}  // namespace

ExprId json_chars(Rules& rules, const Ranges& ranges) {
  // As it stands: all but control characters, quote and backslash.
  const Ranges special = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  const Ranges outside = code_sets::complement(ranges);
  std::vector<ExprId> parts = {
      rules.chars(code_sets::complement(code_sets::united(outside, special)))};
  for (char32_t code = 0; code <= '\\'; ++code) {
    const bool is_special = code < 0x20 || code == '"' || code == '\\';
    if (!is_special || std::ranges::none_of(ranges, [&](const auto& range) {
          return range.first <= code && code <= range.last;
        })) {
      continue;
    }
    const char c = static_cast<char>(code);
    parts.push_back(rules.literal(json_escaped({&c, 1})));
  }
  return rules.alt(std::move(parts));
}

std::string json_escaped(std::string_view text) {
  std::string quoted;
  append_json_string(quoted, text);
  return quoted.substr(1, quoted.size() - 2);
}

bool is_same_json(const Metadata& a, const Metadata& b) {
  if (const auto* one = a.array()) {
    const auto* other = b.array();
    return other != nullptr && std::ranges::equal(*one, *other, is_same_json);
  }
  if (const auto* one = a.object()) {
    return b.object() != nullptr && a.size() == b.size() &&
           std::ranges::all_of(*one, [&](const Metadata::Member& member) {
             const auto same = std::ranges::find(*b.object(), member.key, &Metadata::Member::key);
             return same != b.object()->end() && is_same_json(member.value, same->value);
           });
  }
  if (a == b) return true;
  const auto x = a.number();
  const auto y = b.number();
  const bool are_both_exact = (a.integer() || a.whole()) && (b.integer() || b.whole());
  return x && y && *x == *y && !are_both_exact;
}

std::string json_spaced(const Metadata& value) {
  std::string text;
  if (value.is_null()) return "null";
  if (const auto boolean = value.boolean()) return *boolean ? "true" : "false";
  if (const std::string* string = value.text()) return '"' + json_escaped(*string) + '"';
  if (const auto* array = value.array()) {
    for (const Metadata& item : *array) text += (text.empty() ? "" : ", ") + json_spaced(item);
    return '[' + text + ']';
  }
  if (const auto* object = value.object()) {
    for (const auto& [key, member] : *object) {
      text += (text.empty() ? "\"" : ", \"") + json_escaped(key) + "\": " + json_spaced(member);
    }
    return '{' + text + '}';
  }
  if (const auto integer = value.integer()) return fmt::to_string(*integer);
  if (const auto whole = value.whole()) return fmt::to_string(*whole);
  text = fmt::format("{}", *value.number());
  return text;
}

std::optional<std::string_view> json_format(std::string_view name) {
  for (const Format& format : formats) {
    if (format.name == name) return format.pattern;
  }
  return std::nullopt;
}

std::string json_formats() {
  std::string names;
  for (const Format& format : formats) names.append(names.empty() ? "" : ", ").append(format.name);
  return names;
}

std::optional<Decimal> to_decimal(const Metadata& value) {
  std::string text;
  if (const auto integer = value.integer()) {
    text = fmt::to_string(*integer);
  } else if (const auto whole = value.whole()) {
    text = fmt::to_string(*whole);
  } else if (const auto number = value.number(); number && std::isfinite(*number)) {
    std::array<char, 1200> buffer;
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), *number,
                                   std::chars_format::fixed);
    text.assign(buffer.data(), end.ptr);
  } else {
    return std::nullopt;
  }
  Decimal decimal;
  decimal.is_negative = text.starts_with('-');
  text.erase(0, decimal.is_negative ? 1 : 0);
  const std::size_t point = text.find('.');
  decimal.whole = text.substr(0, point);
  if (point != std::string::npos) {
    decimal.fraction = text.substr(point + 1);
    decimal.fraction.erase(decimal.fraction.find_last_not_of('0') + 1);
  }
  if (is_zero(decimal)) decimal.is_negative = false;
  return decimal;
}

Result<ExprId> json_number(Rules& rules, const NumberRange& range, bool may_have_exponent,
                           Budget& budget) {
  Digits digits(rules, budget);
  for (const auto& bounds : {range.least, range.most}) {
    for (const auto& bound : bounds) {
      const std::size_t size = bound.value.whole.size() + bound.value.fraction.size();
      if (bound.is_strict && size > 15 && !range.is_integer) {
        return Error{ErrorCode::unsupported,
                     "[json-schema] number: expected an exclusive bound of at most 15 digits, "
                     "found more"};
      }
    }
  }
  if (range.is_free() && !range.is_integer) {
    const ExprId exponent = rules.seq({rules.chars({{'E', 'E'}, {'e', 'e'}}),
                                       rules.optional(rules.chars({{'+', '+'}, {'-', '-'}})),
                                       rules.repeat(rules.chars({{'0', '9'}}), 1, 2)});
    KRAIT_ASSIGN_OR_RETURN(Dfa numbers, digits.all(false));
    return rules.seq({rules.optional(rules.literal("-")), rules.dfa(std::move(numbers)),
                      may_have_exponent ? rules.optional(exponent) : rules.empty()});
  }
  KRAIT_ASSIGN_OR_RETURN(Dfa all, digits.all(range.is_integer));
  for (const Metadata& multiple : range.multiples) {
    KRAIT_ASSIGN_OR_RETURN(const auto step, multiple_of(multiple));
    KRAIT_ASSIGN_OR_RETURN(const Dfa multiples, digits.multiples(step.first, step.second));
    KRAIT_ASSIGN_OR_RETURN(all, digits.both(all, multiples));
  }
  KRAIT_ASSIGN_OR_RETURN(const Dfa zero, digits.zero());
  KRAIT_ASSIGN_OR_RETURN(const Dfa above_zero, digits.without(all, zero));
  KRAIT_ASSIGN_OR_RETURN(Dfa positive, magnitudes(digits, range, all, false));
  KRAIT_ASSIGN_OR_RETURN(Dfa negative, magnitudes(digits, range, above_zero, true));
  return rules.alt({rules.dfa(std::move(positive)),
                    rules.seq({rules.literal("-"), rules.dfa(std::move(negative))})});
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
