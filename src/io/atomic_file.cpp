#include "krait/io/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "io/temporaries.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error failure(std::string_view what, const std::string& path) {
  return {ErrorCode::io_failed,
          fmt::format("[file] expected to {}, found: {} ({})", what, std::strerror(errno), path)};
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
    Temporary temporary = make_temporary_file(file.path_);
    file.descriptor_ = temporary.descriptor;
    file.temporary_ = std::move(temporary.name);
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

Result<void> AtomicFile::write_at(std::size_t offset, std::span<const std::byte> bytes) {
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
  // Holds the lock until the file has its name.
  const int lock = temporary_.empty() ? -1 : ::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
  const bool is_written = ::close(std::exchange(descriptor_, -1)) == 0;
  const bool is_renamed =
      !is_written || temporary_.empty() || ::rename(temporary_.c_str(), path_.c_str()) == 0;
  const int error = errno;
  if (lock >= 0) ::close(lock);
  errno = error;
  if (!is_written) return failure("write", path_);
  if (!is_renamed) return failure("rename a file", path_);
  temporary_.clear();
  return {};
}

Result<AtomicDirectory> AtomicDirectory::create(const std::string& target) {
  namespace fs = std::filesystem;
  AtomicDirectory directory;
  directory.target_ = target;
  while (directory.target_.size() > 1 && directory.target_.ends_with('/')) {
    directory.target_.pop_back();
  }
  struct stat status {};
  const bool exists = ::lstat(directory.target_.c_str(), &status) == 0;
  std::error_code ignored;
  if (exists) {
    directory.target_ = resolved(directory.target_);
    const bool is_folder =
        ::stat(directory.target_.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
    if (!is_folder || !fs::is_empty(directory.target_, ignored)) {
      return Error{
          ErrorCode::bad_argument,
          fmt::format("[file] expected a new name or an empty folder, found {} ({})",
                      is_folder ? "a folder that is not empty" : "something else", target)};
    }
  } else {
    fs::path parent = fs::path(directory.target_).parent_path();
    if (parent.empty()) parent = ".";
    if (target.empty() || !fs::is_directory(parent, ignored)) {
      return Error{ErrorCode::not_found,
                   fmt::format("[file] expected a folder to make another in, found none ({})",
                               target.empty() ? "no name" : parent.string())};
    }
  }
  Temporary temporary = make_temporary_folder(directory.target_);
  if (temporary.descriptor < 0) return failure("make a folder", target);
  directory.temporary_ = std::move(temporary.name);
  directory.lock_ = temporary.descriptor;
  if (exists) ::chmod(directory.temporary_.c_str(), status.st_mode & 0777U);
  return directory;
}

AtomicDirectory::AtomicDirectory(AtomicDirectory&& other) noexcept
    : target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      lock_(std::exchange(other.lock_, -1)) {}

AtomicDirectory& AtomicDirectory::operator=(AtomicDirectory&& other) noexcept {
  std::swap(target_, other.target_);
  std::swap(temporary_, other.temporary_);
  std::swap(lock_, other.lock_);
  return *this;
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

Result<void> AtomicDirectory::commit() {
  // A folder replaces an empty one, and nothing else.
  if (::rename(temporary_.c_str(), target_.c_str()) != 0)
    return failure("rename a folder", target_);
  temporary_.clear();
  ::close(std::exchange(lock_, -1));
  return {};
}

}  // namespace v0_1
}  // namespace krait
