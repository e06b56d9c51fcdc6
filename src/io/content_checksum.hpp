#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "krait/io/safetensors.hpp"

namespace krait {
inline namespace v0_1 {

inline constexpr std::string_view content_checksum_key = "checksum";

/// Of everything that a safetensors file holds, in whatever order, but the checksum itself: 16
/// hexadecimal digits. Every step is invertible, so that no single change goes unseen.
inline std::string content_checksum(
    std::vector<NamedTensor> tensors,
    const std::map<std::string, std::string, std::less<>>& metadata) {
  std::uint64_t sum = 0;
  const auto add_word = [&sum](std::uint64_t word) {
    sum = std::rotl((sum ^ word) * 0x9E3779B97F4A7C15ULL, 29);
  };
  const auto add = [&](const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    add_word(size);
    while (size > 0) {
      std::uint64_t word = 0;
      const std::size_t count = std::min(size, sizeof word);
      std::memcpy(&word, bytes, count);
      add_word(word);
      bytes += count;
      size -= count;
    }
  };
  for (const auto& [key, value] : metadata) {
    if (key == content_checksum_key) continue;
    add(key.data(), key.size());
    add(value.data(), value.size());
  }
  std::ranges::sort(tensors, {}, &NamedTensor::name);
  for (const auto& [name, tensor] : tensors) {
    add(name.data(), name.size());
    const std::string form = to_string(tensor.shape);
    add_word(static_cast<std::uint64_t>(tensor.dtype));
    add(form.data(), form.size());
    add(tensor.data, static_cast<std::size_t>(tensor.bytes()));
  }
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += digits[(sum >> shift) & 15U];
  return text;
}

}  // namespace v0_1
}  // namespace krait
