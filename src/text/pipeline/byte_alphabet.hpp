#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "core/utf8.hpp"

/// The 256 printable characters that stand for bytes in the files of byte-level tokenizers: bytes
/// that are printable in Latin-1 stand for themselves, the others are counted from U+0100 on.
namespace krait {
inline namespace v0_1 {
namespace byte_alphabet {

constexpr bool stands_for_itself(unsigned byte) noexcept {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

inline constexpr std::array<char16_t, 256> characters = [] {
  std::array<char16_t, 256> table{};
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < table.size(); ++byte) {
    table[byte] = static_cast<char16_t>(stands_for_itself(byte) ? byte : next++);
  }
  return table;
}();

inline constexpr char32_t end_of_characters = 0x144;

/// The byte of each character; -1 for characters below the end that stand for none.
inline constexpr std::array<short, end_of_characters> bytes = [] {
  std::array<short, end_of_characters> table{};
  for (auto& entry : table) entry = -1;
  for (unsigned byte = 0; byte < characters.size(); ++byte) {
    table[characters[byte]] = static_cast<short>(byte);
  }
  return table;
}();

inline void append_written(std::string& text, std::string_view raw) {
  for (const char c : raw) {
    utf8::append(text, characters[static_cast<unsigned char>(c)]);
  }
}

/// Appends the bytes that `written`, well-formed UTF-8, stands for. Appends nothing and returns
/// false if a character stands for none.
inline bool append_bytes(std::string& text, std::string_view written) {
  const std::size_t size = text.size();
  for (std::size_t i = 0; i < written.size();) {
    const char32_t code = utf8::next(written, i);
    const short byte = code < end_of_characters ? bytes[code] : short{-1};
    if (byte < 0) {
      text.resize(size);
      return false;
    }
    text.push_back(static_cast<char>(static_cast<unsigned char>(byte)));
  }
  return true;
}

}  // namespace byte_alphabet
}  // namespace v0_1
}  // namespace krait
