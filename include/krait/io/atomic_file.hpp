#pragma once

/// \file
/// Output files that appear whole or not at all.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait::inline v0_1 {

/// Writes to a temporary name beside `path`; `commit` flushes it to the device and renames it.
/// Without a commit, the destructor removes the temporary file and `path` is left as it was. A file
/// that is replaced hands on its mode; of a symbolic link, the target is replaced.
/// A `path` that exists and is no regular file (/dev/stdout, /dev/full, a pipe) is written
/// directly.
class KRAIT_API AtomicFile {
 public:
  static Result<AtomicFile> create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  Result<void> write(std::span<const std::byte> bytes);
  Result<void> write(std::string_view text) { return write(std::as_bytes(std::span(text))); }
  /// Replaces bytes that were written before, such as a header that names a size known only at the
  /// end. Fails on devices and pipes.
  Result<void> rewrite(std::size_t offset, std::span<const std::byte> bytes);
  Result<void> commit();

 private:
  AtomicFile() = default;
  int descriptor_ = -1;
  std::string path_;
  std::string temporary_;  // empty when written directly
};

}  // namespace krait::inline v0_1
