#pragma once

/// \file
/// Numbers for texts, the same on every machine.

#include <cstdint>
#include <string_view>

namespace krait {
inline namespace v0_1 {

/// FNV-1a of the bytes (Fowler, Noll, Vo).
constexpr std::uint64_t text_hash(std::string_view text) noexcept {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return hash;
}

}  // namespace v0_1
}  // namespace krait
