#pragma once

#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// "[area] what: expected X, found Y", the words of every error about an argument.
KRAIT_API Error bad_argument(std::string_view area, std::string_view what,
                             std::string_view expected, std::string_view found);

}  // namespace v0_1
}  // namespace krait
