#pragma once

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether `inner` is `outer` or lies in it, links followed as far as folders exist.
inline bool lies_in(const std::filesystem::path& inner, const std::filesystem::path& outer) {
  std::error_code ignored;
  const auto place = [&](const std::filesystem::path& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, ignored), ignored);
  };
  const std::filesystem::path in = place(inner);
  const std::filesystem::path out = place(outer);
  return std::mismatch(out.begin(), out.end(), in.begin(), in.end()).first == out.end();
}

}  // namespace v0_1
}  // namespace krait
