#pragma once

/// \file
/// Plan: what the blocks of a model book while they are bound.

#include <algorithm>
#include <string>
#include <vector>

#include "krait/core/scratch.hpp"
#include "krait/core/shape.hpp"

namespace krait {
inline namespace v0_1 {

/// A booking in the state of a sequence.
struct StateSlot {
  Index offset = 0;  ///< floats from the beginning of the state
  Index size = 0;    ///< floats
};

/// A named tensor of the state.
struct StateTensor {
  std::string path;  ///< "layers.3.mixer.ssm_state"
  Shape shape;
  StateSlot slot;
};

/// Collects the bookings of state (per sequence), scratch (per token of a run) and trail (per token
/// of a verification).
class Plan {
 public:
  explicit Plan(Index d_model) : d_model_(d_model) {}

  Index d_model() const noexcept { return d_model_; }

  /// A tensor that lives as long as the sequence, zero at its start.
  StateSlot state(std::string path, const Shape& shape) {
    const StateSlot slot{state_floats_, shape.size()};
    state_floats_ += round_up(slot.size, 16);
    state_tensors_.push_back({std::move(path), shape, slot});
    return slot;
  }

  /// Working memory of a block while it runs: `floats` floats for every token.
  ScratchSlot scratch(Index floats) { return scratch_.book(floats); }

  /// What a block records of every token of a verification, `floats` floats, so that it can repeat
  /// the token's effect on the state. Unlike scratch it outlasts the run, and no two slots overlap.
  ScratchSlot trail(Index floats) { return trail_.book(floats); }

  /// Working memory of a matrix product, for its input in another form. Products run one after
  /// another, so the largest booking serves all.
  void workspace(Index floats) { workspace_ = std::max(workspace_, round_up(floats, 16)); }

  ScratchPlan& scratch_plan() noexcept { return scratch_; }
  const ScratchPlan& scratch_plan() const noexcept { return scratch_; }
  const ScratchPlan& trail_plan() const noexcept { return trail_; }
  Index workspace_floats() const noexcept { return workspace_; }
  Index state_floats() const noexcept { return state_floats_; }
  const std::vector<StateTensor>& state_tensors() const noexcept { return state_tensors_; }

 private:
  Index d_model_;
  ScratchPlan scratch_;
  ScratchPlan trail_;
  Index workspace_ = 0;  // floats per token
  Index state_floats_ = 0;
  std::vector<StateTensor> state_tensors_;
};

}  // namespace v0_1
}  // namespace krait
