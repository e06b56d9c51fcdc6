#include "io/zip.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::uint64_t local_header_size = 30;
constexpr std::uint64_t central_header_size = 46;
constexpr std::uint64_t end_record_size = 22;
constexpr std::uint64_t zip64_locator_size = 20;
constexpr std::uint64_t zip64_end_size = 56;

class Archive {
 public:
  explicit Archive(const FileBytes& file) : file_(file), bytes_(file.bytes()) {}

  Result<ZipEntries> read() {
    KRAIT_RETURN_IF_ERROR(find_directory());
    ZipEntries entries;
    std::uint64_t at = directory_;
    for (std::uint64_t i = 0; i < count_; ++i) {
      if (!fits(at, central_header_size, directory_ + directory_size_) ||
          number(at, 4) != 0x02014b50U) {
        return fail("directory", fmt::format("{} entries", count_), fmt::to_string(i));
      }
      KRAIT_RETURN_IF_ERROR(read_entry(at, entries));
    }
    return entries;
  }

 private:
  Error fail(std::string_view what, std::string_view expected, std::string_view found,
             ErrorCode code = ErrorCode::bad_format) const {
    return {code, fmt::format("[zip] {}: expected {}, found {} ({})", printable(what), expected,
                              found, file_.name())};
  }

  static bool fits(std::uint64_t at, std::uint64_t size, std::uint64_t limit) {
    return at <= limit && size <= limit - at;
  }

  // A little-endian number; the caller has checked that it lies in the file.
  std::uint64_t number(std::uint64_t at, std::uint64_t size) const {
    std::uint64_t value = 0;
    for (std::uint64_t i = 0; i < size; ++i) {
      value |= std::to_integer<std::uint64_t>(bytes_[at + i]) << (8 * i);
    }
    return value;
  }

  Result<void> find_directory() {
    const std::uint64_t size = bytes_.size();
    // The end record is followed by a comment of at most 65535 bytes.
    std::optional<std::uint64_t> end;
    for (std::uint64_t back = end_record_size; back <= std::min<std::uint64_t>(size, 65557);
         ++back) {
      const std::uint64_t comment_size = back - end_record_size;
      if (number(size - back, 4) == 0x06054b50U && number(size - back + 20, 2) == comment_size) {
        end = size - back;
        break;
      }
    }
    if (!end) return fail("archive", "a ZIP directory at the end", "none");
    count_ = number(*end + 10, 2);
    directory_size_ = number(*end + 12, 4);
    directory_ = number(*end + 16, 4);
    if (*end >= zip64_locator_size && number(*end - zip64_locator_size, 4) == 0x07064b50U) {
      const std::uint64_t record = number(*end - zip64_locator_size + 8, 8);
      if (!fits(record, zip64_end_size, size) || number(record, 4) != 0x06064b50U) {
        return fail("archive", "a ZIP64 directory", "none");
      }
      count_ = number(record + 32, 8);
      directory_size_ = number(record + 40, 8);
      directory_ = number(record + 48, 8);
    }
    if (!fits(directory_, directory_size_, size) ||
        count_ > directory_size_ / central_header_size) {
      return fail("directory", fmt::format("at most {} bytes", size),
                  fmt::format("{} entries in {} bytes at {}", count_, directory_size_, directory_));
    }
    return {};
  }

  // ZIP64 sizes replace those that do not fit 32 bits, in this order.
  bool read_zip64(std::uint64_t at, std::uint64_t end, std::uint64_t& size,
                  std::uint64_t& packed_size, std::uint64_t& offset) const {
    while (fits(at, 4, end)) {
      const std::uint64_t kind = number(at, 2);
      std::uint64_t field = at + 4;
      const std::uint64_t next = field + number(at + 2, 2);
      if (next > end) return false;
      if (kind == 1) {
        for (std::uint64_t* value : {&size, &packed_size, &offset}) {
          if (*value != 0xFFFFFFFFU) continue;
          if (!fits(field, 8, next)) return false;
          *value = number(field, 8);
          field += 8;
        }
      }
      at = next;
    }
    return true;
  }

  Result<void> read_entry(std::uint64_t& at, ZipEntries& entries) const {
    const std::uint64_t flags = number(at + 8, 2);
    const std::uint64_t method = number(at + 10, 2);
    std::uint64_t packed_size = number(at + 20, 4);
    std::uint64_t size = number(at + 24, 4);
    const std::uint64_t name_size = number(at + 28, 2);
    const std::uint64_t extra_size = number(at + 30, 2);
    const std::uint64_t comment_size = number(at + 32, 2);
    std::uint64_t offset = number(at + 42, 4);
    const std::uint64_t name_at = at + central_header_size;
    const std::uint64_t end = name_at + name_size + extra_size + comment_size;
    if (end > directory_ + directory_size_) return fail("directory", "whole entries", "a part");
    const std::string name(reinterpret_cast<const char*>(bytes_.data() + name_at), name_size);
    if (!read_zip64(name_at + name_size, name_at + name_size + extra_size, size, packed_size,
                    offset)) {
      return fail(name, "whole ZIP64 sizes", "a part");
    }
    at = end;
    if ((flags & 1U) != 0) return fail(name, "no encryption", "some", ErrorCode::unsupported);
    if (method != 0 || size != packed_size) {
      return fail(name, "stored bytes, as torch.save writes them",
                  fmt::format("compression {}", method), ErrorCode::unsupported);
    }
    if (!fits(offset, local_header_size, directory_) || number(offset, 4) != 0x04034b50U) {
      return fail(name, "an entry in front of the directory", "none");
    }
    const std::uint64_t data =
        offset + local_header_size + number(offset + 26, 2) + number(offset + 28, 2);
    if (!fits(data, size, directory_)) {
      return fail(name, "bytes in front of the directory",
                  fmt::format("{} bytes at {}", size, data));
    }
    if (!entries.emplace(name, bytes_.subspan(data, size)).second) {
      return fail(name, "every name once", "one twice");
    }
    return {};
  }

  const FileBytes& file_;
  std::span<const std::byte> bytes_;
  std::uint64_t count_ = 0;
  std::uint64_t directory_ = 0;
  std::uint64_t directory_size_ = 0;
};

}  // namespace

Result<ZipEntries> read_zip(const FileBytes& file) { return Archive(file).read(); }

}  // namespace v0_1
}  // namespace krait
