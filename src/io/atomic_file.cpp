#include "krait/io/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace krait::inline v0_1 {
namespace {

Error failure(std::string_view what, const std::string& path) {
  return {ErrorCode::io_failed,
          fmt::format("[file] expected to {}, found: {} ({})", what, std::strerror(errno), path)};
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  AtomicFile file;
  file.path_ = path;
  struct stat status {};
  const bool is_special = ::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
  if (is_special && S_ISDIR(status.st_mode)) {
    errno = EISDIR;
    return failure("write a file", path);
  }
  if (is_special) {
    file.descriptor_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    file.temporary_ = path + ".XXXXXX";
    file.descriptor_ = ::mkostemp(file.temporary_.data(), O_CLOEXEC);
    if (file.descriptor_ < 0) file.temporary_.clear();
    // mkostemp makes private files; a result is as readable as any other new file.
    const mode_t mask = ::umask(0);
    ::umask(mask);
    if (file.descriptor_ >= 0) ::fchmod(file.descriptor_, 0666 & ~mask);
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
