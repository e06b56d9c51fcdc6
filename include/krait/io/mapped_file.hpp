#pragma once

/// \file
/// Read-only files in memory.

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "krait/core/error.hpp"
#include "krait/core/flow.hpp"

namespace krait {
inline namespace v0_1 {

/// How a file's bytes come into memory.
enum class WeightsMode {
  map,   ///< mapped: pages are read when touched and shared between processes
  copy,  ///< read into memory of the process, on huge pages where the system gives them
};

/// Bytes that stay where they are for as long as the object lives. Shared by everything that
/// points into them.
class KRAIT_API FileBytes {
 public:
  virtual ~FileBytes();

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  /// For messages.
  const std::string& name() const noexcept { return name_; }

 protected:
  FileBytes(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}
  std::span<const std::byte> bytes_;
  std::string name_;
};

/// Opens a regular file. `progress` counts bytes while they are copied; a mapping is made at once.
/// Errors: not_found, io_failed, cancelled. A file that shrinks while mapped is the caller's risk,
/// as with every mapping.
KRAIT_API Result<std::shared_ptr<const FileBytes>> open_file(const std::string& path,
                                                             WeightsMode mode = WeightsMode::map,
                                                             Progress progress = {});

/// Bytes of the caller's, not copied: a model embedded in the program. They must outlive everything
/// made from them. `name` is for messages.
KRAIT_API std::shared_ptr<const FileBytes> borrow_bytes(std::span<const std::byte> bytes,
                                                        std::string name);

/// The whole file as a string, for configs and tokenizers. Read to its end, whatever size it says
/// it has; a pipe is waited for. Refuses files above `limit` bytes.
KRAIT_API Result<std::string> read_text_file(const std::string& path,
                                             std::size_t limit = std::size_t{256} << 20U);

/// The same of a regular file alone, as those of a checkpoint are: a pipe is refused at once.
KRAIT_API Result<std::string> read_regular_text_file(const std::string& path,
                                                     std::size_t limit = std::size_t{256} << 20U);

}  // namespace v0_1
}  // namespace krait
