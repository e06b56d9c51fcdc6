#include "krait/kernels/moe.hpp"

#include <algorithm>
#include <limits>

#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/ref/lanes.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// A place in the order in which experts are chosen: higher keys first, then lower indices.
struct Rank {
  float key;
  Index expert;

  bool is_before(const Rank& other) const noexcept {
    return key > other.key || (key == other.key && expert < other.expert);
  }
};

// Few experts are chosen of at most some hundred, whose scores lie in the first-level cache: a
// search for each is faster than any sorting, and needs no memory.
void route_row(const RouteArgs& args, std::span<float> gate) noexcept {
  const auto n_expert = static_cast<Index>(gate.size());
  const auto rank = [&](Index e) {
    float key = gate[static_cast<std::size_t>(e)];
    if (args.selection_bias != nullptr) key += args.selection_bias[e];
    return Rank{key == key ? key : minus_infinity, e};
  };
  Rank last{std::numeric_limits<float>::infinity(), -1};  // of those chosen so far
  for (Index k = 0; k < args.top_k; ++k) {
    Rank best{minus_infinity, n_expert};
    for (Index e = 0; e < n_expert; ++e) {
      const Rank candidate = rank(e);
      if (last.is_before(candidate) && candidate.is_before(best)) best = candidate;
    }
    last = best;
  }
  const bool of_chosen = args.score == RouterScore::softmax_of_chosen;
  for (Index e = 0; e < n_expert; ++e) {
    if (last.is_before(rank(e))) gate[static_cast<std::size_t>(e)] = of_chosen ? minus_infinity : 0;
  }
  if (of_chosen) softmax(gate, gate);
  if (args.normalize) {
    ref::Lanes acc{};
    for (std::size_t e = 0; e < gate.size(); ++e) acc[e % 16] += gate[e];
    const float sum = ref::reduce(acc) + 1e-20F;
    for (float& value : gate) value /= sum;
  }
  if (args.scale != 1.0F) {
    for (float& value : gate) value *= args.scale;
  }
}

}  // namespace

void route(const RouteArgs& args) noexcept {
  for (Index t = 0; t < args.logits.rows; ++t) {
    const std::span<const float> logits = args.logits.row(t);
    const std::span<float> gate = args.gates.row(t);
    switch (args.score) {
      case RouterScore::softmax:
        softmax(logits, gate);
        break;
      case RouterScore::sigmoid:
        sigmoid(logits, gate);
        break;
      case RouterScore::softmax_of_chosen:
        if (gate.data() != logits.data()) std::copy(logits.begin(), logits.end(), gate.begin());
        break;
    }
    route_row(args, gate);
  }
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
