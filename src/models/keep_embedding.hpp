#pragma once

#include <algorithm>

#include "krait/models/model.hpp"

namespace krait {
inline namespace v0_1 {

/// Copies ctx.x, the embedding of a run's tokens, to where the blocks that read it find it.
inline void keep_embedding(const Model::Parts& parts, const BlockContext& ctx) noexcept {
  if (parts.embedding_rows.floats_per_token == 0) return;
  const MatrixView<float> kept = ctx.scratch(parts.embedding_rows, ctx.x.cols);
  for (Index t = 0; t < ctx.x.rows; ++t) std::ranges::copy(ctx.x.row(t), kept.row_data(t));
}

}  // namespace v0_1
}  // namespace krait
