#pragma once

/// \file
/// The shared transformer block of Zamba2: attention over the residual stream and the embedding,
/// and a network behind it, whose weights several layers share.
///
/// Paper  Glorioso et al. 2024, "The Zamba2 Suite", arXiv:2411.15242, section 2.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "krait/modules/attention.hpp"
#include "krait/modules/mlp.hpp"
#include "krait/modules/norms.hpp"

namespace krait {
inline namespace v0_1 {

/// Sizes of such a block. Layers that share it have a ResidualSpec::weights_of; what is not shared
/// are their caches, `linear`, and the adapters of attention and network, which have other names in
/// each.
struct SharedTransformerSpec {
  static constexpr bool reads_embedding = true;

  AttentionSpec attention;  ///< of rows [h; e] of 2 d_model floats; d_head is not 0
  RmsNormSpec norm;         ///< between attention and network
  MlpSpec mlp;
  std::string attention_name = "self_attn";
  std::string norm_name = "pre_ff_layernorm";
  std::string mlp_name = "feed_forward";
  std::string linear_name = "linear";  ///< beside the block

  KRAIT_API Result<void> validate(Index d_model) const;
  KRAIT_API std::string to_string(Index d_model) const;
  KRAIT_API Result<std::unique_ptr<const Block>> bind(const WeightScope& weights,
                                                      Bookings& bookings) const;
  /// None: tools that work matrix by matrix leave shared ones as they are.
  std::vector<BlockMatrix> matrices(Index /*d_model*/) const { return {}; }

  friend bool operator==(const SharedTransformerSpec&, const SharedTransformerSpec&) = default;
};

/// linear(mlp(norm(attention(x)))), without residual connections in between.
class SharedTransformer final : public Block {
 public:
  KRAIT_API static Result<std::unique_ptr<const Block>> bind(const SharedTransformerSpec& spec,
                                                             const WeightScope& weights,
                                                             Bookings& bookings);

  void forward(BlockContext& ctx) const noexcept override {
    attention_->forward(ctx);  // [T, 2 d_model] -> [T, d_model]
    norm_.apply(ctx.x, ctx.x);
    mlp_->forward(ctx);
    const auto y = ctx.scratch(output_, ctx.x.cols);
    linear_.apply(ctx, ctx.x, y);
    for (Index t = 0; t < y.rows; ++t) std::ranges::copy(y.row(t), ctx.x.row_data(t));
  }

  void replay(BlockContext& ctx) const noexcept override { attention_->replay(ctx); }
  bool knows_pairs() const noexcept override { return true; }
  std::vector<NoiseSite> noise_sites() const override { return attention_->noise_sites(); }
  std::string description() const override {
    return "SharedTransformer, " + attention_->description() + ", " + mlp_->description();
  }

 private:
  std::unique_ptr<const Block> attention_, mlp_;
  Norm norm_;           // [d_model]
  Linear linear_;       // [d_model, d_model]
  ScratchSlot output_;  // of linear
};

}  // namespace v0_1
}  // namespace krait
