#include "krait/kernels/product.hpp"

#include <algorithm>
#include <optional>

#include "krait/kernels/matmul.hpp"
#include "krait/kernels/matmul_bf16.hpp"
#include "krait/kernels/matmul_grouped.hpp"
#include "krait/kernels/matmul_panels.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

// Working memory of a product of many tokens, packed for all threads and with a panel of weights
// for each.
struct PanelMemory {
  PanelActivations x;
  std::span<float> panels;  // of all threads
  Index per_thread = 0;     // floats

  // Floats per token to book; for more threads than an eighth of the tokens it is too little.
  // None where panels never pay on the active instruction set.
  static Index floats_per_token(LaneOrder order, Index in) noexcept {
    constexpr Index many = 1 << 20;
    return panels_pay(many, DType::f32) ? 3 * PanelLayout::places(order, in) : 0;
  }

  // Nothing if panels are not faster here, or if there is too little memory.
  static std::optional<PanelMemory> in(const ProductContext& ctx, LaneOrder order, DType weights,
                                       MatrixView<const float> x) noexcept {
    if (!panels_pay(x.rows, weights)) return std::nullopt;
    const Index used = round_up(PanelActivations::floats(order, x.rows, x.cols), Index{16});
    const Index rest = static_cast<Index>(ctx.workspace.size()) - used;
    const Index per_thread = rest / ctx.executor.width() / 16 * 16;
    if (per_thread < panel_floats(order, x.cols)) return std::nullopt;
    return PanelMemory{{ctx.workspace.data(), x.rows, x.cols, order},
                       ctx.workspace.subspan(static_cast<std::size_t>(used)),
                       per_thread};
  }

  // Outputs whose weights a thread can keep packed, a multiple of 16.
  Index outputs() const noexcept {
    return std::min(panel_block(x.order, x.cols),
                    per_thread / panel_floats(x.order, x.cols) * output_block);
  }

  std::span<float> of(int task) const noexcept {
    return panels.subspan(static_cast<std::size_t>(task * per_thread),
                          static_cast<std::size_t>(per_thread));
  }
};

// From packed operands. Threads share the outputs, or, where a narrow matrix would leave some of
// them idle, the tokens.
void product_of_panels(const ProductContext& ctx, const PanelMemory& memory, const DenseWeights& W,
                       const ProductArgs& args) noexcept {
  const MatrixView<const float>& x = args.x;
  const MatrixView<float>& y = args.y;
  const float* bias = args.bias;
  constexpr Index panel_tokens = PanelActivations::panel_tokens;
  const Index width = ctx.executor.width();
  const auto busy = [&](Index n, Index block) {  // share of the threads' time that is work
    const Index blocks = (n + block - 1) / block;
    return static_cast<double>(blocks) / static_cast<double>(round_up(blocks, width));
  };
  const auto multiply = [&](Range tokens, Range outputs, Range next, int task) {
    matmul_panels({.W = W,
                   .x = memory.x.tokens_from(tokens.begin, tokens.size()),
                   .bias = bias,
                   .y = y.rows_from(tokens.begin, tokens.size()),
                   .outputs = outputs,
                   .next = next,
                   .panels = memory.of(task)});
  };
  if (busy(W.rows, output_block) < 0.9 * busy(x.rows, panel_tokens)) {
    parallel_for(ctx.executor, x.rows, panel_tokens, [&](Range tokens, int task) {
      pack_activations(x, tokens, memory.x);
      multiply(tokens, {0, W.rows}, {}, task);
    });
  } else {
    parallel_for(ctx.executor, x.rows, panel_tokens,
                 [&](Range tokens) { pack_activations(x, tokens, memory.x); });
    // Blocks as large as the memory allows, but enough of them to even out the threads' speeds.
    const Index most = std::min(memory.outputs(), W.rows / (4 * width));
    const Index block = std::max(most / output_block * output_block, output_block);
    parallel_for_blocks(ctx.executor, W.rows, block, [&](Range outputs, int task) {
      // The others have probably taken the blocks in between.
      const Index next = std::min(W.rows, outputs.begin + width * block);
      multiply({0, x.rows}, outputs, {next, std::min(W.rows, next + block)}, task);
    });
  }
}

// Memory for packing a few tokens; empty if that is not faster here, or if there is too little.
std::span<float> packing_memory(const ProductContext& ctx, MatrixView<const float> x) noexcept {
  const auto size = static_cast<std::size_t>(x.rows * round_up(x.cols, Index{16}));
  if (!packing_pays(x.rows, x.cols) || ctx.workspace.size() < size) return {};
  return ctx.workspace.first(size);
}

// About how long one row of W takes for so many tokens.
ItemCost row_cost(const DenseWeights& W, Index tokens) noexcept {
  return ItemCost::of(W.cols * bytes_of(W.dtype), 2 * W.cols * tokens);
}

// About how long it takes to round one token's activations.
ItemCost rounding_cost(Index cols) noexcept { return ItemCost::of(4 * cols, 8 * cols); }

// A few tokens are rounded sooner than another thread would begin to help.
constexpr Index rounding_block = 16;

// More than one token.
void product_of_many(const ProductContext& ctx, const DenseWeights& W,
                     const ProductArgs& args) noexcept {
  const MatrixView<const float>& x = args.x;
  const MatrixView<float>& y = args.y;
  const float* bias = args.bias;
  if (const auto memory = PanelMemory::in(ctx, LaneOrder::single, W.dtype, x)) {
    product_of_panels(ctx, *memory, W, args);
  } else if (const std::span<float> packed = packing_memory(ctx, x); !packed.empty()) {
    pack_tokens(x, packed.data());  // sooner than another thread would begin to help
    parallel_for(ctx.executor, W.rows, output_block, row_cost(W, x.rows), [&](Range outputs) {
      matmul_packed(
          {.W = W, .x = x, .bias = bias, .y = y, .outputs = outputs, .packed = packed.data()});
    });
  } else {
    parallel_for(ctx.executor, W.rows, output_block, row_cost(W, x.rows), [&](Range outputs) {
      matmul({.W = W, .x = x, .bias = bias, .y = y, .outputs = outputs});
    });
  }
}

}  // namespace

void product(const ProductContext& ctx, const DenseWeights& W, const ProductArgs& args) noexcept {
  if (args.x.rows != 1) return product_of_many(ctx, W, args);
  parallel_for(ctx.executor, W.rows, output_block, row_cost(W, 1), [&](Range outputs) {
    matvec({.W = W, .x = args.x.data, .bias = args.bias, .y = args.y.data, .outputs = outputs});
  });
}

void product_bf16(const ProductContext& ctx, const DenseWeights& W,
                  const ProductArgs& args) noexcept {
  const MatrixView<const float>& x = args.x;
  const MatrixView<float>& y = args.y;
  const float* bias = args.bias;
  if (const auto memory = PanelMemory::in(ctx, LaneOrder::pairs, W.dtype, x)) {
    return product_of_panels(ctx, *memory, W, args);
  }
  const Bf16Activations rounded(ctx.workspace.data(), x.cols);
  parallel_for(ctx.executor, x.rows, rounding_block, rounding_cost(x.cols),
               [&](Range tokens) { round_activations(x, tokens, rounded); });
  parallel_for(ctx.executor, W.rows, output_block, row_cost(W, x.rows), [&](Range outputs) {
    matmul_bf16({.W = W, .x = rounded, .bias = bias, .y = y, .outputs = outputs});
  });
}

void product(const ProductContext& ctx, const GroupedWeights& W, const ProductArgs& args) noexcept {
  const MatrixView<const float>& x = args.x;
  const MatrixView<float>& y = args.y;
  const float* bias = args.bias;
  const Int8Activations rounded(ctx.workspace.data(), x.rows, x.cols);
  parallel_for(ctx.executor, x.rows, rounding_block, rounding_cost(x.cols),
               [&](Range tokens) { quantize_activations(x, tokens, rounded); });
  // The products of 8 bits take half the time of those of floats.
  const ItemCost cost = ItemCost::of(W.bytes() / W.rows, W.cols * x.rows);
  parallel_for(ctx.executor, W.rows, output_block, cost, [&](Range outputs) {
    matmul_grouped({.W = W, .x = rounded, .bias = bias, .y = y, .outputs = outputs});
  });
}

Index product_workspace(Index in) noexcept {
  return PanelMemory::floats_per_token(LaneOrder::single, in);
}

Index product_bf16_workspace(Index in) noexcept {
  return std::max({Bf16Activations::floats_per_token(in), product_workspace(in),
                   PanelMemory::floats_per_token(LaneOrder::pairs, in)});
}

Index product_grouped_workspace(Index in) noexcept { return Int8Activations::floats_per_token(in); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
