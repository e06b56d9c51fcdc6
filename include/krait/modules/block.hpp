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
#include <utility>
#include <vector>

#include "krait/core/bookings.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/scratch.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/kernels/product.hpp"
#include "krait/modules/hook.hpp"

namespace krait {
inline namespace v0_1 {

/// The consecutive rows of a run that belong to one sequence, and that sequence's state.
///
/// Where a hook's changes are to reach the logits but not the state (`RunItem::clean`), the same
/// tokens have two entries, one behind the other. The first has no hook, and its state advances.
/// The second, `is_beside` it, has the hook; each of its tokens begins with the state that the
/// first has in front of that token, and what becomes of it is dropped. `for_each_part` cuts both
/// so.
struct SequenceRows {
  Index first = 0;                 ///< first row
  Index count = 0;                 ///< rows, at least 1
  Index position = 0;              ///< tokens the sequence had consumed before this run
  float* state = nullptr;          ///< the sequence's state block
  float* const* pages = nullptr;   ///< pages of the sequence's cache, with room for these rows
  ActivationHook* hook = nullptr;  ///< called with these rows; may be null
  Index item = 0;                  ///< index of the run's item, for the hook
  /// Row of the trail where the first of these rows is recorded; -1 if the item is not tentative.
  Index trail = -1;
  bool is_beside = false;         ///< of two entries with the same tokens, the second
  const float* origin = nullptr;  ///< of a part: the state to begin with; null: `state` itself

  /// The entry of token t (0 … count - 1) alone.
  SequenceRows part(Index t) const noexcept {
    SequenceRows one = *this;
    one.first += t;
    one.position += t;
    one.count = 1;
    if (trail >= 0) one.trail += t;
    return one;
  }

  /// In a part that has an origin: copies these floats of the slot from there.
  void take(StateSlot slot, Range floats) const noexcept {
    if (origin == nullptr) return;
    const Index from = slot.offset + floats.begin;
    std::copy_n(origin + from, floats.size(), state + from);
  }

  std::span<float> slot(StateSlot slot) const noexcept {
    return {state + slot.offset, static_cast<std::size_t>(slot.size)};
  }

  /// The row in the sequence's KV cache that belongs to row t (0 … count - 1); of slots in f32.
  std::span<float> cache(CacheSlot slot, Index t) const noexcept {
    return {cache_row(pages, slot, position + t), static_cast<std::size_t>(slot.floats)};
  }
};

/// Calls f(rows) for all sequences of a run, whose states may then be advanced by these rows, one
/// after another. Entries beside others come token by token, each in front of that token of the
/// other, and with an origin, from which f takes what it needs of the state.
template <class F>
void for_each_part(std::span<const SequenceRows> sequences, F&& f) {
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceRows& rows = sequences[i];
    if (i + 1 == sequences.size() || !sequences[i + 1].is_beside) [[likely]] {
      f(rows);
      continue;
    }
    const SequenceRows& beside = sequences[++i];
    for (Index t = 0; t < rows.count; ++t) {
      SequenceRows part = beside.part(t);
      part.origin = rows.state;
      f(std::as_const(part));
      f(rows.part(t));
    }
  }
}

/// Which block of the model is running, for hooks.
struct BlockPlace {
  Index layer = 0;
  std::string_view path = {};  ///< "layers.3.mixer"
};

/// What a block gets: the rows of one run. A run has one token of one sequence (a step), many
/// tokens of one sequence (a prompt), or tokens of several sequences (a batch). Blocks treat all
/// alike.
struct BlockContext {
  MatrixView<float> x;  ///< [rows, d_model] the block's input; overwritten with its output
  std::span<const SequenceRows> sequences;  ///< cover all rows, in order
  Executor& executor;
  Scratch& memory;
  std::span<float> workspace;  ///< for matrix products; booked by Bookings::workspace
  Scratch* trail = nullptr;    ///< where tentative rows are recorded; null if there are none
  bool has_hooks = false;      ///< whether any of the sequences has a hook
  bool again = false;          ///< in `Block::replay`: the same rows ran before
  bool has_pairs = false;      ///< whether any of the sequences is beside another
  BlockPlace place{};
  std::span<float> tasks = {};  ///< memory of all tasks; booked by Bookings::task_memory
  Index task_floats = 0;        ///< floats of each task
  Index state_floats = 0;       ///< floats of a sequence's state

  /// For `Linear::apply`.
  operator ProductContext() const noexcept { return {executor, workspace}; }

  /// Booked working memory as a matrix [rows, cols]; rows start on cache lines.
  MatrixView<float> scratch(ScratchSlot slot, Index cols) const noexcept {
    return {memory.grant(slot).data(), x.rows, cols, slot.floats_per_token};
  }

  /// Working memory of one task of `parallel_for`.
  std::span<float> task_memory(int task) const noexcept {
    return tasks.subspan(static_cast<std::size_t>(task * task_floats),
                         static_cast<std::size_t>(task_floats));
  }

  /// Calls the sequence's hook, which it must have, with vectors of token t of `rows`, the first of
  /// them number `vector`. For sites that hooks have to want.
  void visit(Site site, const SequenceRows& rows, Index t, MatrixView<float> vectors,
             Index vector) const noexcept {
    rows.hook->at({.site = site,
                   .layer = place.layer,
                   .path = place.path,
                   .sequence = rows.item,
                   .position = rows.position + t,
                   .vector = vector,
                   .again = again},
                  vectors);
  }

  /// Calls the hook of every sequence that has one with its rows of `values` [rows, width].
  void visit(Site site, MatrixView<float> values) const noexcept {
    if (has_hooks) call_hooks(site, values);
  }

  /// The same for the row of one token t (0 … rows - 1) in one expert of a mixture.
  void visit(Site site, std::span<float> row, Index t, Index expert) const noexcept {
    if (has_hooks) call_hook(site, row, t, expert);
  }

  /// Copies the tentative rows of `values` [rows, cols] to the trail, for `Block::replay`. Costs
  /// one comparison in a run without tentative rows.
  void record(ScratchSlot slot, MatrixView<const float> values) const noexcept {
    if (trail == nullptr) return;
    for (const SequenceRows& rows : sequences) {
      if (rows.trail < 0) continue;
      const MatrixView<float> kept = trail_rows(slot, rows, values.cols);
      for (Index t = 0; t < rows.count; ++t) {
        std::ranges::copy(values.row(rows.first + t), kept.row_data(t));
      }
    }
  }

  /// In `Block::replay`, which has one sequence: the rows that `record` copied.
  MatrixView<const float> recorded(ScratchSlot slot, Index cols) const noexcept {
    return trail_rows(slot, sequences.front(), cols);
  }

 private:
  MatrixView<float> trail_rows(ScratchSlot slot, const SequenceRows& rows,
                               Index cols) const noexcept {
    return {trail->grant(slot).data() + rows.trail * slot.floats_per_token, rows.count, cols,
            slot.floats_per_token};
  }
  KRAIT_API void call_hooks(Site site, MatrixView<float> values) const noexcept;
  KRAIT_API void call_hook(Site site, std::span<float> row, Index t, Index expert) const noexcept;
};

class Block;
/// The block's forward for each token of a run alone.
KRAIT_API void forward_by_tokens(const Block& block, const BlockContext& ctx) noexcept;

/// A transformation of rows of d_model floats. Immutable once bound; several threads use it.
class KRAIT_API Block {
 public:
  virtual ~Block();

  /// Replaces ctx.x by the block's output and advances the state of every sequence. The result must
  /// not depend on how the tokens of a sequence are cut into runs. Never fails or allocates.
  virtual void forward(BlockContext& ctx) const noexcept = 0;

  /// Advances the state as `forward` did when the same tokens were tentative, to the bit; part of
  /// `Session::keep`. ctx.x has the block's inputs and may be overwritten. A block that recorded
  /// enough (BlockContext::record) needs no matrix product; by default forward runs again. Called
  /// only for blocks that booked state or cache.
  virtual void replay(BlockContext& ctx) const noexcept { forward(ctx); }

  /// Whether forward takes entries beside others as `for_each_part` gives them. If not, and the
  /// block has state or cache, forward gets the tokens of a run with such entries one at a time.
  virtual bool knows_pairs() const noexcept { return false; }

  /// A site that noise may turn (decoding/drugs.hpp), and the width of what is one vector there: a
  /// head's, a group's, or the whole row.
  struct NoiseSite {
    Site site = Site::input;
    Index width = 0;
  };
  virtual std::vector<NoiseSite> noise_sites() const { return {}; }

  /// One line for `Model::describe`: the kind of block and its sizes.
  virtual std::string description() const = 0;
};

}  // namespace v0_1
}  // namespace krait
