#pragma once

/// \file
/// Working memory of a run: booked when a model is built, allocated with a session.

#include <algorithm>
#include <span>

#include "krait/core/aligned_buffer.hpp"

namespace krait {
inline namespace v0_1 {

/// A booking of `floats_per_token` floats for each token of a run.
struct ScratchSlot {
  Index offset = 0;            ///< floats per token before this slot
  Index floats_per_token = 0;  ///< a multiple of 16, so that every row starts on a cache line
};

/// Where each booking lies in the working memory. Blocks run one after another and use the same
/// memory: `mark` before a block's bookings and `release_to` after them let the slots of the next
/// block overlap.
class ScratchLayout {
 public:
  ScratchSlot book(Index floats_per_token) noexcept {
    const ScratchSlot slot{used_, round_up(floats_per_token, 16)};
    used_ += slot.floats_per_token;
    peak_ = std::max(peak_, used_);
    return slot;
  }

  Index mark() const noexcept { return used_; }
  void release_to(Index mark) noexcept { used_ = mark; }

  /// Floats per token that all slots together need.
  Index floats_per_token() const noexcept { return peak_; }

 private:
  Index used_ = 0;
  Index peak_ = 0;
};

/// The memory behind a ScratchLayout, for runs of up to `max_tokens` tokens.
class Scratch {
 public:
  Scratch() noexcept = default;
  Scratch(const ScratchLayout& layout, Index max_tokens)
      : block_(layout.floats_per_token() * max_tokens), max_tokens_(max_tokens) {}

  /// The slot's memory: floats_per_token · max_tokens floats, aligned.
  std::span<float> grant(ScratchSlot slot) noexcept {
    return {block_.data() + slot.offset * max_tokens_,
            static_cast<std::size_t>(slot.floats_per_token * max_tokens_)};
  }

  Index max_tokens() const noexcept { return max_tokens_; }
  std::size_t bytes() const noexcept { return block_.bytes(); }

 private:
  AlignedBuffer<float> block_;
  Index max_tokens_ = 0;
};

}  // namespace v0_1
}  // namespace krait
