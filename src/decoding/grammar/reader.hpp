#pragma once

/// \file
/// Reader: a text, character by character, for the parsers of patterns and grammars.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/utf8.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Goes through well-formed UTF-8.
class Reader {
 public:
  static constexpr char32_t end = 0xFFFFFFFF;

  explicit Reader(std::string_view text) : text_(text) {}

  bool is_done() const noexcept { return position_ >= text_.size(); }
  std::size_t position() const noexcept { return position_; }

  /// The character that comes next; `end` behind the last.
  char32_t peek() const noexcept { return is_done() ? end : utf8::step(text_, position_).code; }
  char32_t take() noexcept {
    const utf8::Step step = utf8::step(text_, position_);
    position_ += step.length;
    return step.code;
  }
  /// Whether this came next; it is taken then.
  bool take(std::string_view expected) noexcept {
    if (!text_.substr(position_).starts_with(expected)) return false;
    position_ += expected.size();
    return true;
  }
  bool is_next(std::string_view expected) const noexcept {
    return text_.substr(position_).starts_with(expected);
  }

  /// A number in decimal digits, at most `most`; nothing without digits or beyond.
  std::optional<std::uint32_t> number(std::uint32_t most) noexcept {
    std::uint64_t value = 0;
    std::size_t digits = 0;
    for (; !is_done() && text_[position_] >= '0' && text_[position_] <= '9'; ++position_) {
      value = value * 10 + static_cast<unsigned>(text_[position_] - '0');
      if (value > most) return std::nullopt;
      ++digits;
    }
    if (digits == 0) return std::nullopt;
    return static_cast<std::uint32_t>(value);
  }

  /// A number of `least` to `most` hexadecimal digits; nothing where there are fewer.
  std::optional<std::uint32_t> hex(int least, int most) noexcept {
    std::uint32_t value = 0;
    int digits = 0;
    for (; digits < most && !is_done(); ++digits, ++position_) {
      const char c = text_[position_];
      if (c >= '0' && c <= '9') {
        value = value * 16 + static_cast<unsigned>(c - '0');
      } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
        value = value * 16 + static_cast<unsigned>((c | 0x20) - 'a' + 10);
      } else {
        break;
      }
    }
    if (digits < least) return std::nullopt;
    return value;
  }

  std::string_view from(std::size_t begin) const noexcept {
    return text_.substr(begin, position_ - begin);
  }

  /// What comes next, for "found".
  std::string found() const {
    if (is_done()) return "the end";
    const utf8::Step step = utf8::step(text_, position_);
    return "'" + printable(text_.substr(position_, step.length)) + "'";
  }

  /// From 1. Counted from where it was asked last, if that lies before.
  std::size_t line() const noexcept {
    if (counted_ > position_) {
      counted_ = 0;
      line_ = 1;
    }
    const std::size_t here = std::min(position_, text_.size());
    for (; counted_ < here; ++counted_) line_ += text_[counted_] == '\n';
    return line_;
  }

 private:
  std::string_view text_;
  std::size_t position_ = 0;
  mutable std::size_t counted_ = 0;  // bytes, which have so many lines
  mutable std::size_t line_ = 1;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
