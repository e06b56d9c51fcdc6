#include "text/stages/charsmap.hpp"

#include <fmt/format.h>

#include <cstring>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::mismatch;

bool is_continuation(char c) noexcept { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

// -1 for what is no digit of base64.
int digit_of(char c) noexcept {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// Real tables have parts of a few code points; in a forged one a part may go on for ever.
constexpr std::size_t longest_part = 256;

// The fields of a unit of the double array.
constexpr bool has_leaf(std::uint32_t unit) noexcept { return (unit >> 8U & 1U) != 0; }
constexpr std::uint32_t value(std::uint32_t unit) noexcept { return unit & 0x7FFFFFFFU; }
constexpr std::uint32_t label(std::uint32_t unit) noexcept { return unit & 0x800000FFU; }
constexpr std::uint32_t offset(std::uint32_t unit) noexcept {
  return (unit >> 10U) << ((unit & 0x200U) >> 6U);
}

}  // namespace

Result<Charsmap> Charsmap::read(std::string_view blob, std::string_view where) {
  Charsmap result;
  if (blob.empty()) return result;
  std::uint32_t size = 0;
  for (std::size_t i = 0; i < 4 && i < blob.size(); ++i) {
    size |= std::uint32_t{static_cast<unsigned char>(blob[i])} << (8 * i);
  }
  if (blob.size() < 8 || size % 4 != 0 || size == 0 || size > blob.size() - 4) {
    return mismatch(ErrorCode::bad_format, where, "a table of as many bytes as its head says",
                    fmt::format("{} of {}", blob.size(), size));
  }
  result.units_.resize(size / 4);
  for (std::size_t i = 0; i < size; ++i) {
    result.units_[i / 4] |= std::uint32_t{static_cast<unsigned char>(blob[4 + i])} << (8 * (i % 4));
  }
  result.replacements_ = blob.substr(4 + std::size_t{size});
  if (result.replacements_.empty() || result.replacements_.back() != '\0' ||
      utf8::first_ill_formed(result.replacements_) != result.replacements_.size()) {
    return mismatch(ErrorCode::bad_format, where, "replacements in UTF-8 that end with a zero",
                    "others");
  }
  return result;
}

Result<Charsmap> Charsmap::read_base64(std::string_view base64, std::string_view where) {
  std::string blob;
  std::uint32_t bits = 0;
  unsigned count = 0;
  std::string_view digits = base64;
  while (digits.size() + 2 > base64.size() && digits.ends_with('=')) digits.remove_suffix(1);
  for (const char c : digits) {
    const int digit = digit_of(c);
    if (digit < 0) {
      return mismatch(ErrorCode::bad_format, where, "base64",
                      fmt::format("byte 0x{:02x}", static_cast<unsigned char>(c)));
    }
    bits = bits << 6U | static_cast<std::uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    blob += static_cast<char>(static_cast<unsigned char>(bits >> count & 0xFFU));
  }
  return read(blob, where);
}

bool Charsmap::replacement(std::uint32_t offset, std::string_view& text) const noexcept {
  if (offset >= replacements_.size() || is_continuation(replacements_[offset])) return false;
  text = std::string_view(replacements_).substr(offset);
  text = text.substr(0, text.find('\0'));
  return true;
}

Charsmap::Match Charsmap::match(std::string_view text, bool wants_longest) const noexcept {
  Match result;
  if (units_.empty()) return result;
  std::size_t node = offset(units_[0]);
  for (std::size_t i = 0; i < text.size() && i < longest_part; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    if (byte == 0 || node >= units_.size()) break;
    const std::uint32_t unit = units_[node];
    if (label(unit) != byte) break;
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const bool is_between = i + 1 == text.size() || !is_continuation(text[i + 1]);
    std::string_view found;
    if (!is_between || !replacement(value(units_[node]), found)) continue;
    result = {i + 1, found};
    if (!wants_longest) break;
  }
  return result;
}

}  // namespace v0_1
}  // namespace krait
