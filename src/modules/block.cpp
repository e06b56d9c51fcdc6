#include "krait/modules/block.hpp"

namespace krait::inline v0_1 {

Block::~Block() = default;

}  // namespace krait::inline v0_1
