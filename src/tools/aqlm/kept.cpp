#include "tools/aqlm/kept.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/bad_argument.hpp"
#include "tools/pattern.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

bool is_named(std::string_view tensor, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    return fits_pattern(pattern, tensor) ||
           fits_pattern(pattern, tensor.substr(0, tensor.rfind('.')));
  });
}

Result<void> check_kept(const CheckpointPlan& plan, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    const auto& entries = plan.checkpoint.weights.entries();
    if (std::ranges::any_of(entries,
                            [&](const auto& entry) { return is_named(entry.first, {pattern}); })) {
      continue;
    }
    return bad_argument(
        "aqlm", "keep",
        fmt::format("a pattern that fits a module, such as *.{}.0.*", plan.config.spec.layers_name),
        fmt::format("'{}', which fits none", pattern));
  }
  return {};
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
