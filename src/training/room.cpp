#include "training/room.hpp"

#include "krait/kernels/product.hpp"
#include "krait/modules/feed_forward.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

void Room::multiply(Index in, Index rows) {
  if (rows == 0) return;
  const Frame frame(*this);
  floats(std::max(kernels::product_workspace(in), round_up(in, Index{16})) * rows);
}

void Room::linear(Index /*out*/, Index in, Index rows, bool is_small) {
  if (is_small || !is_frozen()) return multiply(in, rows);
  const Frame frame(*this);
  floats(size_.workspace * rows);
}

void Room::multiply_transposed(Index rows, Index cols, Index x_rows) {
  const Frame frame(*this);
  matrix(cols, rows);
  multiply(rows, x_rows);
}

void Room::add_products(Index a_cols, Index b_cols, Index rows) {
  const Frame frame(*this);
  matrix(b_cols, rows);
  matrix(a_cols, rows);
  matrix(a_cols, b_cols);
  multiply(rows, a_cols);
}

void Room::adapter_backward(Index out, Index in, Index rank, Index rows, Wanted wanted) {
  const Frame frame(*this);
  matrix(rows, rank);
  multiply_transposed(out, rank, rows);
  if (wanted.inputs) {
    matrix(rows, in);
    multiply_transposed(rank, in, rows);
  }
  if (!wanted.weights) return;
  add_products(rank, in, rows);
  matrix(rows, rank);
  multiply(in, rows);
  add_products(out, rank, rows);
}

void Room::linear_backward(Index out, Index in, Index rows, Wanted wanted, bool is_small) {
  if (rows == 0) return;
  const bool is_frozen = !is_small && this->is_frozen();
  if (wanted.inputs) {
    const Frame frame(*this);
    if (is_frozen) matrix(out, in);
    multiply_transposed(out, in, rows);
  }
  if (is_frozen) return adapter_backward(out, in, size_.rank, rows, wanted);
  if (wanted.weights && !this->is_frozen()) add_products(out, in, rows);
}

void Room::adapted_linear(Index out, Index in, Index rank, Index rows) {
  linear(out, in, rows);
  if (rank == 0 || rows == 0) return;
  const Frame frame(*this);
  matrix(rows, rank);
  matrix(rows, out);
  multiply(in, rows);
  multiply(rank, rows);
}

void Room::adapted_linear_backward(Index out, Index in, Index rank, Index rows) {
  if (rank == 0) return linear_backward(out, in, rows, {});
  if (rows == 0) return;
  {
    const Frame frame(*this);
    if (is_frozen()) matrix(out, in);
    multiply_transposed(out, in, rows);
  }
  adapter_backward(out, in, rank, rows, {.weights = !is_frozen()});
  if (is_frozen()) return adapter_backward(out, in, size_.rank, rows, {});
  add_products(out, in, rows);
}

void Room::norm_backward(Index rows, Index cols, bool has_weights) {
  const Frame frame(*this);
  matrix(rows, cols);
  matrix(rows, cols);
  if (has_weights && !is_frozen()) matrix(rows, cols);
  floats(cols);
}

void Room::conv_forward(Index channels, Index d_conv) {
  const Frame frame(*this);
  floats(channels * d_conv);
  floats(channels * (d_conv - 1));
}

void Room::conv_backward(Index channels, Index d_conv) {
  const Frame frame(*this);
  floats(channels * d_conv);
  matrix(tokens(), channels);
  matrix(d_conv - 1, channels);
}

void Room::feed_forward(const FeedForwardSize& size, Index rows) {
  const Frame frame(*this);
  const Index d_up = FeedForward::up_rows(size.d_hidden, size.gated);
  const Index split = size.own_gate ? size.d_hidden : 0;
  matrix(rows, d_up);
  matrix(rows, size.d_hidden);
  adapted_linear(d_up - split, size.d_model, size.adapter_rank, rows);
  linear(size.d_model, size.d_hidden, rows);
}

void Room::feed_forward_backward(const FeedForwardSize& size, Index rows) {
  const Frame frame(*this);
  const Index d_model = size.d_model;
  const Index d_hidden = size.d_hidden;
  const Index d_up = FeedForward::up_rows(d_hidden, size.gated);
  const Index split = size.own_gate ? d_hidden : 0;
  matrix(rows, d_up);
  matrix(rows, d_hidden);
  matrix(rows, d_hidden);
  matrix(rows, d_up);
  adapted_linear(d_up - split, d_model, size.adapter_rank, rows);
  linear_backward(d_model, d_hidden, rows, {.weights = false});
  if (size.has_gates) matrix(rows, d_model);
  linear_backward(d_model, d_hidden, rows, {.inputs = false});
  adapted_linear_backward(d_up - split, d_model, size.adapter_rank, rows);
  if (!size.own_gate) return;
  matrix(rows, d_model);
  linear_backward(split, d_model, rows, {});
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
