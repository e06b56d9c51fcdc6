#pragma once

/// \file
/// What Python's strings do with characters.

#include <cstddef>
#include <string>
#include <string_view>

namespace krait {
inline namespace v0_1 {
namespace jinja {

/// Code points of well-formed text.
std::size_t count_characters(std::string_view text) noexcept;
/// The byte where code point `index` begins; the size behind the last.
std::size_t byte_of(std::string_view text, std::size_t index) noexcept;

/// Where `part` begins in the text from a byte on, as std::string::find says it; in linear time.
std::size_t find_part(std::string_view text, std::string_view part, std::size_t from) noexcept;

/// str.isspace of one character.
bool is_space(char32_t code) noexcept;
/// Whether str.splitlines breaks a line behind it.
bool ends_line(char32_t code) noexcept;
/// Whether repr shows it as it is.
bool is_printable(char32_t code) noexcept;

/// Where the text begins and ends without white space, or without the characters of `set`.
std::size_t begin_of_strip(std::string_view text, const std::string_view* set) noexcept;
std::size_t end_of_strip(std::string_view text, std::size_t begin,
                         const std::string_view* set) noexcept;

/// str.upper, str.lower, str.title, str.capitalize, str.swapcase.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);

/// str.isdigit of one character.
bool is_any_digit(char32_t code) noexcept;

/// Whether the character has upper and lower forms, and which one this is.
bool is_upper(char32_t code) noexcept;
bool is_lower(char32_t code) noexcept;

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
