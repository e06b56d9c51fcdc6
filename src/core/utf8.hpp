#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace krait {
inline namespace v0_1 {
namespace utf8 {

/// U+FFFD, which stands for what is no character.
inline constexpr char32_t replacement = 0xFFFD;

enum class Form {
  complete,   ///< a code point
  ill,        ///< bytes that no continuation can make a code point
  truncated,  ///< the beginning of a code point, cut by the end of the text
};

struct Step {
  Form form = Form::complete;
  std::size_t length = 0;  ///< bytes of the code point, or of the maximal ill-formed part
  char32_t code = 0;       ///< only if complete
};

/// Reads what stands at `position` (inside the text), by table 3-7 of the Unicode standard: the
/// second byte's range depends on the first, which rules out surrogates, overlong forms and values
/// above U+10FFFF.
inline Step step(std::string_view text, std::size_t position) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const std::size_t available = text.size() - position;
  const unsigned lead = byte(0);
  if (lead < 0x80) {
    return {Form::complete, 1, lead};
  }
  if (lead < 0xC2 || lead > 0xF4) {
    return {Form::ill, 1, 0};
  }
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t code = lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (i == available) {
      return {Form::truncated, i, 0};
    }
    const unsigned next = byte(i);
    if (next < low || next > high) {
      return {Form::ill, i, 0};
    }
    low = 0x80;
    high = 0xBF;
    code = (code << 6) | (next & 0x3FU);
  }
  return {Form::complete, length, code};
}

/// The code point at `position` of well-formed text; moves `position` behind it.
inline char32_t next(std::string_view text, std::size_t& position) noexcept {
  const auto byte = [&](std::size_t i) -> char32_t {
    return static_cast<unsigned char>(text[position + i]);
  };
  const char32_t lead = byte(0);
  char32_t code = lead;
  if (lead < 0x80) {
    position += 1;
  } else if (lead < 0xE0) {
    code = ((lead & 0x1FU) << 6) | (byte(1) & 0x3FU);
    position += 2;
  } else if (lead < 0xF0) {
    code = ((lead & 0x0FU) << 12) | ((byte(1) & 0x3FU) << 6) | (byte(2) & 0x3FU);
    position += 3;
  } else {
    code = ((lead & 0x07U) << 18) | ((byte(1) & 0x3FU) << 12) | ((byte(2) & 0x3FU) << 6) |
           (byte(3) & 0x3FU);
    position += 4;
  }
  return code;
}

/// Begin of the code point that ends before `position`, in well-formed text.
inline std::size_t before(std::string_view text, std::size_t position) noexcept {
  do {
    --position;
  } while ((static_cast<unsigned char>(text[position]) & 0xC0U) == 0x80U);
  return position;
}

inline void append(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0U | (code >> 6));
    put(0x80U | (code & 0x3FU));
  } else if (code < 0x10000) {
    put(0xE0U | (code >> 12));
    put(0x80U | ((code >> 6) & 0x3FU));
    put(0x80U | (code & 0x3FU));
  } else {
    put(0xF0U | (code >> 18));
    put(0x80U | ((code >> 12) & 0x3FU));
    put(0x80U | ((code >> 6) & 0x3FU));
    put(0x80U | (code & 0x3FU));
  }
}

/// Number of ASCII bytes from `position` on.
std::size_t ascii_prefix(std::string_view text, std::size_t position) noexcept;

/// Offset of the first byte that is not part of well-formed UTF-8; the size if there is none.
std::size_t first_ill_formed(std::string_view text) noexcept;

}  // namespace utf8
}  // namespace v0_1
}  // namespace krait
