#pragma once

// What backward passes take from a Workspace, counted call by call before they run.

#include <algorithm>

#include "krait/training/block_gradient.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// Gives out nothing, but counts like a Workspace. Functions have the names of those that they
// follow, and take what those take.
class Room {
 public:
  explicit Room(const BackwardSize& size) : size_(size) {}

  Index tokens() const noexcept { return size_.tokens; }
  Index threads() const noexcept { return size_.threads; }
  // Floats that are given out.
  Index now() const noexcept { return now_; }
  // Most of them at a time.
  Index most() const noexcept { return most_; }

  void floats(Index count) {
    now_ += round_up(count, Index{16});
    most_ = std::max(most_, now_);
  }
  void matrix(Index rows, Index cols) { floats(rows * cols); }
  // So many for a while.
  void peak(Index count) { most_ = std::max(most_, now_ + count); }

  // Takes back at its end what was given out during its life.
  class Frame {
   public:
    explicit Frame(Room& room) : room_(&room), now_(room.now_) {}
    ~Frame() { room_->now_ = now_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Room* room_;
    Index now_;
  };

  // Products of matrices [out, in] with `rows` rows; those of the model, unless `is_small`, stay as
  // they are where adapters are in training.
  void multiply(Index in, Index rows);
  void multiply_transposed(Index rows, Index cols, Index x_rows);
  void linear(Index out, Index in, Index rows, bool is_small = false);
  struct Wanted {
    bool inputs = true;
    bool weights = true;
  };
  void linear_backward(Index out, Index in, Index rows, Wanted wanted, bool is_small = false);
  // The same of a matrix with an adapter of the block's own, of rank 0 without one.
  void adapted_linear(Index out, Index in, Index rank, Index rows);
  void adapted_linear_backward(Index out, Index in, Index rank, Index rows);
  void norm_backward(Index rows, Index cols, bool has_weights = true);
  void conv_forward(Index channels, Index d_conv);
  void conv_backward(Index channels, Index d_conv);
  struct FeedForwardSize {
    Index d_model = 0;
    Index d_hidden = 0;
    bool gated = false;
    bool own_gate = false;   // the gate has a matrix of its own
    bool has_gates = false;  // the rows have gates of a router
    Index adapter_rank = 0;  // of the adapter that `up` has of its own
  };
  void feed_forward(const FeedForwardSize& size, Index rows);
  void feed_forward_backward(const FeedForwardSize& size, Index rows);

 private:
  void add_products(Index a_cols, Index b_cols, Index rows);
  void adapter_backward(Index out, Index in, Index rank, Index rows, Wanted wanted);
  bool is_frozen() const noexcept { return size_.rank > 0; }

  BackwardSize size_;
  Index now_ = 0;
  Index most_ = 0;
};

}  // namespace training
}  // namespace v0_1
}  // namespace krait
