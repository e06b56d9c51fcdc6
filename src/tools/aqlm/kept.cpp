#include "tools/aqlm/kept.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/bad_argument.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// Whether a text fits a pattern in which `*` is any run of characters.
bool fits(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::optional<std::size_t> star;  // the last one, which stands for text up to `after`
  std::size_t after = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star) {
      p = *star + 1;
      t = ++after;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace

bool is_kept(std::string_view tensor, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    return fits(pattern, tensor) || fits(pattern, tensor.substr(0, tensor.rfind('.')));
  });
}

Result<void> check_kept(const CheckpointPlan& plan, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    const auto& entries = plan.checkpoint.weights.entries();
    if (std::ranges::any_of(entries,
                            [&](const auto& entry) { return is_kept(entry.first, {pattern}); })) {
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
