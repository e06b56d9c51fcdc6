#pragma once

/// \file
/// Methods of values, and what methods and filters have in common.

#include <string_view>

#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

/// A method; without a function one that this renderer lacks.
struct Method {
  std::string_view name;
  Callable::Function function;
};

/// Null for what is no method of strings.
const Method* find_string_method(std::string_view name) noexcept;

/// Without white space, or without the characters of `set`, at either end.
Value strip_text(Budget& budget, const String& text, const std::string_view* set, bool left,
                 bool right);
/// str.replace; a negative count replaces all.
Value replace_text(Budget& budget, const String& text, const String& old, const String& by,
                   std::int64_t count);
/// Filled to a width with one character: left of the text (-1), right of it (1), or both (0).
Value pad_text(Budget& budget, const String& text, std::int64_t width, const String& fill,
               int side);
std::vector<Value> lines_of(Budget& budget, const String& text, bool with_ends);
/// str.isupper and str.islower.
bool has_one_case(std::string_view text, bool is_upper_case) noexcept;
/// str.istitle.
bool has_title_case(std::string_view text) noexcept;

bool is_letter(char32_t code);
bool is_decimal(char32_t code);
bool is_numeric(char32_t code);
bool is_alphanumeric(char32_t code);

/// int() and float() of a text; nothing where that is none.
std::optional<std::int64_t> parse_whole(std::string_view text, std::int64_t base);
std::optional<double> parse_real(std::string_view text);
/// A number without its fraction; fails where 64 bits do not hold it.
std::int64_t to_whole(double number);

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
