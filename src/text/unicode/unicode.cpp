#include "text/unicode/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/utf8.hpp"
#include "text/unicode/code_sets.hpp"

namespace krait {
inline namespace v0_1 {
namespace unicode {
namespace {

bool contains(std::span<const CodeRange> ranges, char32_t code) noexcept {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), code,
                       [](char32_t value, const CodeRange& range) { return value < range.first; });
  return after != ranges.begin() && code <= std::prev(after)->last;
}

// Code points below this limit are starters that never change and never join what stands before.
char32_t quick_limit(Form form) noexcept { return form == Form::nfc ? 0x300 : 0x80; }

// Han and Hangul, which are large and never later.
bool is_old_block(char32_t code) noexcept {
  return (code >= 0x3400 && code <= 0x4DB5) || (code >= 0x4E00 && code <= 0x9FD5) ||
         (code >= 0xAC00 && code <= 0xD7A3);
}

bool is_later(utf8proc_int32_t code) noexcept {
  const auto unsigned_code = static_cast<char32_t>(code);
  if (code < 0x7FD || is_old_block(unsigned_code)) return false;
  static const auto ranges =
      code_sets::united(code_sets::of_categories(1U << static_cast<unsigned>(Category::cn)),
                        code_sets::Ranges(later_ranges().begin(), later_ranges().end()));
  return contains(ranges, unsigned_code);
}

int combining_class(utf8proc_int32_t code) noexcept {
  if (is_later(code)) return 0;
  return utf8proc_get_property(code)->combining_class;
}

// Sorts every run of marks by combining class, keeping the order of equal ones. utf8proc's own
// reordering is quadratic in the length of a run.
void reorder_marks(std::vector<utf8proc_int32_t>& codes) {
  const auto is_starter = [](utf8proc_int32_t code) { return combining_class(code) == 0; };
  for (auto begin = codes.begin(); begin != codes.end();) {
    begin = std::find_if_not(begin, codes.end(), is_starter);
    const auto end = std::find_if(begin, codes.end(), is_starter);
    if (end - begin > 1) {
      std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
        return combining_class(a) < combining_class(b);
      });
    }
    begin = end;
  }
}

void append_decomposed(char32_t code, bool is_compatible, std::vector<utf8proc_int32_t>& codes) {
  const auto signed_code = static_cast<utf8proc_int32_t>(code);
  std::array<utf8proc_int32_t, 32> parts;  // the longest decomposition has 18
  int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (is_compatible) options |= UTF8PROC_COMPAT;
  int boundary = 0;
  const auto most = static_cast<utf8proc_ssize_t>(parts.size());
  const auto count =
      is_later(signed_code)
          ? 0
          : utf8proc_decompose_char(signed_code, parts.data(), most,
                                    static_cast<utf8proc_option_t>(options), &boundary);
  if (count > 0 && count <= most) {
    codes.insert(codes.end(), parts.begin(), parts.begin() + count);
  } else {
    codes.push_back(signed_code);
  }
}

// Composes each stretch between later code points by itself: nothing combines with those.
void compose(std::vector<utf8proc_int32_t>& codes) {
  auto written = codes.begin();
  for (auto begin = codes.begin(); begin != codes.end();) {
    if (is_later(*begin)) {
      *written++ = *begin++;
      continue;
    }
    const auto end = std::find_if(begin, codes.end(), is_later);
    const auto length = utf8proc_normalize_utf32(
        &*begin, end - begin, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    written = std::copy(begin, begin + length, written);
    begin = end;
  }
  codes.erase(written, codes.end());
}

void append_normalized(std::string_view part, Form form, std::vector<utf8proc_int32_t>& codes,
                       std::string& result) {
  codes.clear();
  for (std::size_t i = 0; i < part.size();) {
    const char32_t code = utf8::next(part, i);
    append_decomposed(code, form == Form::nfkc || form == Form::nfkd, codes);
  }
  reorder_marks(codes);
  if (form == Form::nfc || form == Form::nfkc) {
    compose(codes);
  }
  for (const utf8proc_int32_t code : codes) {
    utf8::append(result, static_cast<char32_t>(code));
  }
}

std::size_t quick_prefix(std::string_view text, std::size_t position, char32_t limit) noexcept {
  const std::size_t begin = position;
  while (position < text.size()) {
    position += utf8::ascii_prefix(text, position);
    std::size_t after = position;
    if (position == text.size() || utf8::next(text, after) >= limit) {
      break;
    }
    position = after;
  }
  return position - begin;
}

constexpr Kind latin1_kind(unsigned code) noexcept {
  const unsigned lower = code | 0x20U;
  if (code == ' ' || (code >= '\t' && code <= '\r') || code == 0x85 || code == 0xA0) {
    return Kind::space;
  }
  if ((code >= '0' && code <= '9') || code == 0xB2 || code == 0xB3 || code == 0xB9 ||
      (code >= 0xBC && code <= 0xBE)) {
    return Kind::number;
  }
  if ((lower >= 'a' && lower <= 'z') || code == 0xAA || code == 0xB5 || code == 0xBA ||
      (code >= 0xC0 && code != 0xD7 && code != 0xF7)) {
    return Kind::letter;
  }
  return Kind::other;
}

}  // namespace

constexpr std::array<Kind, 256> latin1_kinds = [] {
  std::array<Kind, 256> kinds{};
  for (unsigned code = 0; code < kinds.size(); ++code) {
    kinds[code] = latin1_kind(code);
  }
  return kinds;
}();

Kind kind_beyond_latin1(char32_t code) noexcept {
  if (is_space(code)) return Kind::space;
  // The blocks of ideographs and Hangul are dense: spare them the search.
  if ((code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xAC00 && code <= 0xD7A3)) return Kind::letter;
  if (contains(letter_ranges(), code)) return Kind::letter;
  if (contains(number_ranges(), code)) return Kind::number;
  return Kind::other;
}

bool is_space(char32_t code) noexcept {
  if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

Category category(char32_t code) noexcept {
  const auto runs = category_runs();
  const auto after = std::upper_bound(
      runs.begin(), runs.end(), code,
      [](char32_t value, std::uint32_t run) { return value < static_cast<char32_t>(run >> 5U); });
  return static_cast<Category>(*std::prev(after) & 31U);
}

std::size_t script(char32_t code) noexcept {
  const auto scripts = script_runs();
  const auto after = std::upper_bound(
      scripts.begin(), scripts.end(), code,
      [](char32_t value, std::uint32_t run) { return value < static_cast<char32_t>(run >> 8U); });
  return *std::prev(after) & 255U;
}

bool is_mark(char32_t code) noexcept {
  const Category found = category(code);
  return found == Category::mn || found == Category::mc || found == Category::me;
}

std::size_t end_of_grapheme(std::string_view text, std::size_t begin) noexcept {
  std::size_t end = begin;
  char32_t before = utf8::next(text, end);
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    std::size_t after = end;
    const char32_t code = utf8::next(text, after);
    // Between characters of ASCII only CR LF is no boundary.
    if (before < 0x80 && code < 0x80
            ? before != '\r' || code != '\n'
            : utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before),
                                               static_cast<utf8proc_int32_t>(code), &state)) {
      break;
    }
    before = code;
    end = after;
  }
  return end;
}

bool is_word(char32_t code) noexcept {
  if (code == 0x200C || code == 0x200D) return true;  // the joiners
  // Letters in circles and squares, which are symbols and yet alphabetic.
  if ((code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
      (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189)) {
    return true;
  }
  switch (category(code)) {
    case Category::mn:
    case Category::mc:
    case Category::me:
    case Category::nd:
    case Category::nl:
    case Category::pc:
      return true;
    default:
      return kind(code) == Kind::letter;
  }
}

bool is_punctuation(char32_t code) noexcept {
  if (code < 0x80) {
    return code > ' ' && code < 0x7F && kind(code) == Kind::other;
  }
  const Category found = category(code);
  return found >= Category::pc && found <= Category::ps;
}

bool is_surely_normalized(std::string_view text, Form form) noexcept {
  return quick_prefix(text, 0, quick_limit(form)) == text.size();
}

std::string normalized(std::string_view text, Form form) {
  const char32_t limit = quick_limit(form);
  std::string result;
  result.reserve(text.size());
  std::vector<utf8proc_int32_t> codes;
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t quick = quick_prefix(text, position, limit);
    std::size_t end = position + quick;
    if (end == text.size()) {
      result += text.substr(position);
      break;
    }
    // The last starter before a mark may join it, so it belongs to the part that is worked on.
    const std::size_t begin = quick > 0 ? utf8::before(text, end) : end;
    result += text.substr(position, begin - position);
    while (end < text.size()) {
      std::size_t after = end;
      if (utf8::next(text, after) < limit) {
        break;
      }
      end = after;
    }
    append_normalized(text.substr(begin, end - begin), form, codes, result);
    position = end;
  }
  return result;
}

// Lower case by Unicode 16.0: what came with 16.0 is here, what came later stays as it is.
static char32_t lower(char32_t code) noexcept {
  if (code >= 0x10D50 && code <= 0x10D65) return code + 0x20;  // Garay
  switch (code) {
    case 0x1C89:
    case 0xA7CC:
    case 0xA7DA:
      return code + 1;
    case 0xA7CB:
      return 0x264;
    case 0xA7DC:
      return 0x19B;
    default:
      break;
  }
  if (code >= 0x80 && category(code) == Category::cn) return code;
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}

std::string lowercased(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const char32_t code = utf8::next(text, i);
    if (code == 0x130) {
      result += "i\xCC\x87";  // the one code point whose lower case is two
    } else {
      utf8::append(result, lower(code));
    }
  }
  return result;
}

}  // namespace unicode
}  // namespace v0_1
}  // namespace krait
