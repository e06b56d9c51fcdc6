#pragma once

/// \file
/// StopMatcher: ends a stream of text at any of several strings.

#include <string>
#include <string_view>
#include <vector>

#include "krait/core/config.hpp"

namespace krait::inline v0_1 {

/// Passes text on until one of the stop strings has appeared, across any boundaries between pieces.
/// Text that might be the beginning of a stop string is held back until that is decided.
class KRAIT_API StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops = {});

  /// Appends a piece and returns what can be passed on; valid until the next call. Once a stop
  /// string has appeared, `stopped()` is true and neither it nor anything after it is passed on.
  std::string_view push(std::string_view piece);

  /// What was held back, at the end of the text.
  std::string_view finish();

  bool stopped() const noexcept { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string ready_;
  bool stopped_ = false;
};

}  // namespace krait::inline v0_1
