#pragma once

/// \file
/// A feed-forward network of two matrices: an expert, or an MLP.

#include <optional>
#include <string_view>
#include <utility>

#include "krait/kernels/elementwise.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// The function between the two matrices.
enum class Activation {
  relu,
  silu,
  relu_squared,  ///< max(x, 0)² (So et al. 2021, arXiv:2109.08668)
  gelu,          ///< x Φ(x)
};

constexpr const char* to_string(Activation activation) noexcept {
  constexpr const char* names[] = {"relu", "silu", "relu-squared", "gelu"};
  return names[static_cast<std::size_t>(activation)];
}

/// y = activation(x); y may be x.
KRAIT_API void activate(Activation activation, std::span<const float> x,
                        std::span<float> y) noexcept;

/// y = down(activation(up(x))), or, with a gate, y = down(activation(g) · u) where up(x) = [g; u]
/// (Shazeer 2020, arXiv:2002.05202; with SiLU: SwiGLU). It takes bound matrices, which may be
/// slices of a stack of experts or tensors of their own; g may have a matrix of its own.
class FeedForward {
 public:
  /// `up` is [d_hidden, d_model], or [2 d_hidden, d_model] with a gate; `down` [d_model, d_hidden].
  FeedForward(Linear up, Linear down, Activation activation)
      : up_(std::move(up)), down_(std::move(down)), activation_(activation) {}

  /// Number of rows of `up`, with those of the gate.
  static constexpr Index up_rows(Index d_hidden, bool is_gated) noexcept {
    return (is_gated ? 2 : 1) * d_hidden;
  }

  /// What `bind` needs: sizes, and the names of the matrices in the scope `weights`.
  struct Parts {
    Index d_hidden = 0;
    Activation activation = Activation::silu;
    bool gated = false;
    bool bias = false;  // of all matrices
    std::string_view up = {};
    std::string_view down = {};
    std::string_view gate = {};  // the gate's own matrix; empty: it is the first rows of `up`
    bool gate_last = false;      // the gate is the last rows of `up`
    float gate_scale = 1.0F;     // multiplies the gate in front of the activation
    Index adapter_rank = 0;      // of the adapter that `up` has of its own; 0: none
    std::string_view adapter = {};
  };
  KRAIT_API static Result<FeedForward> bind(const Parts& parts, const WeightScope& weights,
                                            Bookings& bookings);

  /// The matrices, for a block's spec; `prefix` stands before their names.
  KRAIT_API static std::vector<BlockMatrix> matrices(const Parts& parts,
                                                     const std::string& prefix = {});

  Index d_hidden() const noexcept { return down_.in(); }
  Index d_up() const noexcept { return up_.out() + (gate_ ? gate_->out() : 0); }
  bool is_gated() const noexcept { return d_up() == 2 * d_hidden(); }

  /// From x [rows, d_model] to y [rows, d_model], which must not overlap; hidden [rows, d_up] is
  /// working memory. Calls `visit` with the activations [rows, d_hidden] in front of `down`.
  template <class Visit>
  void apply(const ProductContext& ctx, MatrixView<const float> x, MatrixView<float> hidden,
             MatrixView<float> y, Visit&& visit) const noexcept {
    if (gate_) gate_->apply(ctx, x, hidden.cols_from(0, d_hidden()));
    up_.apply(ctx, x, gate_ ? hidden.cols_from(d_hidden(), d_hidden()) : hidden);
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

  // The first of the halves of `hidden` becomes what `down` reads.
  void activate(std::span<float> hidden, std::span<float> active) const noexcept {
    const std::span<float> second = hidden.subspan(active.size());
    const std::span<float> g = gate_last_ ? second : active;
    if (gate_scale_ != 1.0F) kernels::scale(gate_scale_, g, g);
    krait::activate(activation_, g, g);
    if (is_gated()) kernels::mul(active, second, active);
  }

  Linear up_;
  Linear down_;
  std::optional<Linear> gate_;
  Activation activation_;
  bool gate_last_ = false;
  float gate_scale_ = 1.0F;
};

}  // namespace v0_1
}  // namespace krait
