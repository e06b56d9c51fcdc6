#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode/unicode.hpp"

/// Sets of code points as patterns name them, from the pinned table of categories. Spelled out, a
/// pattern means the same whatever version of Unicode the installed engine knows.
namespace krait {
inline namespace v0_1 {
namespace code_sets {

using Ranges = std::vector<unicode::CodeRange>;  // ascending, apart

Ranges of_categories(std::uint32_t categories);  ///< a bit for each unicode::Category
Ranges united(Ranges a, const Ranges& b);
Ranges complement(const Ranges& ranges);

/// The set of `\p{name}`: a general category or a script, short or long, in any spelling of case
/// and of words, or another name that has a set here.
std::optional<Ranges> named(std::string_view name);

/// The set as bits of categories, if it is made of categories.
std::optional<std::uint32_t> named_categories(std::string_view name);
inline constexpr std::uint32_t digit_categories = 1U << 13;  // nd

/// Members of a class that stand for the categories: the engine's own properties, which are several
/// times as fast as ranges, and what came to them since Unicode 14.0. Nothing if they also lost
/// something. `version` is the engine's version of Unicode; 14.0 and 16.0 are known.
std::optional<std::string> fast_members(std::uint32_t categories, std::string_view version);

/// The set of `[:name:]` in Oniguruma.
std::optional<Ranges> posix(std::string_view name);

const Ranges& spaces();  ///< White_Space
const Ranges& words();   ///< \w: Alphabetic, marks, decimal digits, connectors, numbers of Latin-1
const Ranges& words_in_classes();  ///< [\w] in Oniguruma: the same without the numbers of Latin-1
const Ranges& digits();            ///< \d: decimal digits

/// The members of a character class, without brackets. Empty if the set has none that a pattern can
/// write.
std::string members(const Ranges& ranges);

}  // namespace code_sets
}  // namespace v0_1
}  // namespace krait
