#pragma once

/// \file
/// A feed-forward network of two matrices: an expert, or an MLP.

#include <string_view>
#include <utility>

#include "krait/kernels/elementwise.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// The function between the two matrices.
enum class Activation { relu, silu };

constexpr const char* to_string(Activation activation) noexcept {
  return activation == Activation::relu ? "relu" : "silu";
}

/// y = down(activation(up(x))), or, with a gate, y = down(activation(g) · u) where up(x) = [g; u]
/// (Shazeer 2020, arXiv:2002.05202; with SiLU: SwiGLU). It takes bound matrices, which may be
/// slices of a stack of experts or tensors of their own.
class FeedForward {
 public:
  /// `up` is [d_hidden, d_model], or [2 d_hidden, d_model] with a gate; `down` [d_model, d_hidden].
  FeedForward(Linear up, Linear down, Activation activation)
      : up_(std::move(up)), down_(std::move(down)), activation_(activation) {}

  /// Number of rows of `up`.
  static constexpr Index up_rows(Index d_hidden, bool is_gated) noexcept {
    return (is_gated ? 2 : 1) * d_hidden;
  }

  /// The two matrices, for a block's spec.
  KRAIT_API static std::vector<BlockMatrix> matrices(const std::string& up, const std::string& down,
                                                     Index d_hidden, bool gated);

  /// What `bind` needs: sizes, and the names of the two matrices in the scope `weights`.
  struct Parts {
    Index d_hidden;
    Activation activation;
    bool gated;
    bool bias;  // of both matrices
    std::string_view up;
    std::string_view down;
  };
  KRAIT_API static Result<FeedForward> bind(const Parts& parts, const WeightScope& weights,
                                            Bookings& bookings);

  Index d_hidden() const noexcept { return down_.in(); }
  Index d_up() const noexcept { return up_.out(); }
  bool is_gated() const noexcept { return d_up() == 2 * d_hidden(); }

  /// From x [rows, d_model] to y [rows, d_model], which must not overlap; hidden [rows, d_up] is
  /// working memory. Calls `visit` with the activations [rows, d_hidden] in front of `down`.
  template <class Visit>
  void apply(const ProductContext& ctx, MatrixView<const float> x, MatrixView<float> hidden,
             MatrixView<float> y, Visit&& visit) const noexcept {
    up_.apply(ctx, x, hidden);
    const MatrixView<float> active = hidden.cols_from(0, d_hidden());
    const Index flop = d_hidden() * (activation_ == Activation::relu ? 2 : 30);
    parallel_for(ctx.executor, x.rows, row_block, ItemCost::of(0, flop), [&](Range rows) {
      for (Index t = rows.begin; t < rows.end; ++t) activate(hidden.row(t), active.row(t));
    });
    visit(active);
    down_.apply(ctx, active, y);
  }

 private:
  static constexpr Index row_block = 8;  // threads share the rows in such blocks

  void activate(std::span<const float> hidden, std::span<float> active) const noexcept {
    const std::span<const float> g = hidden.first(active.size());
    activation_ == Activation::relu ? kernels::relu(g, active) : kernels::silu(g, active);
    if (is_gated()) kernels::mul(active, hidden.subspan(active.size()), active);
  }

  Linear up_;
  Linear down_;
  Activation activation_;
};

}  // namespace v0_1
}  // namespace krait
