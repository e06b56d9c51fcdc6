#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// Reads a message in the wire format of Protocol Buffers, field after field. Nothing is trusted,
/// nothing is copied, and messages inside are read only when asked for.
class ProtobufReader {
 public:
  struct Field {
    std::uint32_t number = 0;
    std::uint64_t value = 0;  ///< a varint, or the bits of a fixed number
    std::string_view bytes;   ///< a string or a message
    enum class Kind { varint, fixed32, fixed64, bytes } kind = Kind::varint;

    bool boolean() const noexcept { return value != 0; }
    float real() const noexcept;  ///< of fixed32
  };

  /// `offset` is that of the message in the file, for messages.
  explicit ProtobufReader(std::string_view message, std::size_t offset = 0)
      : message_(message), offset_(offset) {}

  /// The next field, or nothing at the end.
  Result<std::optional<Field>> next();

  /// Where in the file `part`, a field's bytes, stands.
  std::size_t offset_of(std::string_view part) const noexcept {
    return offset_ + static_cast<std::size_t>(part.data() - message_.data());
  }

 private:
  Result<std::uint64_t> varint();
  Result<std::string_view> take(std::uint64_t size);
  Error broken(std::string_view expected, std::string_view found) const;

  std::string_view message_;
  std::size_t offset_;
  std::size_t at_ = 0;
};

}  // namespace v0_1
}  // namespace krait
