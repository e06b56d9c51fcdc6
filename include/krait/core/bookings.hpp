#pragma once

/// \file
/// Bookings: the memory that the blocks of a model ask for while they are bound.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/core/function.hpp"
#include "krait/core/scratch.hpp"
#include "krait/core/shape.hpp"

namespace krait {
inline namespace v0_1 {

/// One tensor's place in the state of a sequence.
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

/// Tokens in one page of a sequence's cache.
inline constexpr Index cache_page_tokens = 64;

/// One booking's place in the cache of a sequence, which has a row for every token. Offset and
/// stride count in units of 4 bytes, whatever the type.
struct CacheSlot {
  Index offset = 0;          ///< from the beginning of a page
  Index floats = 0;          ///< numbers in a row
  Index stride = 0;          ///< from one row to the next, a multiple of 16
  DType dtype = DType::f32;  ///< of the numbers: f32, f16 or bf16
};

/// Where the cached row of a token (0 … rows - 1) begins.
inline float* cache_row(float* const* pages, CacheSlot slot, Index token) noexcept {
  return pages[token / cache_page_tokens] + slot.offset + token % cache_page_tokens * slot.stride;
}

/// A named booking of the cache.
struct CacheTensor {
  std::string path;  ///< "layers.3.attention.keys"
  CacheSlot slot;
};

/// Adds up the memory that blocks book. It is allocated later, each kind where it is needed:
///
///   state        per sequence                        recurrent state and convolution window
///   cache        per sequence and token              keys and values (the KV cache)
///   scratch      per token of a run                  what a block computes in between
///   trail        per tentative token                 what `Session::keep` needs to replay it
///   workspace    per token of a run                  a matrix product's packed operands
///   task memory  per thread, grows with the context  attention's scores
class Bookings {
 public:
  explicit Bookings(Index d_model) : d_model_(d_model), d_input_(d_model) {}

  Index d_model() const noexcept { return d_model_; }

  /// Width of the rows that the block which is bound reads: d_model, or twice that if it reads the
  /// embedding beside the residual stream. What it writes has d_model floats.
  Index d_input() const noexcept { return d_input_; }
  void set_d_input(Index d_input) noexcept { d_input_ = d_input; }

  /// A tensor of the state: it lives as long as the sequence and is zero at its start. `path` names
  /// it in saved states ("layers.3.mixer.ssm_state").
  StateSlot state(std::string path, const Shape& shape) {
    const StateSlot slot{state_floats_, shape.size()};
    state_floats_ += round_up(slot.size, 16);
    state_tensors_.push_back({std::move(path), shape, slot});
    return slot;
  }

  /// A row of `floats` numbers of the type `dtype` (f32, f16 or bf16) that every token adds to the
  /// sequence's cache, such as its key and value.
  CacheSlot cache(std::string path, Index floats, DType dtype = DType::f32) {
    const Index units = (floats * bytes_of(dtype) + 3) / 4;
    const CacheSlot slot{cache_floats_ * cache_page_tokens, floats, round_up(units, 16), dtype};
    cache_floats_ += slot.stride;
    cache_tensors_.push_back({std::move(path), slot});
    return slot;
  }

  /// Working memory of each task of a block: `size(tokens, context)` floats for a run of up to
  /// `tokens` tokens in sequences of up to `context` tokens. Blocks run one after another, so they
  /// share the largest booking.
  using TaskMemory = Function<Index(Index tokens, Index context)>;
  void task_memory(TaskMemory size) { task_memory_.push_back(std::move(size)); }

  /// Working memory of a block while it runs: `floats` floats for every token of the run. Other
  /// blocks use the same memory before and after it.
  ScratchSlot scratch(Index floats) { return scratch_.book(floats); }

  /// What a block records of every tentative token, `floats` floats, so that it can replay the
  /// token's effect on the state. It outlasts the run: no two slots overlap.
  ScratchSlot trail(Index floats) { return trail_.book(floats); }

  /// Working memory of a matrix product, such as its packed or rounded activations: `floats` floats
  /// for every token. Products run one after another, so they share the largest booking.
  void workspace(Index floats) { workspace_ = std::max(workspace_, round_up(floats, 16)); }

  ScratchLayout& scratch_layout() noexcept { return scratch_; }
  const ScratchLayout& scratch_layout() const noexcept { return scratch_; }
  const ScratchLayout& trail_layout() const noexcept { return trail_; }
  Index workspace_floats() const noexcept { return workspace_; }
  Index state_floats() const noexcept { return state_floats_; }
  const std::vector<StateTensor>& state_tensors() const noexcept { return state_tensors_; }
  /// Units of 4 bytes per token.
  Index cache_floats() const noexcept { return cache_floats_; }
  const std::vector<CacheTensor>& cache_tensors() const noexcept { return cache_tensors_; }
  const std::vector<TaskMemory>& task_memories() const noexcept { return task_memory_; }

 private:
  Index d_model_;
  Index d_input_;
  ScratchLayout scratch_;
  ScratchLayout trail_;
  Index workspace_ = 0;  // floats per token
  Index state_floats_ = 0;
  std::vector<StateTensor> state_tensors_;
  Index cache_floats_ = 0;  // units of 4 bytes per token
  std::vector<CacheTensor> cache_tensors_;
  std::vector<TaskMemory> task_memory_;
};

}  // namespace v0_1
}  // namespace krait
