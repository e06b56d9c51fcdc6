#pragma once

/// \file
/// Regular expressions as grammars.

#include <string_view>

#include "decoding/grammar/expr.hpp"
#include "krait/core/error.hpp"
#include "krait/core/function_ref.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

enum class Match {
  whole,   ///< the pattern stands for whole texts
  search,  ///< … for texts that have a match anywhere, as in a JSON schema
};

/// The texts of a pattern, in the syntax that Python, JavaScript and PCRE have in common: no
/// assertions but ^ and $ at the ends, no references back. `chars` writes one character of a set;
/// a JSON string writes some of them with a backslash. Errors: bad_format, and unsupported, by the
/// name of what it is.
///
/// Where the engines disagree, the texts are those that all of them match: \d, \w and \s are
/// ASCII, their complements leave out what Unicode counts among them.
Result<ExprId> parse_regex(Rules& rules, std::string_view pattern, Match match,
                           FunctionRef<ExprId(const Ranges&)> chars);

/// The set of all characters.
inline Ranges any_char() { return {{0, 0x10FFFF}}; }

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
