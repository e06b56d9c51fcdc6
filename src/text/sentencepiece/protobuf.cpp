#include "text/sentencepiece/protobuf.hpp"

#include <fmt/format.h>

#include <bit>

namespace krait {
inline namespace v0_1 {

float ProtobufReader::Field::real() const noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value));
}

Error ProtobufReader::broken(std::string_view expected, std::string_view found) const {
  return {ErrorCode::bad_format,
          fmt::format("[tokenizer] SentencePiece file: expected {}, found {} "
                      "(offset {})",
                      expected, found, offset_ + at_)};
}

Result<std::uint64_t> ProtobufReader::varint() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (at_ == message_.size()) return broken("a number", "the end of the message");
    const auto byte = static_cast<unsigned char>(message_[at_++]);
    value |= std::uint64_t{byte & 0x7FU} << shift;
    if (byte < 0x80) return value;
  }
  return broken("a number of at most 10 bytes", "more");
}

Result<std::string_view> ProtobufReader::take(std::uint64_t size) {
  if (size > message_.size() - at_) {
    return broken(fmt::format("{} bytes", size), fmt::format("{}", message_.size() - at_));
  }
  const std::string_view part = message_.substr(at_, static_cast<std::size_t>(size));
  at_ += part.size();
  return part;
}

Result<std::optional<ProtobufReader::Field>> ProtobufReader::next() {
  if (at_ == message_.size()) return std::optional<Field>();
  KRAIT_ASSIGN_OR_RETURN(const std::uint64_t tag, varint());
  Field field;
  if (tag >> 3U == 0 || tag >> 3U >= 1U << 29U) {
    return broken("a field's number", fmt::format("{}", tag >> 3U));
  }
  field.number = static_cast<std::uint32_t>(tag >> 3U);
  switch (tag & 7U) {
    case 0: {
      KRAIT_ASSIGN_OR_RETURN(field.value, varint());
      break;
    }
    case 2: {
      field.kind = Field::Kind::bytes;
      KRAIT_ASSIGN_OR_RETURN(const std::uint64_t size, varint());
      KRAIT_ASSIGN_OR_RETURN(field.bytes, take(size));
      break;
    }
    case 1:
    case 5: {
      const bool is_long = (tag & 7U) == 1;
      field.kind = is_long ? Field::Kind::fixed64 : Field::Kind::fixed32;
      KRAIT_ASSIGN_OR_RETURN(const std::string_view bytes, take(is_long ? 8 : 4));
      for (std::size_t i = bytes.size(); i > 0; --i) {
        field.value = field.value << 8U | static_cast<unsigned char>(bytes[i - 1]);
      }
      break;
    }
    default:
      return broken("wire type 0, 1, 2 or 5", fmt::format("{}", tag & 7U));
  }
  return std::optional<Field>(field);
}

}  // namespace v0_1
}  // namespace krait
