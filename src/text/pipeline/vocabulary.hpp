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

/// Finds ids by text: a hash table that holds the ids, below 2^24, and 7 bits of each text's hash,
/// which spare most looks at other texts.
class TokenIndex {
 public:
  /// Room for `count` ids.
  explicit TokenIndex(std::size_t count = 0) : slots_(slots_for(count), empty) {}

  /// `text_of(id)` gives the text of an id in the table.
  template <class TextOf>
  std::optional<Token> find(std::string_view text, const TextOf& text_of) const {
    const std::uint32_t slot = slots_[slot_of(text, hash(text), text_of)];
    if (slot == empty) return std::nullopt;
    return id_in(slot);
  }

  /// At most `count` calls, with different texts.
  template <class TextOf>
  void insert(Token token, const TextOf& text_of) {
    const std::string_view text = text_of(token);
    const std::size_t hashed = hash(text);
    slots_[slot_of(text, hashed, text_of)] =
        tag_of(hashed) << 24U | static_cast<std::uint32_t>(token);
  }

 private:
  static constexpr std::uint32_t empty = ~std::uint32_t{0};

  static std::size_t slots_for(std::size_t count) {
    std::size_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    return slots;
  }

  static std::size_t hash(std::string_view text) { return std::hash<std::string_view>{}(text); }
  static Token id_in(std::uint32_t slot) { return static_cast<Token>(slot & 0xFFFFFFU); }
  // The uppermost bits, which do not choose the slot; never all ones, as in an empty slot.
  static std::uint32_t tag_of(std::size_t hashed) {
    return static_cast<std::uint32_t>(std::uint64_t{hashed} >> 57U);
  }

  template <class TextOf>
  std::size_t slot_of(std::string_view text, std::size_t hashed, const TextOf& text_of) const {
    const std::size_t mask = slots_.size() - 1;
    const std::uint32_t tag = tag_of(hashed);
    std::size_t slot = hashed & mask;
    while (slots_[slot] != empty &&
           (slots_[slot] >> 24U != tag || text_of(id_in(slots_[slot])) != text)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  std::vector<std::uint32_t> slots_;
};

}  // namespace v0_1
}  // namespace krait
