#pragma once

/// \file
/// Output files and folders that appear whole or not at all.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// Writes to a temporary name beside `path`; `commit` flushes it to the device and renames it.
/// Without a commit, the destructor removes the temporary file and `path` is left as it was. What
/// writers of the same `path` left that were killed, `create` removes; of living ones, known by
/// their process and by a lock (flock) on the temporary file, nothing is touched. A file
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
  /// Writes at a place of the file's own: over bytes that were written before, such as a header
  /// that names a size known only at the end, or ahead of them. Where `write` goes on does not
  /// change. Fails on devices and pipes.
  Result<void> write_at(std::size_t offset, std::span<const std::byte> bytes);
  Result<void> commit();

 private:
  AtomicFile() = default;
  int descriptor_ = -1;
  std::string path_;
  std::string temporary_;  // empty when written directly
};

/// The same for a folder: it is filled under a temporary name beside `target`, and `commit` renames
/// it. Without a commit, the destructor removes it with all that is in it.
class KRAIT_API AtomicDirectory {
 public:
  /// `target` must not exist, or be an empty folder, which is then replaced and hands on its mode.
  /// Errors: not_found (no folder to hold it), bad_argument (something is there), io_failed.
  static Result<AtomicDirectory> create(const std::string& target);
  AtomicDirectory(AtomicDirectory&& other) noexcept;
  AtomicDirectory& operator=(AtomicDirectory&& other) noexcept;
  ~AtomicDirectory();

  /// The folder to write to before the commit.
  const std::string& path() const noexcept { return temporary_; }
  Result<void> commit();

 private:
  AtomicDirectory() = default;
  std::string target_;
  std::string temporary_;  // empty when there is none
  int lock_ = -1;          // a descriptor of the temporary folder
};

}  // namespace v0_1
}  // namespace krait
