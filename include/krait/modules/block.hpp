#pragma once

/// \file
/// Block: one layer's transformation of the residual stream; and what it sees while it runs.
///
/// An application adds its own block without rebuilding krait: derive from `Block`, book state and
/// scratch in a bind function, and name it in a `CustomSpec` (models/spec.hpp).
/// `examples/custom_block.cpp` shows all of it.

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "krait/core/executor.hpp"
#include "krait/core/plan.hpp"
#include "krait/core/scratch.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/kernels/product.hpp"

namespace krait {
inline namespace v0_1 {

/// The consecutive rows of a run that belong to one sequence, and that sequence's state.
struct SequenceRows {
  Index first = 0;         ///< first row
  Index count = 0;         ///< rows, at least 1
  Index position = 0;      ///< tokens the sequence had consumed before this run
  float* state = nullptr;  ///< the sequence's state block

  std::span<float> slot(StateSlot slot) const noexcept {
    return {state + slot.offset, static_cast<std::size_t>(slot.size)};
  }
};

/// What the blocks recorded of the tokens of a verification (Session::verify).
struct Trail {
  Scratch* memory = nullptr;  ///< null in runs that are not verified
  Index first = 0;            ///< the token that row 0 of the run is

  MatrixView<float> rows(ScratchSlot slot, Index count, Index cols) const noexcept {
    return {memory->grant(slot).data() + first * slot.floats_per_token, count, cols,
            slot.floats_per_token};
  }
};

/// Watches which experts the tokens of a run are sent to.
class RoutingObserver {
 public:
  /// `gates` [tokens, n_expert] of the block at `path`, such as "layers.3.moe": 0 for the experts
  /// that have no part. Called in the middle of a run, which waits for it.
  virtual void routed(std::string_view path, MatrixView<const float> gates) noexcept = 0;

 protected:
  ~RoutingObserver() = default;
};

/// What a block sees: the rows of one run. A run holds one token of one sequence (a step), many
/// tokens of one (a prompt), or tokens of several sequences (a batch); the same code serves all.
struct BlockContext {
  MatrixView<float> x;  ///< [rows, d_model]; read, then overwritten with the block's output
  std::span<const SequenceRows> sequences;  ///< cover all rows, in order
  Executor& executor;
  Scratch& memory;
  std::span<float> workspace;  ///< of the matrix product that runs; booked by Plan::workspace
  Trail trail{};
  RoutingObserver* routing = nullptr;  ///< may be null

  /// What matrix products need of it.
  operator ProductContext() const noexcept { return {executor, workspace}; }

  /// Booked working memory as a matrix [rows, cols]; rows start on cache lines.
  MatrixView<float> scratch(ScratchSlot slot, Index cols) const noexcept {
    return {memory.grant(slot).data(), x.rows, cols, slot.floats_per_token};
  }

  /// In a verification, keeps a copy of `values` [rows, cols] for `Block::replay`.
  void record(ScratchSlot slot, MatrixView<const float> values) const noexcept {
    if (trail.memory == nullptr) return;
    const MatrixView<float> kept = trail.rows(slot, values.rows, values.cols);
    for (Index t = 0; t < values.rows; ++t) std::ranges::copy(values.row(t), kept.row_data(t));
  }

  /// In `Block::replay`: what `record` kept of this run's tokens.
  MatrixView<const float> recorded(ScratchSlot slot, Index cols) const noexcept {
    return trail.rows(slot, x.rows, cols);
  }
};

/// A transformation of rows of d_model floats. Immutable once bound; used by several threads.
class KRAIT_API Block {
 public:
  virtual ~Block();

  /// Replaces ctx.x by the block's output and advances the state of every sequence. Must give the
  /// same result however the tokens of a sequence are cut into runs. Never fails or allocates.
  virtual void forward(BlockContext& ctx) const noexcept = 0;

  /// Advances the state of every sequence as `forward` did for the same tokens in a verification,
  /// to the bit. ctx.x holds the block's inputs; what it holds afterwards does not matter. A block
  /// that recorded enough (BlockContext::record) does it without matrix products; the others run
  /// forward again. Only called for blocks that booked state.
  virtual void replay(BlockContext& ctx) const noexcept { forward(ctx); }

  /// One line for `describe`: the kind and its sizes.
  virtual std::string description() const = 0;
};

}  // namespace v0_1
}  // namespace krait
