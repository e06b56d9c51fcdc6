#pragma once

/// \file
/// What the tests share.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "krait/core/config.hpp"

namespace krait::test {

/// Folder of the test data in the source tree.
std::filesystem::path data_dir();

/// Folder with the bundled models in the source tree.
std::filesystem::path bundled_models_dir();

/// The file's bytes; fails the current test and returns nothing if it cannot be read.
std::string read_file(const std::filesystem::path& path);

void write_file(const std::filesystem::path& path, std::string_view bytes);

/// A fresh empty folder, deleted with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Floats in [-scale, scale), a pure function of (seed, index).
std::vector<float> random_floats(Index count, std::uint64_t seed, float scale = 1.0F);

/// True if the two arrays have the same bits.
template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

}  // namespace krait::test
