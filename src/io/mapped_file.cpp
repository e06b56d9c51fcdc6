#include "krait/io/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace krait {
inline namespace v0_1 {

FileBytes::~FileBytes() = default;

namespace {

Error system_error(std::string_view what, const std::string& path) {
  const int number = errno;
  return {number == ENOENT || number == ENOTDIR ? ErrorCode::not_found : ErrorCode::io_failed,
          fmt::format("[file] expected {}, found: {} ({})", what, std::strerror(number), path)};
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags)
      : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags)) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

class MappedFile final : public FileBytes {
 public:
  MappedFile(void* data, std::size_t size, std::string name)
      : FileBytes({static_cast<const std::byte*>(data), size}, std::move(name)) {}
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() override { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }
};

// Pages of the process, advised to be huge before any is touched: afterwards it would be too late.
class CopiedFile final : public FileBytes {
 public:
  CopiedFile(void* pages, std::size_t reserved, std::size_t size, std::string name)
      : FileBytes({}, std::move(name)), pages_(pages), reserved_(reserved) {
    const auto start = reinterpret_cast<std::uintptr_t>(pages);
    const std::uintptr_t padding = (huge_page - start % huge_page) % huge_page;
    data_ = static_cast<std::byte*>(pages) + padding;
    bytes_ = {data_, size};
    ::madvise(data_, size, MADV_HUGEPAGE);  // a hint: the system may lack them
  }
  CopiedFile(const CopiedFile&) = delete;
  CopiedFile& operator=(const CopiedFile&) = delete;
  ~CopiedFile() override { ::munmap(pages_, reserved_); }

  std::span<std::byte> writable() { return {data_, bytes_.size()}; }

  static constexpr std::size_t huge_page = std::size_t{2} << 20U;

 private:
  void* pages_;
  std::size_t reserved_;
  std::byte* data_ = nullptr;
};

class BorrowedBytes final : public FileBytes {
 public:
  BorrowedBytes(std::span<const std::byte> bytes, std::string name)
      : FileBytes(bytes, std::move(name)) {}
};

Result<void> read_all(int descriptor, std::span<std::byte> out, const std::string& path,
                      Progress progress) {
  constexpr std::size_t step = std::size_t{8} << 20U;
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t count = ::read(descriptor, out.data() + done, std::min(step, out.size() - done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("readable bytes", path);
    if (count == 0) {
      return Error{ErrorCode::io_failed,
                   fmt::format("[file] expected {} bytes, found {} ({})", out.size(), done, path)};
    }
    done += static_cast<std::size_t>(count);
    if (progress &&
        progress(static_cast<Index>(done), static_cast<Index>(out.size())) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[file] stopped after {} of {} bytes ({})", done, out.size(), path)};
    }
  }
  return {};
}

// Without it, opening a pipe would wait for a writer before it could be refused.
constexpr int without_waiting = O_NONBLOCK;

// The size of a file, which must be a regular one.
Result<std::size_t> regular_size(const Descriptor& descriptor, const std::string& path) {
  struct stat status {};
  if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) {
    return system_error("a readable file", path);
  }
  if (S_ISREG(status.st_mode)) return static_cast<std::size_t>(status.st_size);
  return Error{ErrorCode::io_failed,
               fmt::format("[file] expected a regular file, found {} ({})",
                           S_ISDIR(status.st_mode) ? "a directory" : "a device or pipe", path)};
}

// The size is a hint: /proc says 0, pipes have none, and a file may grow.
Result<std::string> read_to_end(const Descriptor& descriptor, std::size_t size,
                                const std::string& path, std::size_t limit) {
  const auto too_long = [&](std::string_view found) {
    return Error{
        ErrorCode::bad_format,
        fmt::format("[file] expected at most {} bytes, found {} ({})", limit, found, path)};
  };
  if (size > limit) return too_long(fmt::to_string(size));
  std::string text;
  constexpr std::size_t step = std::size_t{1} << 16U;
  for (std::size_t done = 0;;) {
    // One byte beyond the size, where a file of that size is found to end.
    text.resize(std::max(done + step, size + 1));
    const ssize_t count = ::read(descriptor.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("readable bytes", path);
    done += static_cast<std::size_t>(count);
    if (done > limit) return too_long("more");
    if (count == 0) {
      text.resize(done);
      return text;
    }
  }
}

}  // namespace

Result<std::shared_ptr<const FileBytes>> open_file(const std::string& path, WeightsMode mode,
                                                   Progress progress) {
  const Descriptor descriptor(path, without_waiting);
  KRAIT_ASSIGN_OR_RETURN(const std::size_t size, regular_size(descriptor, path));
  if (size == 0) return std::shared_ptr<const FileBytes>(borrow_bytes({}, path));
  if (mode == WeightsMode::map) {
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor.get(), 0);
    if (data == MAP_FAILED) return system_error("a file that can be mapped", path);
    return std::shared_ptr<const FileBytes>(std::make_shared<MappedFile>(data, size, path));
  }
  const std::size_t reserved = size + CopiedFile::huge_page;
  void* pages =
      ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return system_error("memory for a copy of the file", path);
  auto copy = std::make_shared<CopiedFile>(pages, reserved, size, path);
  KRAIT_RETURN_IF_ERROR(read_all(descriptor.get(), copy->writable(), path, progress));
  return std::shared_ptr<const FileBytes>(std::move(copy));
}

std::shared_ptr<const FileBytes> borrow_bytes(std::span<const std::byte> bytes, std::string name) {
  return std::make_shared<BorrowedBytes>(bytes, std::move(name));
}

Result<std::string> read_text_file(const std::string& path, std::size_t limit) {
  const Descriptor descriptor(path, 0);
  struct stat status {};
  if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) {
    return system_error("a readable file", path);
  }
  const off_t size = S_ISREG(status.st_mode) ? status.st_size : 0;
  return read_to_end(descriptor, static_cast<std::size_t>(size), path, limit);
}

Result<std::string> read_regular_text_file(const std::string& path, std::size_t limit) {
  const Descriptor descriptor(path, without_waiting);
  KRAIT_ASSIGN_OR_RETURN(const std::size_t size, regular_size(descriptor, path));
  return read_to_end(descriptor, size, path, limit);
}

}  // namespace v0_1
}  // namespace krait
