#include "krait/io/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

namespace krait::inline v0_1 {
namespace {

Error failure(std::string_view what, const std::string& path) {
  return {ErrorCode::io_failed,
          fmt::format("[file] expected to {}, found: {} ({})", what, std::strerror(errno), path)};
}

// Makes a new file beside `path`. open() applies the process's mask, which mkstemp does not; to
// read the mask would mean to change it for a moment.
int open_temporary(const std::string& path, std::string& name) {
  static std::atomic<unsigned> count{0};
  constexpr int attempts = 100;
  for (int i = 0; i < attempts; ++i) {
    name = fmt::format("{}.{}-{}.tmp", path, ::getpid(), count++);
    const int descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0 || errno != EEXIST) return descriptor;
  }
  return -1;
}

// An open file of the process, which may be a regular one: a rename would take it from whoever
// opened it.
bool is_descriptor(std::string_view path) {
  return path == "/dev/stdout" || path == "/dev/stderr" || path.starts_with("/dev/fd/") ||
         path.starts_with("/proc/self/fd/");
}

// What a symbolic link leads to, so that the link stays and its target is replaced.
std::string resolved(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                         &std::free);
  return real == nullptr ? path : std::string(real.get());
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  AtomicFile file;
  file.path_ = path;
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  const bool is_special = exists && (!S_ISREG(status.st_mode) || is_descriptor(path));
  if (is_special && S_ISDIR(status.st_mode)) {
    errno = EISDIR;
    return failure("write a file", path);
  }
  if (path.empty()) {
    errno = ENOENT;
    return failure("create a file", "no name");
  }
  if (is_special) {
    file.descriptor_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    if (exists) file.path_ = resolved(path);
    file.descriptor_ = open_temporary(file.path_, file.temporary_);
    if (file.descriptor_ < 0) file.temporary_.clear();
    // The new file is as private as the one it replaces.
    if (file.descriptor_ >= 0 && exists) ::fchmod(file.descriptor_, status.st_mode & 0777U);
  }
  if (file.descriptor_ < 0) return failure("create a file", path);
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  return *this;
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Result<void> AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failure(fmt::format("write {} bytes", bytes.size()), path_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<void> AtomicFile::rewrite(std::size_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count =
        ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failure(fmt::format("write {} bytes", bytes.size()), path_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::size_t>(count);
  }
  return {};
}

Result<void> AtomicFile::commit() {
  if (!temporary_.empty() && ::fsync(descriptor_) != 0) return failure("write", path_);
  if (::close(std::exchange(descriptor_, -1)) != 0) return failure("write", path_);
  if (temporary_.empty()) return {};
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return failure("rename a file", path_);
  temporary_.clear();
  return {};
}

}  // namespace krait::inline v0_1
