#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// The last tokens of a text, up to a fixed number. Allocates only when made or copied.
class TextWindow {
 public:
  explicit TextWindow(std::size_t capacity) : capacity_(capacity), tokens_(2 * capacity) {}

  void observe(std::span<const Token> tokens) noexcept {
    if (capacity_ == 0) return;
    for (const Token token : tokens) {
      if (end_ == tokens_.size()) {
        std::copy(tokens_.end() - static_cast<std::ptrdiff_t>(capacity_), tokens_.end(),
                  tokens_.begin());
        end_ = capacity_;
      }
      tokens_[end_++] = token;
    }
  }

  std::size_t size() const noexcept { return std::min(end_, capacity_); }

  /// The token that so many others stand behind.
  Token back(std::size_t i) const noexcept { return tokens_[end_ - 1 - i]; }

 private:
  std::size_t capacity_;
  std::vector<Token> tokens_;  // the text's end is in front of end_
  std::size_t end_ = 0;
};

}  // namespace v0_1
}  // namespace krait
