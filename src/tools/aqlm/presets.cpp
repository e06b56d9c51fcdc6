#include "tools/aqlm/presets.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/bad_argument.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

constexpr Index unlimited = std::numeric_limits<Index>::max();
// Tokens times parameters: about a quarter of an hour on two cores.
constexpr Index quarter_of_an_hour = 6'000'000'000'000;

constexpr Preset presets[] = {
    {"fast", {.beam = 4, .rounds = 3, .solver_steps = 5, .kmeans_rounds = 10}, true, 0, 0, false},
    {"default",
     {.beam = 12, .rounds = 12, .least_gain = 0.002},
     false,
     256 << 10,
     quarter_of_an_hour,
     false},
    {"best", {.beam = 32, .rounds = 25, .least_gain = 0.0005}, false, 2 << 20, unlimited, true},
};

}  // namespace

Index Preset::tune_tokens(Index parameters) const {
  // Fewer do not help.
  constexpr Index least_tokens = 32 << 10;
  const Index tokens = std::min(most_tune_tokens, most_tune_work / std::max(parameters, Index{1}));
  return tokens < least_tokens ? 0 : tokens;
}

Result<Preset> preset_of(std::string_view name) {
  for (const Preset& preset : presets) {
    if (preset.name == name) return preset;
  }
  return bad_argument("aqlm", "preset", "fast, default or best", fmt::format("'{}'", name));
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
