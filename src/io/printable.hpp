#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace krait::inline v0_1 {

/// Text from a file for a message: one line, at most `limit` characters, nothing that could steer
/// a terminal. Bytes that are not printable ASCII become question marks.
inline std::string printable(std::string_view text, std::size_t limit = 80) {
  std::string result(text.substr(0, limit));
  for (char& c : result) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (text.size() > limit) result += "...";
  return result;
}

}  // namespace krait::inline v0_1
