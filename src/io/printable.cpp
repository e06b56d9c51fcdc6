#include "krait/io/printable.hpp"

#include <algorithm>
#include <iterator>

#include "core/utf8.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::size_t largest_message = 2000;

bool is_harmless(char32_t code) {
  constexpr struct {
    char32_t first;
    char32_t last;
  } refused[] = {{0x00, 0x1F},      {0x7F, 0x9F},     {0xAD, 0xAD},     {0x61C, 0x61C},
                 {0x180E, 0x180E},  {0x200B, 0x200F}, {0x2028, 0x202E}, {0x2060, 0x206F},
                 {0xFE00, 0xFE0F},  {0xFEFF, 0xFEFF}, {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF},
                 {0xE0000, 0xE0FFF}};
  return std::none_of(std::begin(refused), std::end(refused),
                      [&](const auto& range) { return code >= range.first && code <= range.last; });
}

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
  std::string result;
  result.reserve(std::min(text.size(), limit + 3));
  for (std::size_t i = 0; i < text.size();) {
    if (result.size() >= limit) return result + "...";
    const utf8::Step next = utf8::step(text, i);
    const bool is_whole = next.form == utf8::Form::complete;
    if (is_whole && is_harmless(next.code)) {
      result += text.substr(i, next.length);
      i += next.length;
    } else {
      result += '?';
      i += is_whole ? next.length : 1;
    }
  }
  return result;
}

Error printable(Error error) {
  error.message = printable(error.message, largest_message);
  return error;
}

}  // namespace v0_1
}  // namespace krait
