#pragma once

/// \file
/// The pre-norm wrapper: h = h + scale block(norm(h)).
///
/// A block that reads the embedding e of the token gets norm([h; e]). One that is aside leaves h as
/// it is: the block after it reads h + scale block(norm(h)) instead (Zamba2).

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "krait/core/profile.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/norms.hpp"

namespace krait {
inline namespace v0_1 {

/// A norm, a block, and the addition to the residual stream, which is f32.
class Residual {
 public:
  /// What the block reads: the residual stream as the block before it left it, or what that block
  /// read. The first of such parallel blocks saves it.
  enum class Source { stream, first_of_parallel, saved };

  /// Slots in scratch and trail, [rows, d_model] each; branch and trail are twice as wide for a
  /// block that reads the embedding.
  struct Slots {
    ScratchSlot branch;     // the block's input and output
    ScratchSlot saved;      // what parallel blocks read, or the block after one that is aside
    ScratchSlot trail;      // for the block's input; of no size if the block has no state
    ScratchSlot embedding;  // of no size if the block does not read it
  };

  /// `scale` multiplies the block's output.
  Residual(Norm norm, std::unique_ptr<const Block> block, float scale, Source source, bool aside,
           Slots slots, Index layer, std::string path)
      : norm_(std::move(norm)),
        block_(std::move(block)),
        scale_(scale),
        source_(source),
        aside_(aside),
        slots_(slots),
        layer_(layer),
        path_(std::move(path)) {}

  /// h [rows, d_model] in and out.
  void forward(BlockContext& ctx) const noexcept {
    const MatrixView<float> h = ctx.x;
    const bool is_wide = reads_embedding();
    ctx.x = ctx.scratch(slots_.branch, is_wide ? 2 * h.cols : h.cols);
    const MatrixView<float> source =
        source_ == Source::stream ? h : ctx.scratch(slots_.saved, h.cols);
    const ItemCost cost = ItemCost::of(0, 8 * h.cols);  // of a row's norm or sum
    profile::Zone zone("norm");
    parallel_for(ctx.executor, h.rows, row_block, cost, [&](Range rows) {
      for (Index t = rows.begin; source_ == Source::first_of_parallel && t < rows.end; ++t) {
        std::ranges::copy(h.row(t), source.row_data(t));
      }
      const MatrixView<float> x = ctx.x.rows_from(rows.begin, rows.size());
      for (Index t = rows.begin; is_wide && t < rows.end; ++t) {
        std::ranges::copy(source.row(t), ctx.x.row_data(t));
        std::ranges::copy(ctx.scratch(slots_.embedding, h.cols).row(t), ctx.x.row_data(t) + h.cols);
      }
      norm_.apply(is_wide ? x : source.rows_from(rows.begin, rows.size()), x);
    });
    zone.next("block");
    ctx.place = {layer_, path_};
    ctx.visit(Site::input, ctx.x);
    if (has_state()) ctx.record(slots_.trail, ctx.x);
    if (ctx.has_pairs && has_state() && !block_->knows_pairs()) [[unlikely]] {
      forward_by_tokens(*block_, ctx);
    } else {
      block_->forward(ctx);
    }
    ctx.visit(Site::output, ctx.x);
    zone.next("residual");
    const MatrixView<float> target = aside_ ? ctx.scratch(slots_.saved, h.cols) : h;
    parallel_for(ctx.executor, h.rows, row_block, cost, [&](Range rows) {
      for (Index t = rows.begin; t < rows.end; ++t) {
        if (aside_) std::ranges::copy(h.row(t), target.row_data(t));
        scale_ == 1.0F ? kernels::add(target.row(t), ctx.x.row(t), target.row(t))
                       : kernels::add_scaled(scale_, ctx.x.row(t), target.row(t));
      }
    });
    ctx.x = h;
  }

  /// Advances the block's state by recorded tokens, as many as ctx.x [rows, d_model] has rows.
  void replay(BlockContext& ctx) const noexcept {
    if (!has_state()) return;
    const MatrixView<float> h = ctx.x;
    const Index width = reads_embedding() ? 2 * h.cols : h.cols;
    const MatrixView<const float> input = ctx.recorded(slots_.trail, width);
    ctx.x = ctx.scratch(slots_.branch, width);
    for (Index t = 0; t < h.rows; ++t) std::ranges::copy(input.row(t), ctx.x.row_data(t));
    ctx.place = {layer_, path_};
    // The trail does not have what a hook changed: the block runs again, with the hook.
    ctx.has_hooks ? block_->forward(ctx) : block_->replay(ctx);
    ctx.x = h;
  }

  /// What a block that is aside has left for the one after it, [rows, cols].
  MatrixView<const float> left_aside(const BlockContext& ctx, Index cols) const noexcept {
    return ctx.scratch(slots_.saved, cols);
  }

  const Norm& norm() const noexcept { return norm_; }
  const Block& block() const noexcept { return *block_; }
  bool reads_embedding() const noexcept { return slots_.embedding.floats_per_token > 0; }

 private:
  static constexpr Index row_block = 16;  // threads share the rows in such blocks

  bool has_state() const noexcept { return slots_.trail.floats_per_token > 0; }

  Norm norm_;
  std::unique_ptr<const Block> block_;
  float scale_;
  Source source_;
  bool aside_;  // whether the output goes to `saved` instead of the stream
  Slots slots_;
  Index layer_;
  std::string path_;  // of the block: "layers.3.mixer"
};

}  // namespace v0_1
}  // namespace krait
