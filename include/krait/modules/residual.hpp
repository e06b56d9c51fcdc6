#pragma once

/// \file
/// The pre-norm wrapper: h = h + block(norm(h)).

#include <memory>
#include <string>
#include <utility>

#include "krait/core/profile.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/norms.hpp"

namespace krait::inline v0_1 {

/// Norm, block, and the addition to the residual stream, which stays in f32.
class Residual {
 public:
  Residual(Norm norm, std::unique_ptr<const Block> block, ScratchSlot branch)
      : norm_(std::move(norm)), block_(std::move(block)), branch_(branch) {}

  /// h [rows, d_model] in and out.
  void forward(BlockContext& ctx) const noexcept {
    const MatrixView<float> h = ctx.x;
    ctx.x = ctx.scratch(branch_, h.cols);
    profile::Zone zone("norm");
    norm_.apply(h, ctx.x);
    zone.next("block");
    block_->forward(ctx);
    zone.next("residual");
    for (Index t = 0; t < h.rows; ++t) kernels::add(h.row(t), ctx.x.row(t), h.row(t));
    ctx.x = h;
  }

  const Norm& norm() const noexcept { return norm_; }
  const Block& block() const noexcept { return *block_; }

 private:
  Norm norm_;
  std::unique_ptr<const Block> block_;
  ScratchSlot branch_;  // [rows, d_model]
};

}  // namespace krait::inline v0_1
