#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace krait {
inline namespace v0_1 {

/// Whether a text fits a pattern in which `*` is any run of characters.
inline bool fits_pattern(std::string_view pattern, std::string_view text) noexcept {
  std::size_t p = 0;
  std::size_t t = 0;
  std::optional<std::size_t> star;  // the last one, which stands for text up to `after`
  std::size_t after = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star) {
      p = *star + 1;
      t = ++after;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace v0_1
}  // namespace krait
