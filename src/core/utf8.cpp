#include "core/utf8.hpp"

#include <cstring>

namespace krait {
inline namespace v0_1 {
namespace utf8 {

std::size_t ascii_prefix(std::string_view text, std::size_t position) noexcept {
  const std::size_t begin = position;
  while (text.size() - position >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + position, sizeof(word));
    if ((word & 0x8080808080808080U) != 0) {
      break;
    }
    position += 8;
  }
  while (position < text.size() && static_cast<unsigned char>(text[position]) < 0x80) {
    ++position;
  }
  return position - begin;
}

std::size_t first_ill_formed(std::string_view text) noexcept {
  std::size_t position = ascii_prefix(text, 0);
  while (position < text.size()) {
    const Step here = step(text, position);
    if (here.form != Form::complete) {
      return position;
    }
    position += here.length;
    if (here.length == 1) {
      position += ascii_prefix(text, position);
    }
  }
  return position;
}

}  // namespace utf8
}  // namespace v0_1
}  // namespace krait
