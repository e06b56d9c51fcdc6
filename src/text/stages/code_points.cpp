#include "text/stages/code_points.hpp"

namespace krait {
inline namespace v0_1 {
namespace code_points {

bool is_removed_by_bert(char32_t code) noexcept {
  if (code < 0x80)
    return (code < 0x20 && (code < '\t' || code > '\r')) || code == 0x7F || code == '\v' ||
           code == '\f';
  if (code == utf8::replacement) return true;
  const unicode::Category category = unicode::category(code);
  return category == unicode::Category::cc || category == unicode::Category::cf ||
         category == unicode::Category::co;
}

bool is_han_of_bert(char32_t code) noexcept {
  if (code < 0x3400) return false;
  return (code >= 0x4E00 && code <= 0x9FFF) || (code <= 0x4DBF) ||
         (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
         (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
         (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

std::string nmt(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const char32_t code = utf8::next(text, i);
    const bool is_space = code == '\t' || code == '\n' || code == '\f' || code == '\r' ||
                          code == 0x1680 || (code >= 0x200B && code <= 0x200F) || code == 0x2028 ||
                          code == 0x2029 || code == 0x2581 || code == 0xFEFF ||
                          code == utf8::replacement;
    if (is_space) {
      result += ' ';
    } else if (code == 0 || (code >= 0x20 && code != 0x7F && code != 0x8F && code != 0x9F)) {
      utf8::append(result, code);
    }
  }
  return result;
}

std::string mapped(const Charsmap& map, std::string_view text, std::size_t room) {
  std::string result;
  result.reserve(text.size());
  const auto append = [&](std::string_view part) {
    const Charsmap::Match match = map.shortest(part);
    result += match.size > 0 ? match.replacement : part;
  };
  for (std::size_t begin = 0; begin < text.size() && result.size() <= room;) {
    const std::size_t end = unicode::end_of_grapheme(text, begin);
    const std::string_view grapheme = text.substr(begin, end - begin);
    begin = end;
    if (grapheme.size() < 6) {
      const Charsmap::Match match = map.shortest(grapheme);
      if (match.size > 0) {
        result += match.replacement;
        continue;
      }
    }
    for (std::size_t i = 0; i < grapheme.size();) {
      const std::size_t first = i;
      utf8::next(grapheme, i);
      append(grapheme.substr(first, i - first));
    }
  }
  return result;
}

}  // namespace code_points
}  // namespace v0_1
}  // namespace krait
