#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Bytes of every id, in one block.
class TokenBytes {
 public:
  /// Ids are given in ascending order from 0 on.
  void append(std::string_view bytes) {
    block_ += bytes;
    ends_.push_back(static_cast<std::uint32_t>(block_.size()));
  }

  std::string_view operator[](Token token) const noexcept {
    const auto i = static_cast<std::size_t>(token);
    const std::uint32_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(block_).substr(begin, ends_[i] - begin);
  }

  std::size_t size() const noexcept { return ends_.size(); }

 private:
  std::string block_;
  std::vector<std::uint32_t> ends_;
};

/// Finds ids by text: a hash table that holds the ids only.
class TokenIndex {
 public:
  /// Room for `count` ids.
  explicit TokenIndex(std::size_t count = 0) : slots_(slots_for(count), empty) {}

  /// `text_of(id)` gives the text of an id in the table.
  template <class TextOf>
  std::optional<Token> find(std::string_view text, const TextOf& text_of) const {
    const Token token = slots_[slot_of(text, text_of)];
    if (token == empty) return std::nullopt;
    return token;
  }

  /// At most `count` calls, with different texts.
  template <class TextOf>
  void insert(Token token, const TextOf& text_of) {
    slots_[slot_of(text_of(token), text_of)] = token;
  }

 private:
  static constexpr Token empty = -1;

  static std::size_t slots_for(std::size_t count) {
    std::size_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    return slots;
  }

  template <class TextOf>
  std::size_t slot_of(std::string_view text, const TextOf& text_of) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = std::hash<std::string_view>{}(text)&mask;
    while (slots_[slot] != empty && text_of(slots_[slot]) != text) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  std::vector<Token> slots_;
};

}  // namespace v0_1
}  // namespace krait
