#include "krait/io/printable.hpp"

#include <algorithm>
#include <cstdint>

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::size_t largest_message = 2000;

// The character that a valid sequence of UTF-8 at the front of `text` stands for, and its bytes; no
// bytes if there is none.
struct Decoded {
  std::uint32_t code = 0;
  std::size_t size = 0;
};

Decoded decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80U) return {lead, 1};
  const std::size_t size = lead >= 0xF0U ? 4 : lead >= 0xE0U ? 3 : 2;
  if (lead < 0xC2U || lead > 0xF4U || text.size() < size) return {};
  std::uint32_t code = lead & (0xFFU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return {};
    code = (code << 6U) | (byte(i) & 0x3FU);
  }
  const std::uint32_t least = size == 4 ? 0x10000U : size == 3 ? 0x800U : 0x80U;
  const bool is_surrogate = code >= 0xD800U && code <= 0xDFFFU;
  if (code < least || code > 0x10FFFFU || is_surrogate) return {};
  return {code, size};
}

bool is_harmless(std::uint32_t code) {
  constexpr struct {
    std::uint32_t first;
    std::uint32_t last;
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
  while (!text.empty()) {
    if (result.size() >= limit) return result + "...";
    const Decoded next = decode(text);
    if (next.size > 0 && is_harmless(next.code)) {
      result += text.substr(0, next.size);
    } else {
      result += '?';
    }
    text.remove_prefix(std::max<std::size_t>(next.size, 1));
  }
  return result;
}

Error printable(Error error) {
  error.message = printable(error.message, largest_message);
  return error;
}

}  // namespace v0_1
}  // namespace krait
