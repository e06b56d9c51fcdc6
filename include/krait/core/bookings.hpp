#pragma once

/// \file
/// Bookings: the memory that the blocks of a model ask for while they are bound.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/function.hpp"
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

/// Tokens in one page of a sequence's cache.
inline constexpr Index cache_page_tokens = 64;

/// A booking in the cache of a sequence: a row for every token.
struct CacheSlot {
  Index offset = 0;  ///< floats from the beginning of a page
  Index floats = 0;  ///< of a row
  Index stride = 0;  ///< floats from one row to the next, a multiple of 16
};

/// The row of a token in the pages of a cache.
inline float* cache_row(float* const* pages, CacheSlot slot, Index token) noexcept {
  return pages[token / cache_page_tokens] + slot.offset + token % cache_page_tokens * slot.stride;
}

/// A named booking of the cache.
struct CacheTensor {
  std::string path;  ///< "layers.3.attention.kv"
  CacheSlot slot;
};

/// Collects the bookings of state (per sequence), cache (per token of a sequence), scratch (per
/// token of a run), trail (per tentative token) and task memory (per thread and length of context).
class Bookings {
 public:
  explicit Bookings(Index d_model) : d_model_(d_model) {}

  Index d_model() const noexcept { return d_model_; }

  /// A tensor that lives as long as the sequence, zero at its start.
  StateSlot state(std::string path, const Shape& shape) {
    const StateSlot slot{state_floats_, shape.size()};
    state_floats_ += round_up(slot.size, 16);
    state_tensors_.push_back({std::move(path), shape, slot});
    return slot;
  }

  /// Rows that every token of a sequence adds and that stay, such as keys and values.
  CacheSlot cache(std::string path, Index floats) {
    const CacheSlot slot{cache_floats_ * cache_page_tokens, floats, round_up(floats, 16)};
    cache_floats_ += slot.stride;
    cache_tensors_.push_back({std::move(path), slot});
    return slot;
  }

  /// Working memory of each task of a block: as many floats as `size` says for a run of so many
  /// tokens, none of which has more than `context` tokens in its sequence, itself included. Blocks
  /// run one after another, so the largest booking serves all.
  using TaskMemory = Function<Index(Index tokens, Index context)>;
  void task_memory(TaskMemory size) { task_memory_.push_back(std::move(size)); }

  /// Working memory of a block while it runs: `floats` floats for every token.
  ScratchSlot scratch(Index floats) { return scratch_.book(floats); }

  /// What a block records of every token of a verification, `floats` floats, so that it can repeat
  /// the token's effect on the state. Unlike scratch it outlasts the run, and no two slots overlap.
  ScratchSlot trail(Index floats) { return trail_.book(floats); }

  /// Working memory of a matrix product, for its input in another form. Products run one after
  /// another, so the largest booking serves all.
  void workspace(Index floats) { workspace_ = std::max(workspace_, round_up(floats, 16)); }

  ScratchLayout& scratch_layout() noexcept { return scratch_; }
  const ScratchLayout& scratch_layout() const noexcept { return scratch_; }
  const ScratchLayout& trail_layout() const noexcept { return trail_; }
  Index workspace_floats() const noexcept { return workspace_; }
  Index state_floats() const noexcept { return state_floats_; }
  const std::vector<StateTensor>& state_tensors() const noexcept { return state_tensors_; }
  Index cache_floats() const noexcept { return cache_floats_; }
  const std::vector<CacheTensor>& cache_tensors() const noexcept { return cache_tensors_; }
  const std::vector<TaskMemory>& task_memories() const noexcept { return task_memory_; }

 private:
  Index d_model_;
  ScratchLayout scratch_;
  ScratchLayout trail_;
  Index workspace_ = 0;  // floats per token
  Index state_floats_ = 0;
  std::vector<StateTensor> state_tensors_;
  Index cache_floats_ = 0;  // per token
  std::vector<CacheTensor> cache_tensors_;
  std::vector<TaskMemory> task_memory_;
};

}  // namespace v0_1
}  // namespace krait
