#pragma once

#include <string>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// The folder of work that is not finished: DST.partial beside the folder DST, whether that is
/// written as "DST", "DST/" or, from inside it, ".".
KRAIT_API std::string partial_folder(std::string destination);

}  // namespace v0_1
}  // namespace krait
