#include "text/template/characters.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "core/utf8.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

using unicode::Category;

// Characters whose upper or title case is several (SpecialCasing of the Unicode standard).
struct LongCase {
  char32_t code;
  std::array<char32_t, 3> upper, title;
};
constexpr LongCase long_cases[] = {{0xDF, {0x53, 0x53, 0}, {0x53, 0x73, 0}},
                                   {0x149, {0x2BC, 0x4E, 0}, {0x2BC, 0x4E, 0}},
                                   {0x1F0, {0x4A, 0x30C, 0}, {0x4A, 0x30C, 0}},
                                   {0x390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
                                   {0x3B0, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}},
                                   {0x587, {0x535, 0x552, 0}, {0x535, 0x582, 0}},
                                   {0x1E96, {0x48, 0x331, 0}, {0x48, 0x331, 0}},
                                   {0x1E97, {0x54, 0x308, 0}, {0x54, 0x308, 0}},
                                   {0x1E98, {0x57, 0x30A, 0}, {0x57, 0x30A, 0}},
                                   {0x1E99, {0x59, 0x30A, 0}, {0x59, 0x30A, 0}},
                                   {0x1E9A, {0x41, 0x2BE, 0}, {0x41, 0x2BE, 0}},
                                   {0x1F50, {0x3A5, 0x313, 0}, {0x3A5, 0x313, 0}},
                                   {0x1F52, {0x3A5, 0x313, 0x300}, {0x3A5, 0x313, 0x300}},
                                   {0x1F54, {0x3A5, 0x313, 0x301}, {0x3A5, 0x313, 0x301}},
                                   {0x1F56, {0x3A5, 0x313, 0x342}, {0x3A5, 0x313, 0x342}},
                                   {0x1F80, {0x1F08, 0x399, 0}, {0x1F88, 0, 0}},
                                   {0x1F81, {0x1F09, 0x399, 0}, {0x1F89, 0, 0}},
                                   {0x1F82, {0x1F0A, 0x399, 0}, {0x1F8A, 0, 0}},
                                   {0x1F83, {0x1F0B, 0x399, 0}, {0x1F8B, 0, 0}},
                                   {0x1F84, {0x1F0C, 0x399, 0}, {0x1F8C, 0, 0}},
                                   {0x1F85, {0x1F0D, 0x399, 0}, {0x1F8D, 0, 0}},
                                   {0x1F86, {0x1F0E, 0x399, 0}, {0x1F8E, 0, 0}},
                                   {0x1F87, {0x1F0F, 0x399, 0}, {0x1F8F, 0, 0}},
                                   {0x1F88, {0x1F08, 0x399, 0}, {0x1F88, 0, 0}},
                                   {0x1F89, {0x1F09, 0x399, 0}, {0x1F89, 0, 0}},
                                   {0x1F8A, {0x1F0A, 0x399, 0}, {0x1F8A, 0, 0}},
                                   {0x1F8B, {0x1F0B, 0x399, 0}, {0x1F8B, 0, 0}},
                                   {0x1F8C, {0x1F0C, 0x399, 0}, {0x1F8C, 0, 0}},
                                   {0x1F8D, {0x1F0D, 0x399, 0}, {0x1F8D, 0, 0}},
                                   {0x1F8E, {0x1F0E, 0x399, 0}, {0x1F8E, 0, 0}},
                                   {0x1F8F, {0x1F0F, 0x399, 0}, {0x1F8F, 0, 0}},
                                   {0x1F90, {0x1F28, 0x399, 0}, {0x1F98, 0, 0}},
                                   {0x1F91, {0x1F29, 0x399, 0}, {0x1F99, 0, 0}},
                                   {0x1F92, {0x1F2A, 0x399, 0}, {0x1F9A, 0, 0}},
                                   {0x1F93, {0x1F2B, 0x399, 0}, {0x1F9B, 0, 0}},
                                   {0x1F94, {0x1F2C, 0x399, 0}, {0x1F9C, 0, 0}},
                                   {0x1F95, {0x1F2D, 0x399, 0}, {0x1F9D, 0, 0}},
                                   {0x1F96, {0x1F2E, 0x399, 0}, {0x1F9E, 0, 0}},
                                   {0x1F97, {0x1F2F, 0x399, 0}, {0x1F9F, 0, 0}},
                                   {0x1F98, {0x1F28, 0x399, 0}, {0x1F98, 0, 0}},
                                   {0x1F99, {0x1F29, 0x399, 0}, {0x1F99, 0, 0}},
                                   {0x1F9A, {0x1F2A, 0x399, 0}, {0x1F9A, 0, 0}},
                                   {0x1F9B, {0x1F2B, 0x399, 0}, {0x1F9B, 0, 0}},
                                   {0x1F9C, {0x1F2C, 0x399, 0}, {0x1F9C, 0, 0}},
                                   {0x1F9D, {0x1F2D, 0x399, 0}, {0x1F9D, 0, 0}},
                                   {0x1F9E, {0x1F2E, 0x399, 0}, {0x1F9E, 0, 0}},
                                   {0x1F9F, {0x1F2F, 0x399, 0}, {0x1F9F, 0, 0}},
                                   {0x1FA0, {0x1F68, 0x399, 0}, {0x1FA8, 0, 0}},
                                   {0x1FA1, {0x1F69, 0x399, 0}, {0x1FA9, 0, 0}},
                                   {0x1FA2, {0x1F6A, 0x399, 0}, {0x1FAA, 0, 0}},
                                   {0x1FA3, {0x1F6B, 0x399, 0}, {0x1FAB, 0, 0}},
                                   {0x1FA4, {0x1F6C, 0x399, 0}, {0x1FAC, 0, 0}},
                                   {0x1FA5, {0x1F6D, 0x399, 0}, {0x1FAD, 0, 0}},
                                   {0x1FA6, {0x1F6E, 0x399, 0}, {0x1FAE, 0, 0}},
                                   {0x1FA7, {0x1F6F, 0x399, 0}, {0x1FAF, 0, 0}},
                                   {0x1FA8, {0x1F68, 0x399, 0}, {0x1FA8, 0, 0}},
                                   {0x1FA9, {0x1F69, 0x399, 0}, {0x1FA9, 0, 0}},
                                   {0x1FAA, {0x1F6A, 0x399, 0}, {0x1FAA, 0, 0}},
                                   {0x1FAB, {0x1F6B, 0x399, 0}, {0x1FAB, 0, 0}},
                                   {0x1FAC, {0x1F6C, 0x399, 0}, {0x1FAC, 0, 0}},
                                   {0x1FAD, {0x1F6D, 0x399, 0}, {0x1FAD, 0, 0}},
                                   {0x1FAE, {0x1F6E, 0x399, 0}, {0x1FAE, 0, 0}},
                                   {0x1FAF, {0x1F6F, 0x399, 0}, {0x1FAF, 0, 0}},
                                   {0x1FB2, {0x1FBA, 0x399, 0}, {0x1FBA, 0x345, 0}},
                                   {0x1FB3, {0x391, 0x399, 0}, {0x1FBC, 0, 0}},
                                   {0x1FB4, {0x386, 0x399, 0}, {0x386, 0x345, 0}},
                                   {0x1FB6, {0x391, 0x342, 0}, {0x391, 0x342, 0}},
                                   {0x1FB7, {0x391, 0x342, 0x399}, {0x391, 0x342, 0x345}},
                                   {0x1FBC, {0x391, 0x399, 0}, {0x1FBC, 0, 0}},
                                   {0x1FC2, {0x1FCA, 0x399, 0}, {0x1FCA, 0x345, 0}},
                                   {0x1FC3, {0x397, 0x399, 0}, {0x1FCC, 0, 0}},
                                   {0x1FC4, {0x389, 0x399, 0}, {0x389, 0x345, 0}},
                                   {0x1FC6, {0x397, 0x342, 0}, {0x397, 0x342, 0}},
                                   {0x1FC7, {0x397, 0x342, 0x399}, {0x397, 0x342, 0x345}},
                                   {0x1FCC, {0x397, 0x399, 0}, {0x1FCC, 0, 0}},
                                   {0x1FD2, {0x399, 0x308, 0x300}, {0x399, 0x308, 0x300}},
                                   {0x1FD3, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
                                   {0x1FD6, {0x399, 0x342, 0}, {0x399, 0x342, 0}},
                                   {0x1FD7, {0x399, 0x308, 0x342}, {0x399, 0x308, 0x342}},
                                   {0x1FE2, {0x3A5, 0x308, 0x300}, {0x3A5, 0x308, 0x300}},
                                   {0x1FE3, {0x3A5, 0x308, 0x301}, {0x3A5, 0x308, 0x301}},
                                   {0x1FE4, {0x3A1, 0x313, 0}, {0x3A1, 0x313, 0}},
                                   {0x1FE6, {0x3A5, 0x342, 0}, {0x3A5, 0x342, 0}},
                                   {0x1FE7, {0x3A5, 0x308, 0x342}, {0x3A5, 0x308, 0x342}},
                                   {0x1FF2, {0x1FFA, 0x399, 0}, {0x1FFA, 0x345, 0}},
                                   {0x1FF3, {0x3A9, 0x399, 0}, {0x1FFC, 0, 0}},
                                   {0x1FF4, {0x38F, 0x399, 0}, {0x38F, 0x345, 0}},
                                   {0x1FF6, {0x3A9, 0x342, 0}, {0x3A9, 0x342, 0}},
                                   {0x1FF7, {0x3A9, 0x342, 0x399}, {0x3A9, 0x342, 0x345}},
                                   {0x1FFC, {0x3A9, 0x399, 0}, {0x1FFC, 0, 0}},
                                   {0xFB00, {0x46, 0x46, 0}, {0x46, 0x66, 0}},
                                   {0xFB01, {0x46, 0x49, 0}, {0x46, 0x69, 0}},
                                   {0xFB02, {0x46, 0x4C, 0}, {0x46, 0x6C, 0}},
                                   {0xFB03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
                                   {0xFB04, {0x46, 0x46, 0x4C}, {0x46, 0x66, 0x6C}},
                                   {0xFB05, {0x53, 0x54, 0}, {0x53, 0x74, 0}},
                                   {0xFB06, {0x53, 0x54, 0}, {0x53, 0x74, 0}},
                                   {0xFB13, {0x544, 0x546, 0}, {0x544, 0x576, 0}},
                                   {0xFB14, {0x544, 0x535, 0}, {0x544, 0x565, 0}},
                                   {0xFB15, {0x544, 0x53B, 0}, {0x544, 0x56B, 0}},
                                   {0xFB16, {0x54E, 0x546, 0}, {0x54E, 0x576, 0}},
                                   {0xFB17, {0x544, 0x53D, 0}, {0x544, 0x56D, 0}}};

const LongCase* long_case(char32_t code) noexcept {
  const auto* found = std::lower_bound(std::begin(long_cases), std::end(long_cases), code,
                                       [](const LongCase& a, char32_t b) { return a.code < b; });
  return found == std::end(long_cases) || found->code != code ? nullptr : found;
}

void append(std::string& text, const std::array<char32_t, 3>& codes) {
  for (const char32_t code : codes) {
    if (code != 0) utf8::append(text, code);
  }
}

void append_upper(std::string& text, char32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code >= 'a' && code <= 'z' ? code - 0x20 : code);
  } else if (const LongCase* found = long_case(code)) {
    append(text, found->upper);
  } else {
    utf8::append(text, static_cast<char32_t>(utf8proc_toupper(static_cast<int>(code))));
  }
}

void append_title(std::string& text, char32_t code) {
  if (const LongCase* found = code < 0x80 ? nullptr : long_case(code)) {
    append(text, found->title);
  } else {
    utf8::append(text, static_cast<char32_t>(utf8proc_totitle(static_cast<int>(code))));
  }
}

bool is_cased(char32_t code) noexcept {
  return is_upper(code) || is_lower(code) || unicode::category(code) == Category::lt;
}

// What the rule of the final sigma looks through.
bool is_ignorable(char32_t code) noexcept {
  const Category category = unicode::category(code);
  return category == Category::mn || category == Category::me || category == Category::cf ||
         category == Category::lm || category == Category::sk || code == '\'' || code == '.' ||
         code == ':' || code == 0xB7 || code == 0x2018 || code == 0x2019 || code == 0x2024 ||
         code == 0x2027;
}

bool is_final_sigma(std::string_view text, std::size_t begin, std::size_t end) noexcept {
  const auto looked_at = [&](std::size_t at) { return utf8::next(text, at); };
  std::size_t before = begin;
  while (before > 0) {
    before = utf8::before(text, before);
    if (!is_ignorable(looked_at(before))) break;
    if (before == 0) return false;
  }
  if (before == begin || !is_cased(looked_at(before))) return false;
  while (end < text.size()) {
    const char32_t code = utf8::next(text, end);
    if (!is_ignorable(code)) return !is_cased(code);
  }
  return true;
}

// The lower case of the character at `at`, which moves behind it.
void append_lower(std::string& result, std::string_view text, std::size_t& at) {
  const std::size_t begin = at;
  const char32_t code = utf8::next(text, at);
  if (code < 0x80) {
    result += static_cast<char>(code >= 'A' && code <= 'Z' ? code + 0x20 : code);
  } else if (code == 0x130) {
    result += "i\xCC\x87";
  } else if (code == 0x3A3) {
    utf8::append(result, is_final_sigma(text, begin, at) ? 0x3C2 : 0x3C3);
  } else {
    utf8::append(result, static_cast<char32_t>(utf8proc_tolower(static_cast<int>(code))));
  }
}

using unicode::CodeRange;

// What is Numeric_Type=Digit beside Nd.
constexpr CodeRange other_digits[] = {
    {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
    {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
    {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
    {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
    {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};

bool is_in(std::span<const CodeRange> ranges, char32_t code) noexcept {
  return std::any_of(ranges.begin(), ranges.end(), [code](const CodeRange& range) {
    return code >= range.first && code <= range.last;
  });
}

}  // namespace

std::size_t count_characters(std::string_view text) noexcept {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

std::size_t find_part(std::string_view text, std::string_view part, std::size_t from) noexcept {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  const std::string_view rest = text.substr(from);
  const void* const found = memmem(rest.data(), rest.size(), part.data(), part.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

std::size_t byte_of(std::string_view text, std::size_t index) noexcept {
  if (utf8::ascii_prefix(text, 0) >= std::min(index, text.size())) {
    return std::min(index, text.size());
  }
  std::size_t at = 0;
  for (; index > 0 && at < text.size(); --index) utf8::next(text, at);
  return at;
}

bool is_space(char32_t code) noexcept {
  return code == ' ' || (code >= '\t' && code <= '\r') || (code >= 0x1C && code <= 0x1F) ||
         (code >= 0x80 && unicode::is_space(code));
}

bool ends_line(char32_t code) noexcept {
  return (code >= '\n' && code <= '\r') || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

bool is_printable(char32_t code) noexcept {
  if (code < 0x7F) return code >= ' ';
  switch (unicode::category(code)) {
    case Category::cn:
    case Category::cc:
    case Category::cf:
    case Category::co:
    case Category::cs:
    case Category::zl:
    case Category::zp:
    case Category::zs:
      return false;
    default:
      return true;
  }
}

std::size_t begin_of_strip(std::string_view text, const std::string_view* set) noexcept {
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::size_t next = begin;
    const char32_t code = utf8::next(text, next);
    const std::string_view character = text.substr(begin, next - begin);
    if (set != nullptr ? set->find(character) == std::string_view::npos : !is_space(code)) break;
    begin = next;
  }
  return begin;
}

std::size_t end_of_strip(std::string_view text, std::size_t begin,
                         const std::string_view* set) noexcept {
  std::size_t end = text.size();
  while (end > begin) {
    const std::size_t before = utf8::before(text, end);
    std::size_t at = before;
    const char32_t code = utf8::next(text, at);
    const std::string_view character = text.substr(before, end - before);
    if (set != nullptr ? set->find(character) == std::string_view::npos : !is_space(code)) break;
    end = before;
  }
  return end;
}

bool is_upper(char32_t code) noexcept {
  if (code < 0x80) return code >= 'A' && code <= 'Z';
  return unicode::category(code) == Category::lu || is_in(unicode::other_uppercase(), code);
}

bool is_lower(char32_t code) noexcept {
  if (code < 0x80) return code >= 'a' && code <= 'z';
  return unicode::category(code) == Category::ll || is_in(unicode::other_lowercase(), code);
}

bool is_any_digit(char32_t code) noexcept {
  return unicode::category(code) == Category::nd || is_in(other_digits, code);
}

std::string upper(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) append_upper(result, utf8::next(text, at));
  return result;
}

std::string lower(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) append_lower(result, text, at);
  return result;
}

std::string title(std::string_view text) {
  std::string result;
  bool is_within = false;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t next = at;
    const char32_t code = utf8::next(text, next);
    if (is_within) {
      append_lower(result, text, at);
    } else {
      append_title(result, code);
      at = next;
    }
    is_within = is_cased(code);
  }
  return result;
}

std::string capitalize(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    if (at == 0) {
      append_title(result, utf8::next(text, at));
    } else {
      append_lower(result, text, at);
    }
  }
  return result;
}

std::string swapcase(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t next = at;
    const char32_t code = utf8::next(text, next);
    if (is_upper(code)) {
      append_lower(result, text, at);
    } else if (is_lower(code)) {
      append_upper(result, code);
      at = next;
    } else {
      result += text.substr(at, next - at);
      at = next;
    }
  }
  return result;
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
