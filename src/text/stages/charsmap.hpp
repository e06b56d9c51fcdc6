#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// The `precompiled_charsmap` of SentencePiece: what parts of texts are replaced by, in a double
/// array (Darts). Whatever the table holds, matches end between code points and replacements are
/// well-formed UTF-8.
class Charsmap {
 public:
  /// An empty table, of no bytes, replaces nothing. `where` is for messages.
  static Result<Charsmap> read(std::string_view blob, std::string_view where);

  /// From the base64 of a `tokenizer.json`.
  static Result<Charsmap> read_base64(std::string_view base64, std::string_view where);

  bool is_empty() const noexcept { return units_.empty(); }

  struct Match {
    std::size_t size = 0;  ///< bytes of the text; 0: no match
    std::string_view replacement;
  };

  /// The longest, or the shortest, part that `text`, well-formed UTF-8, begins with.
  Match longest(std::string_view text) const noexcept { return match(text, true); }
  Match shortest(std::string_view text) const noexcept { return match(text, false); }

 private:
  Match match(std::string_view text, bool wants_longest) const noexcept;
  bool replacement(std::uint32_t offset, std::string_view& text) const noexcept;

  std::vector<std::uint32_t> units_;
  std::string replacements_;  // each ends with a zero
};

}  // namespace v0_1
}  // namespace krait
