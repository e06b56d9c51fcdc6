#include "krait/io/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "krait/core/aligned_buffer.hpp"

namespace krait::inline v0_1 {

FileBytes::~FileBytes() = default;

namespace {

Error system_error(std::string_view what, const std::string& path) {
  const int number = errno;
  return {number == ENOENT || number == ENOTDIR ? ErrorCode::not_found : ErrorCode::io_failed,
          fmt::format("[file] expected {}, found: {} ({})", what, std::strerror(number), path)};
}

class Descriptor {
 public:
  explicit Descriptor(const std::string& path)
      : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
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
  ~MappedFile() override { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }
};

class CopiedFile final : public FileBytes {
 public:
  CopiedFile(AlignedBuffer<std::byte> block, std::string name)
      : FileBytes({}, std::move(name)), block_(std::move(block)) {
    bytes_ = block_.span();
  }

 private:
  AlignedBuffer<std::byte> block_;
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

}  // namespace

Result<std::shared_ptr<const FileBytes>> open_file(const std::string& path, WeightsMode mode,
                                                   Progress progress) {
  const Descriptor descriptor(path);
  if (descriptor.get() < 0) return system_error("a readable file", path);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) return system_error("a readable file", path);
  if (!S_ISREG(status.st_mode)) {
    return Error{ErrorCode::io_failed,
                 fmt::format("[file] expected a regular file, found {} ({})",
                             S_ISDIR(status.st_mode) ? "a directory" : "a device or pipe", path)};
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return std::shared_ptr<const FileBytes>(borrow_bytes({}, path));
  if (mode == WeightsMode::map) {
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor.get(), 0);
    if (data == MAP_FAILED) return system_error("a file that can be mapped", path);
    return std::shared_ptr<const FileBytes>(std::make_shared<MappedFile>(data, size, path));
  }
  AlignedBuffer<std::byte> block(static_cast<Index>(size));
  ::madvise(block.data(), size, MADV_HUGEPAGE);
  KRAIT_RETURN_IF_ERROR(read_all(descriptor.get(), block.span(), path, progress));
  return std::shared_ptr<const FileBytes>(std::make_shared<CopiedFile>(std::move(block), path));
}

std::shared_ptr<const FileBytes> borrow_bytes(std::span<const std::byte> bytes, std::string name) {
  return std::make_shared<BorrowedBytes>(bytes, std::move(name));
}

Result<std::string> read_text_file(const std::string& path, std::size_t limit) {
  KRAIT_ASSIGN_OR_RETURN(const auto file, open_file(path, WeightsMode::map));
  const auto bytes = file->bytes();
  if (bytes.size() > limit) {
    return Error{ErrorCode::bad_format, fmt::format("[file] expected at most {} bytes, found {} "
                                                    "({})",
                                                    limit, bytes.size(), path)};
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace krait::inline v0_1
