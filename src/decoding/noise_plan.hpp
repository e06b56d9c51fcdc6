#pragma once

#include <algorithm>
#include <utility>

#include "krait/decoding/drugs.hpp"
#include "krait/decoding/sequence.hpp"

namespace krait {
inline namespace v0_1 {

// In place of the state, the one in front of the passes that noised it: what it lacks becomes
// pending, and runs without noise.
inline void make_clean(Sequence& sequence) noexcept {
  const Index behind = std::ssize(sequence.tokens) - sequence.pending;
  sequence.pending += sequence.state.position() - sequence.clean.position();
  sequence.state = std::exchange(sequence.clean, State());
  sequence.noised = 0;
  for (Range& range : sequence.sampled) range.begin = std::max(range.begin, behind);
  std::erase_if(sequence.sampled, [](const Range& range) { return range.begin >= range.end; });
}

// A step of pending tokens and of a draft behind them.
struct NoisedStep {
  bool is_noised = false;  // all of its tokens, or none
  Index most = 0;          // tokens
};

// The next step of a sequence, of at most so many tokens; of a shower, it keeps the state in front.
inline NoisedStep plan_noise(Sequence& sequence, const Drugs& drugs, Index most) {
  const Index first = std::ssize(sequence.tokens) - sequence.pending;
  NoisedStep step{sequence.is_sampled(first), most};
  Index same = 1;
  while (same < sequence.pending && sequence.is_sampled(first + same) == step.is_noised) ++same;
  // Behind the last of the pending tokens a draft can follow, which is noised.
  const bool ends_there = same < sequence.pending || !step.is_noised;
  if (ends_there) step.most = std::min(step.most, same);
  if (!step.is_noised) return step;
  const DrugPlan& plan = drugs.plan();
  if (plan.state == DrugState::clean) {  // each token takes two rows
    step.most = std::max<Index>(1, step.most / 2);
  } else if (plan.state == DrugState::carry) {
    sequence.clean = State();
    sequence.noised = 0;
  } else {
    if (sequence.noised == 0) sequence.clean = sequence.state;
    step.most = std::min(step.most, plan.shower - sequence.noised);
  }
  return step;
}

}  // namespace v0_1
}  // namespace krait
