#include "krait/modules/block.hpp"

#include <fmt/format.h>

#include "krait/modules/block_spec.hpp"

namespace krait {
inline namespace v0_1 {

Block::~Block() = default;

std::string spec_number(float value) { return fmt::to_string(value); }

Error bad_spec(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_config,
          fmt::format("[spec] {}: expected {}, found {}", what, expected, found)};
}

Result<void> check_extent(std::string_view what, Index value) {
  if (value < 1 || value > largest_extent) {
    return bad_spec(what, fmt::format("1 to {}", largest_extent), fmt::to_string(value));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
