#pragma once

/// \file
/// The MLP block: a feed-forward network for every token.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "krait/modules/block.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/feed_forward.hpp"

namespace krait {
inline namespace v0_1 {

/// Sizes of an MLP block, and the names of its matrices.
struct MlpSpec {
  Index d_hidden = 0;  ///< 0: 4 · d_model
  Activation activation = Activation::silu;
  bool gated = true;  ///< `up` has 2 · d_hidden rows, those of the gate first
  bool bias = false;  ///< all matrices have biases
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string gate = {};    ///< the gate's own matrix; empty: it is in `up`
  bool gate_last = false;   ///< the gate is the last rows of `up`
  float gate_scale = 1.0F;  ///< multiplies the gate in front of the activation
  /// `up` is W x + B A x, A [rank, d_model], with tensors `0.weight`, A, and `1.weight`, B, of its
  /// own below `adapter`; 0: W x.
  Index adapter_rank = 0;
  std::string adapter = {};

  MlpSpec resolved(Index d_model) const {
    MlpSpec spec = *this;
    if (spec.d_hidden == 0) spec.d_hidden = 4 * d_model;
    return spec;
  }

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  KRAIT_API Result<std::unique_ptr<const Block>> bind(const WeightScope& weights,
                                                      Bookings& bookings) const;
  KRAIT_API std::vector<BlockMatrix> matrices(Index d_model) const;

  friend bool operator==(const MlpSpec&, const MlpSpec&) = default;
};

/// An MLP on rows of d_model floats. It has no state.
class Mlp final : public Block {
 public:
  Mlp(FeedForward network, Bookings& bookings)
      : network_(std::move(network)),
        hidden_(bookings.scratch(network_.d_up())),
        output_(bookings.scratch(bookings.d_model())) {}

  void forward(BlockContext& ctx) const noexcept override {
    const auto y = ctx.scratch(output_, ctx.x.cols);
    network_.apply(ctx, ctx.x, ctx.scratch(hidden_, network_.d_up()), y,
                   [&](MatrixView<float> hidden) { ctx.visit(Site::hidden, hidden); });
    for (Index t = 0; t < y.rows; ++t) std::ranges::copy(y.row(t), ctx.x.row_data(t));
  }

  std::string description() const override {
    return "Mlp, d_hidden " + std::to_string(network_.d_hidden());
  }

 private:
  FeedForward network_;
  ScratchSlot hidden_, output_;
};

}  // namespace v0_1
}  // namespace krait
