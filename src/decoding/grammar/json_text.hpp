#pragma once

/// \file
/// The scalars of JSON as grammars: strings and numbers, with what schemas ask of them.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "decoding/grammar/expr.hpp"
#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// One character of a set, as a JSON string has it: each character has one spelling, which is
/// itself unless JSON needs a backslash.
ExprId json_chars(Rules& rules, const Ranges& ranges);

/// What stands between the quotes.
std::string json_escaped(std::string_view text);

/// A value on one line, spaced as generated texts are.
std::string json_spaced(const Metadata& value);

/// Whether a reader of JSON takes them for the same value: 1 and 1.0 are, and members in any order.
bool is_same_json(const Metadata& a, const Metadata& b);

/// The pattern of a known `format`; nothing for others, whose names are in `json_formats`.
std::optional<std::string_view> json_format(std::string_view name);
std::string json_formats();

/// A number as it is written in full: "-", whole part, fraction without zeros at its end.
struct Decimal {
  bool is_negative = false;
  std::string whole = "0";
  std::string fraction = {};
};
/// Nothing for what is no number.
std::optional<Decimal> to_decimal(const Metadata& value);

/// What a schema says of a number.
struct NumberRange {
  struct Bound {
    Decimal value;
    bool is_strict = false;
  };
  bool is_integer = false;
  std::vector<Bound> least = {}, most = {};
  std::vector<Metadata> multiples = {};

  bool is_free() const noexcept { return least.empty() && most.empty() && multiples.empty(); }
};

/// The numbers of a range, of at most 15 digits, so that the binary numbers they become stand to
/// each other as what is written does. Errors: unsupported (multiples of what has
/// no exact binary number, or a range of too many digits).
Result<ExprId> json_number(Rules& rules, const NumberRange& range, bool may_have_exponent,
                           Budget& budget);

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
