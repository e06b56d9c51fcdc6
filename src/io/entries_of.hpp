#pragma once

#include <filesystem>
#include <system_error>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// What a folder has, in no order. Nothing is thrown: what stands before an `error` is returned.
inline std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder,
                                                     std::error_code& error) {
  std::vector<std::filesystem::path> entries;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    entries.push_back(entry->path());
  }
  return entries;
}

}  // namespace v0_1
}  // namespace krait
