#include "krait/version.hpp"

namespace krait {
inline namespace v0_1 {

const char* version() noexcept { return KRAIT_VERSION_STRING; }

}  // namespace v0_1
}  // namespace krait
