#pragma once

/// \file
/// Workspace: working memory of backward passes, given out and taken back as on a stack.

#include <span>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// Memory that grows to the largest need and is then reused. What it gives out is not cleared.
/// Throws std::bad_alloc.
class Workspace {
 public:
  std::span<float> floats(Index count) {
    const Index size = round_up(count, 16);
    while (block_ < blocks_.size() && used_ + size > blocks_[block_].size()) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      blocks_.emplace_back(std::max(size, least_block));
      used_ = 0;
    }
    const std::span<float> given{blocks_[block_].data() + used_, static_cast<std::size_t>(count)};
    used_ += size;
    out_ += size;
    most_ = std::max(most_, out_);
    return given;
  }

  /// Makes room for `count` floats in one piece. Nothing may be given out.
  void reserve(Index count) {
    if (count == 0 || (!blocks_.empty() && blocks_.front().size() >= count)) return;
    blocks_.clear();
    blocks_.emplace_back(count);
    block_ = 0;
    used_ = 0;
  }
  /// Most floats that were given out at a time.
  Index most() const noexcept { return most_; }

  /// A matrix whose rows follow one another.
  MatrixView<float> matrix(Index rows, Index cols) {
    return {floats(rows * cols).data(), rows, cols};
  }

  /// Bytes that are held.
  std::size_t bytes() const noexcept {
    std::size_t sum = 0;
    for (const AlignedBuffer<float>& block : blocks_) sum += block.bytes();
    return sum;
  }

  /// Takes back at its end what was given out during its life.
  class Frame {
   public:
    explicit Frame(Workspace& workspace)
        : workspace_(&workspace),
          block_(workspace.block_),
          used_(workspace.used_),
          out_(workspace.out_) {}
    ~Frame() {
      workspace_->block_ = block_;
      workspace_->used_ = used_;
      workspace_->out_ = out_;
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Workspace* workspace_;
    std::size_t block_;
    Index used_;
    Index out_;
  };

 private:
  static constexpr Index least_block = Index{1} << 18;

  std::vector<AlignedBuffer<float>> blocks_;
  std::size_t block_ = 0;  // the one that is being given out
  Index used_ = 0;         // floats of it
  Index out_ = 0;
  Index most_ = 0;
};

/// What a backward pass works with.
struct Work {
  Executor& executor;
  Workspace& memory;
};

}  // namespace v0_1
}  // namespace krait
