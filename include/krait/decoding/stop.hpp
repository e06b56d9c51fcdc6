#pragma once

/// \file
/// StopMatcher: ends a stream of text at any of several strings.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Passes text on until one of the stop strings has appeared, across any boundaries between pieces.
/// Text that might be the beginning of a stop string is held back until that is decided. The string
/// that is complete first ends the text, of several that are complete at once the longest.
class KRAIT_API StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops = {});

  /// Text that stands before the first piece and has been looked at: a stop string may begin in it,
  /// but not end in it. The end of it that may begin one is held back.
  void prime(std::string_view text);

  /// Appends a piece and returns what can be passed on; valid until the next call. Once a stop
  /// string has appeared, `stopped()` is true and neither it nor anything after it is passed on.
  std::string_view push(std::string_view piece);

  /// Whether a stop string would be complete if `piece` came next. Changes nothing.
  bool completes(std::string_view piece) const;

  /// What was held back, at the end of the text.
  std::string_view finish();

  bool stopped() const noexcept { return stopped_; }

  /// Bytes that are held back, or, once stopped, of the stop string and all after it in its piece.
  std::size_t held() const noexcept { return held_.size(); }

  /// Bytes of the longest stop string.
  std::size_t longest() const noexcept;

 private:
  // Bytes at the end of the text that may begin a stop string.
  std::size_t undecided(std::string_view text) const noexcept;

  std::vector<std::string> stops_;
  std::string held_;
  std::string ready_;
  bool stopped_ = false;
};

}  // namespace v0_1
}  // namespace krait
