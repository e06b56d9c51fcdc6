#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// A token found by its text, whatever the model makes of it: an entry of `added_tokens`.
struct AddedToken {
  std::string content;
  Token id = 0;
  bool is_special = false;
  bool is_single_word = false;  ///< only where no word character touches it
  bool strips_left = false;     ///< takes the white space before it
  bool strips_right = false;    ///< takes the white space behind it
  bool is_normalized = false;   ///< looked for after the text was normalized
};

/// A part of a text: a token, or what lies between tokens.
struct TextPart {
  std::size_t begin = 0, end = 0;
  std::optional<Token> token;
};

/// Finds added tokens in texts: the leftmost first, of those that begin together the longest.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;

  /// Of tokens with equal texts the first one is found; those with empty texts never are.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  /// Cuts `text`, well-formed UTF-8, into `parts`. Special tokens that overlap with a part that is
  /// `literal` (ascending, apart) are not looked for.
  void split(std::string_view text, std::vector<TextPart>& parts,
             std::span<const ByteRange> literal = {}) const;

 private:
  /// The longest token that begins at `position`, or null; special ones end at `special_end`.
  const AddedToken* find_at(std::string_view text, std::size_t position,
                            std::size_t special_end) const noexcept;

  std::vector<AddedToken> tokens_;  // by content, ascending
  std::array<bool, 256> begins_{};  // bytes that begin a token
};

}  // namespace v0_1
}  // namespace krait
