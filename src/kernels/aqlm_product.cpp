#include <algorithm>

#include "krait/kernels/aqlm.hpp"
#include "krait/kernels/matmul.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

// Fewer tokens are sooner multiplied while the weights are decoded.
constexpr Index min_tokens = 7;

// Floats per token to book for a tile of decoded rows of each thread.
constexpr Index rows_per_token = 4;

// Decoded rows that stay in the L2 cache while all tokens meet them.
Index tile_rows(Index cols) noexcept {
  constexpr Index cached_floats = Index{64} << 10;
  return std::clamp(cached_floats / std::max(cols, Index{1}) / 16 * 16, Index{16}, Index{128});
}

// About how long one row takes for so many tokens: to decode it is as much work as 4 products.
ItemCost row_cost(Index bytes, Index cols, Index tokens) noexcept {
  return ItemCost::of(bytes, 2 * cols * (tokens + 4));
}

// Blocks of tables of one token to book. Those of 8 bits have 4 KiB each.
Index booked_blocks(const AqlmTableWeights& W) noexcept {
  return W.scheme.bits == 8 ? std::min(W.blocks(), Index{16}) : W.blocks();
}

// Tables that are made and met by all rows at a time: of 8 bits, as many as stay in the L2 cache.
struct Pass {
  Index tokens;
  Index blocks;

  Pass(const AqlmTableWeights& W, Index all) noexcept : tokens(all), blocks(W.blocks()) {
    if (W.scheme.bits != 8) return;
    constexpr Index most_tokens = 32;
    constexpr Index cached_tables = 128;
    tokens = std::min(all, most_tokens);
    blocks =
        std::min(booked_blocks(W), std::max(Index{1}, cached_tables / std::max(tokens, Index{1})));
  }
};

}  // namespace

void product(const ProductContext& ctx, const AqlmWeights& W, const ProductArgs& args) noexcept {
  const Index tokens = args.x.rows;
  const ItemCost cost = row_cost(W.bytes() / std::max(W.rows, Index{1}), W.cols, tokens);
  const Index per_thread = static_cast<Index>(ctx.workspace.size()) / ctx.executor.width();
  const Index rows = std::min(tile_rows(W.cols), per_thread / std::max(W.cols, Index{1}) / 4 * 4);
  if (tokens < min_tokens || rows == 0) {
    return parallel_for(ctx.executor, W.rows, output_block, cost, [&](Range outputs) {
      matmul_aqlm({.W = W, .x = args.x, .bias = args.bias, .y = args.y, .outputs = outputs});
    });
  }
  parallel_for(ctx.executor, W.rows, output_block, cost, [&](Range outputs, int task) {
    float* tile = ctx.workspace.data() + task * per_thread;
    for (Index row = outputs.begin; row < outputs.end; row += rows) {
      const Index count = std::min(rows, outputs.end - row);
      decode_aqlm(W, {row, row + count}, tile);
      matmul({.W = {tile, DType::f32, count, W.cols},
              .x = args.x,
              .bias = args.bias != nullptr ? args.bias + row : nullptr,
              .y = {args.y.data + row, tokens, count, args.y.stride},
              .outputs = {0, count}});
    }
  });
}

void product(const ProductContext& ctx, const AqlmTableWeights& W,
             const ProductArgs& args) noexcept {
  const Pass pass(W, args.x.rows);
  for (Index token = 0; token < args.x.rows; token += pass.tokens) {
    const Index tokens = std::min(pass.tokens, args.x.rows - token);
    const MatrixView<const float> x(args.x.row_data(token), tokens, W.cols, args.x.stride);
    const MatrixView<float> y(args.y.row_data(token), tokens, W.rows, args.y.stride);
    for (Index block = 0; block < W.blocks(); block += pass.blocks) {
      const AqlmTables tables(ctx.workspace.data(), tokens, W,
                              {block, std::min(block + pass.blocks, W.blocks())});
      const Index items = tokens * tables.blocks.size();
      const ItemCost making = ItemCost::of(0, 2 * tables.block_values * (W.scheme.in_group + 4));
      parallel_for(ctx.executor, items, 1, making,
                   [&](Range range) { make_aqlm_tables(W, x, range, tables); });
      // A look-up is quicker than the products it stands for: eight of them a cycle.
      const Index codes = tables.blocks.size() * AqlmTableWeights::block_codes;
      const Index inputs = codes * W.scheme.in_group / W.scheme.codebooks;
      const ItemCost cost = ItemCost::of(codes * W.scheme.bits / 8, inputs * tokens / 2);
      parallel_for(ctx.executor, W.rows, AqlmTableWeights::block_rows, cost, [&](Range outputs) {
        matmul_aqlm_tables({.W = W, .x = tables, .bias = args.bias, .y = y, .outputs = outputs});
      });
    }
  }
}

Index product_aqlm_workspace(Index in) noexcept { return rows_per_token * in; }

Index product_aqlm_workspace(const AqlmTableWeights& W) noexcept {
  return booked_blocks(W) * AqlmTables::floats_per_block(W);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
