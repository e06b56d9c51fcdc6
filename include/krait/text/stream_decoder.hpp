#pragma once

/// \file
/// StreamDecoder: a stream of token bytes to whole UTF-8 characters.

#include <string>
#include <string_view>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Holds back the bytes of a character that is not complete yet. Bytes that can never become valid
/// UTF-8 are replaced by U+FFFD, one for each maximal ill-formed part, as the Unicode standard
/// (3.9, substitution of maximal subparts) recommends.
class KRAIT_API StreamDecoder {
 public:
  /// Appends bytes and returns what can be shown now; valid until the next call.
  std::string_view push(std::string_view bytes);

  /// What was held back, as U+FFFD if anything was; the decoder is empty afterwards.
  std::string_view finish();

  /// Bytes held back: at most 3.
  std::string_view pending() const noexcept { return pending_; }

 private:
  std::string pending_;
  std::string ready_;
};

}  // namespace v0_1
}  // namespace krait
