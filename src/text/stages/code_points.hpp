#pragma once

#include <string>
#include <string_view>

#include "core/utf8.hpp"
#include "text/stages/charsmap.hpp"
#include "text/unicode/unicode.hpp"

/// Steps of normalizers that look at one code point after another.
namespace krait {
inline namespace v0_1 {
namespace code_points {

/// The text, well-formed UTF-8, without the code points for which `is_removed` holds.
template <class IsRemoved>
std::string without(std::string_view text, const IsRemoved& is_removed) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    const char32_t code = utf8::next(text, i);
    if (code < 0x80 || !is_removed(code)) result.append(text.substr(begin, i - begin));
  }
  return result;
}

/// Controls, formats, private and surrogate code points but for white space, and U+FFFD.
bool is_removed_by_bert(char32_t code) noexcept;

/// Code points that BERT takes for words of their own, by its authors' ranges.
bool is_han_of_bert(char32_t code) noexcept;

/// The clean-up of NMT models: controls go, kinds of space become a space.
std::string nmt(std::string_view text);

/// The text after a table, as `tokenizers` applies it: to grapheme clusters below 6 bytes, else to
/// code points; the shortest match decides for all of it. Stops behind `room` bytes.
std::string mapped(const Charsmap& map, std::string_view text, std::size_t room);

}  // namespace code_points
}  // namespace v0_1
}  // namespace krait
