#pragma once

#include <fmt/format.h>

#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// What a caller of a session got wrong.
inline Error bad_argument(std::string_view what, std::string_view expected,
                          std::string_view found) {
  return {ErrorCode::bad_argument,
          fmt::format("[session] {}: expected {}, found {}", what, expected, found)};
}

}  // namespace v0_1
}  // namespace krait
