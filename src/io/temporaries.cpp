#include "io/temporaries.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

// Nobody else gives such names.
constexpr std::string_view ending = ".krait.tmp";

bool is_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// The process that made the temporary `name` of a file called `target`; none if it is another name.
std::optional<::pid_t> writer_of(std::string_view name, std::string_view target) {
  if (!name.starts_with(target) || !name.ends_with(ending)) return std::nullopt;
  name.remove_prefix(target.size());
  if (name.size() <= ending.size() || name[0] != '.') return std::nullopt;
  name = name.substr(1, name.size() - 1 - ending.size());
  const std::size_t dash = name.find('-');
  if (dash == name.npos || !is_digits(name.substr(0, dash)) || !is_digits(name.substr(dash + 1))) {
    return std::nullopt;
  }
  ::pid_t writer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + dash, writer);
  if (error != std::errc() || writer <= 0) return std::nullopt;
  return writer;
}

// Ids are given again, so that of a dead writer may be another's: then its leftover stays. Of this
// process the lock tells.
bool is_gone(::pid_t process) {
  return process == ::getpid() || (::kill(process, 0) != 0 && errno == ESRCH);
}

bool try_lock(int descriptor) { return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0; }

bool is_same_file(int descriptor, const std::string& name) {
  struct stat here {};
  struct stat there {};
  return ::fstat(descriptor, &here) == 0 && ::lstat(name.c_str(), &there) == 0 &&
         here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

// A writer on another machine, or in another space of process ids, is known by its lock alone.
void remove_unless_locked(const fs::path& leftover) {
  const int descriptor = ::open(leftover.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return;
  struct stat status {};
  const bool is_known = ::fstat(descriptor, &status) == 0 && status.st_uid == ::geteuid() &&
                        (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
  std::error_code ignored;
  // Before the lock was had, the name may have gone to a new file.
  if (is_known && try_lock(descriptor) && is_same_file(descriptor, leftover)) {
    fs::remove_all(leftover, ignored);
  }
  ::close(descriptor);
}

// By readdir, for a std::filesystem::directory_iterator ends the program where memory runs out.
void remove_leftovers(const std::string& path) {
  const fs::path target = path;
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  const std::string name = target.filename().native();
  const std::unique_ptr<::DIR, int (*)(::DIR*)> entries(::opendir(folder.c_str()), ::closedir);
  while (const ::dirent* entry = entries ? ::readdir(entries.get()) : nullptr) {
    const auto writer = writer_of(entry->d_name, name);
    if (writer && is_gone(*writer)) remove_unless_locked(folder / entry->d_name);
  }
}

// Calls `make` with names beside `path` until one of them is new. It returns a descriptor, or -1
// and errno.
template <class Make>
Temporary make_temporary(const std::string& path, Make make) {
  static std::atomic<unsigned> count{0};
  constexpr int attempts = 100;
  remove_leftovers(path);
  for (int i = 0; i < attempts; ++i) {
    std::string name = fmt::format("{}.{}-{}{}", path, ::getpid(), count++, ending);
    const int descriptor = make(name.c_str());
    if (descriptor < 0 && errno == EEXIST) continue;
    if (descriptor < 0) return {};
    // Between being made and being locked it may have been taken for a leftover.
    const bool is_taken = !try_lock(descriptor) && errno == EWOULDBLOCK;
    if (!is_taken && is_same_file(descriptor, name)) return {std::move(name), descriptor};
    if (is_same_file(descriptor, name)) {
      std::error_code ignored;
      fs::remove(name, ignored);
    }
    ::close(descriptor);
  }
  errno = EEXIST;
  return {};
}

}  // namespace

// open() and mkdir() apply the process's mask, which mkstemp does not; to read the mask would mean
// to change it for a moment.
Temporary make_temporary_file(const std::string& path) {
  return make_temporary(path, [](const char* name) {
    return ::open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  });
}

Temporary make_temporary_folder(const std::string& path) {
  return make_temporary(path, [](const char* name) {
    if (::mkdir(name, 0777) != 0) return -1;
    const int descriptor = ::open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) {
      const int error = errno;
      ::rmdir(name);
      errno = error == ENOENT ? EEXIST : error;  // taken for a leftover: another name
    }
    return descriptor;
  });
}

}  // namespace v0_1
}  // namespace krait
