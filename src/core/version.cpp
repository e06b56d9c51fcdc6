#include "krait/version.hpp"

namespace krait::inline v0_1 {

const char* version() noexcept { return KRAIT_VERSION_STRING; }

}  // namespace krait::inline v0_1
