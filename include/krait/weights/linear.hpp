#pragma once

/// \file
/// Linear: y = x Wᵀ + b, whatever form W is stored in.

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "krait/core/plan.hpp"
#include "krait/core/profile.hpp"
#include "krait/kernels/matmul.hpp"
#include "krait/kernels/matmul_bf16.hpp"
#include "krait/kernels/matmul_grouped.hpp"
#include "krait/kernels/matmul_panels.hpp"
#include "krait/kernels/matvec.hpp"
#include "krait/kernels/product.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// Where the outputs of a product may be cut between threads: at cache lines, which is fine enough
/// to split matrices of few rows evenly.
inline constexpr Index output_block = 16;

/// Working memory of a product of many tokens, packed for all threads and with a panel of weights
/// for each.
struct PanelMemory {
  kernels::PanelActivations x;
  std::span<float> panels;  ///< of all threads
  Index per_thread = 0;     ///< floats

  /// Floats per token to book; for more threads than an eighth of the tokens it is too little.
  /// None where panels never pay on the active instruction set.
  static Index floats_per_token(kernels::LaneOrder order, Index in) noexcept {
    constexpr Index many = 1 << 20;
    return kernels::panels_pay(many, DType::f32) ? 3 * kernels::PanelLayout::places(order, in) : 0;
  }

  /// Nothing if panels are not faster here, or if there is too little memory.
  static std::optional<PanelMemory> in(const ProductContext& ctx, kernels::LaneOrder order,
                                       DType weights, MatrixView<const float> x) noexcept {
    if (!kernels::panels_pay(x.rows, weights)) return std::nullopt;
    const Index used =
        round_up(kernels::PanelActivations::floats(order, x.rows, x.cols), Index{16});
    const Index rest = static_cast<Index>(ctx.workspace.size()) - used;
    const Index per_thread = rest / ctx.executor.width() / 16 * 16;
    if (per_thread < kernels::panel_floats(order, x.cols)) return std::nullopt;
    return PanelMemory{{ctx.workspace.data(), x.rows, x.cols, order},
                       ctx.workspace.subspan(static_cast<std::size_t>(used)),
                       per_thread};
  }

  /// Outputs whose weights a thread can keep packed, a multiple of 16.
  Index outputs() const noexcept {
    return std::min(kernels::panel_block(x.order, x.cols),
                    per_thread / kernels::panel_floats(x.order, x.cols) * output_block);
  }

  std::span<float> of(int task) const noexcept {
    return panels.subspan(static_cast<std::size_t>(task * per_thread),
                          static_cast<std::size_t>(per_thread));
  }
};

/// y = x Wᵀ + b from packed operands. Threads share the outputs, or, where a narrow matrix would
/// leave some of them idle, the tokens.
inline void apply_panels(const ProductContext& ctx, const PanelMemory& memory,
                         const kernels::DenseWeights& W, const float* bias,
                         MatrixView<const float> x, MatrixView<float> y) noexcept {
  constexpr Index tile = kernels::PanelActivations::tile;
  const Index width = ctx.executor.width();
  const auto busy = [&](Index n, Index block) {  // share of the threads' time that is work
    const Index blocks = (n + block - 1) / block;
    return static_cast<double>(blocks) / static_cast<double>(round_up(blocks, width));
  };
  const auto multiply = [&](Range tokens, Range outputs, Range next, int task) {
    kernels::matmul_panels({.W = W,
                            .x = memory.x.tokens_from(tokens.begin, tokens.size()),
                            .bias = bias,
                            .y = y.rows_from(tokens.begin, tokens.size()),
                            .outputs = outputs,
                            .next = next,
                            .panels = memory.of(task)});
  };
  if (busy(W.rows, output_block) < 0.9 * busy(x.rows, tile)) {
    parallel_for(ctx.executor, x.rows, tile, [&](Range tokens, int task) {
      kernels::pack_activations(x, tokens, memory.x);
      multiply(tokens, {0, W.rows}, {}, task);
    });
  } else {
    parallel_for(ctx.executor, x.rows, tile,
                 [&](Range tokens) { kernels::pack_activations(x, tokens, memory.x); });
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

/// Extents of one matrix [out, in], or of `count` of them in one tensor [count, out, in].
struct MatrixShape {
  Index out = 0;
  Index in = 0;
  std::optional<Index> count = {};  ///< absent: one matrix, in a tensor of two axes

  Index matrices() const noexcept { return count.value_or(1); }
  /// The tensor's shape, its last two extents replaced by those given.
  Shape tensor(std::initializer_list<Index> extents) const {
    std::vector<Index> all(extents);
    if (count) all.insert(all.begin(), *count);
    return Shape::make(all).value_or(Shape());
  }
};

/// Memory for packing a few tokens; empty if that is not faster here, or if there is too little.
inline std::span<float> tiles_in(const ProductContext& ctx, MatrixView<const float> x) noexcept {
  const auto size = static_cast<std::size_t>(x.rows * round_up(x.cols, Index{16}));
  if (!kernels::tiles_pay(x.rows, x.cols) || ctx.workspace.size() < size) return {};
  return ctx.workspace.first(size);
}

/// About how long one row of W takes for so many tokens.
inline ItemCost row_cost(const kernels::DenseWeights& W, Index tokens) noexcept {
  return ItemCost::of(W.cols * bytes_of(W.dtype), 2 * W.cols * tokens);
}

/// About how long it takes to round one token's activations.
inline ItemCost rounding_cost(Index cols) noexcept { return ItemCost::of(4 * cols, 8 * cols); }

/// A matrix of f32, f16 or bf16, usually in place in the checkpoint's file.
struct DenseLinear {
  kernels::DenseWeights W;      ///< [out, in]
  const float* bias = nullptr;  ///< [out] or null

  static Result<std::vector<DenseLinear>> bind(const WeightScope& weights, Plan& plan,
                                               const MatrixShape& shape);

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index bytes() const noexcept { return W.rows * W.cols * bytes_of(W.dtype); }

  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    if (x.rows == 1) {
      parallel_for(ctx.executor, W.rows, output_block, row_cost(W, 1), [&](Range outputs) {
        kernels::matvec({.W = W, .x = x.data, .bias = bias, .y = y.data, .outputs = outputs});
      });
    } else if (const auto memory = PanelMemory::in(ctx, kernels::LaneOrder::single, W.dtype, x)) {
      apply_panels(ctx, *memory, W, bias, x, y);
    } else if (const std::span<float> tiles = tiles_in(ctx, x); !tiles.empty()) {
      kernels::pack_tiles(x, tiles.data());  // sooner than another thread would begin to help
      parallel_for(ctx.executor, W.rows, output_block, row_cost(W, x.rows), [&](Range outputs) {
        kernels::matmul_tiles(
            {.W = W, .x = x, .bias = bias, .y = y, .outputs = outputs, .tiles = tiles.data()});
      });
    } else {
      parallel_for(ctx.executor, W.rows, output_block, row_cost(W, x.rows), [&](Range outputs) {
        kernels::matmul({.W = W, .x = x, .bias = bias, .y = y, .outputs = outputs});
      });
    }
  }

  void row(Index r, std::span<float> out) const noexcept {
    const auto* data = static_cast<const std::byte*>(W.data) + r * W.cols * bytes_of(W.dtype);
    convert_floats({data, W.dtype, {W.cols}}, DType::f32, out.data());
  }
};

/// A matrix of bf16 multiplied with activations that are rounded to bf16.
struct Bf16Linear {
  kernels::DenseWeights W;      ///< [out, in], of bf16
  const float* bias = nullptr;  ///< [out] or null

  static Result<std::vector<Bf16Linear>> bind(const WeightScope& weights, Plan& plan,
                                              const MatrixShape& shape);

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index bytes() const noexcept { return W.rows * W.cols * bytes_of(W.dtype); }

  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    if (const auto memory = PanelMemory::in(ctx, kernels::LaneOrder::pairs, W.dtype, x)) {
      return apply_panels(ctx, *memory, W, bias, x, y);
    }
    const kernels::Bf16Activations rounded(ctx.workspace.data(), x.cols);
    parallel_for(ctx.executor, x.rows, 16, rounding_cost(x.cols),
                 [&](Range tokens) { kernels::round_activations(x, tokens, rounded); });
    parallel_for(ctx.executor, W.rows, output_block, row_cost(W, x.rows), [&](Range outputs) {
      kernels::matmul_bf16({.W = W, .x = rounded, .bias = bias, .y = y, .outputs = outputs});
    });
  }

  void row(Index r, std::span<float> out) const noexcept { DenseLinear{W, bias}.row(r, out); }
};

/// A matrix of 8 or 4 bits per weight, multiplied with activations of 8 bits.
struct GroupedLinear {
  kernels::GroupedWeights W;    ///< [out, in]
  const float* bias = nullptr;  ///< [out] or null

  static Result<std::vector<GroupedLinear>> bind(const WeightScope& weights, Plan& plan,
                                                 kernels::GroupedForm form,
                                                 const MatrixShape& shape);

  Index out() const noexcept { return W.rows; }
  Index in() const noexcept { return W.cols; }
  Index bytes() const noexcept {
    return W.row_blocks() * W.groups() * (kernels::block_bytes(W.form) + 2 * kernels::row_block);
  }

  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    const kernels::Int8Activations rounded(ctx.workspace.data(), x.rows, x.cols);
    // A few tokens are rounded sooner than another thread would begin to help.
    parallel_for(ctx.executor, x.rows, 16, rounding_cost(x.cols),
                 [&](Range tokens) { kernels::quantize_activations(x, tokens, rounded); });
    // The products of 8 bits take half the time of those of floats.
    const ItemCost cost = ItemCost::of(bytes() / W.rows, W.cols * x.rows);
    parallel_for(ctx.executor, W.rows, output_block, cost, [&](Range outputs) {
      kernels::matmul_grouped({.W = W, .x = rounded, .bias = bias, .y = y, .outputs = outputs});
    });
  }

  void row(Index r, std::span<float> out) const noexcept { kernels::dequantize_row(W, r, out); }
};

/// A linear map as modules see it: they never know the form of the weights. A new form is a new
/// alternative here with `out`, `in`, `bytes`, `apply` and `row`.
class Linear {
 public:
  using Form = std::variant<DenseLinear, Bf16Linear, GroupedLinear>;

  Linear() = default;
  explicit Linear(Form form) : form_(std::move(form)) {}

  /// Binds `weight` [out, in], and `bias` [out] if there is one, in the scope `weights`, in the
  /// form that the user asked for, or that the checkpoint has.
  static Result<Linear> bind(const WeightScope& weights, Plan& plan, Index out, Index in,
                             bool has_bias);

  /// The `count` matrices of one tensor `weight` [count, out, in], such as the experts of a layer.
  static Result<std::vector<Linear>> bind_stack(const WeightScope& weights, Plan& plan, Index count,
                                                Index out, Index in);

  Index out() const noexcept {
    return std::visit([](const auto& form) { return form.out(); }, form_);
  }
  Index in() const noexcept {
    return std::visit([](const auto& form) { return form.in(); }, form_);
  }

  /// y = x Wᵀ + b for every row of x [rows, in]; y [rows, out] must not overlap x.
  void apply(const ProductContext& ctx, MatrixView<const float> x,
             MatrixView<float> y) const noexcept {
    std::visit(
        [&](const auto& form) {
          profile::count(form.bytes(), 2 * form.out() * form.in() * x.rows);
          form.apply(ctx, x, y);
        },
        form_);
  }

  /// Row r of W as floats [in], exactly.
  void row(Index r, std::span<float> out) const noexcept {
    std::visit([&](const auto& form) { form.row(r, out); }, form_);
  }

  /// The same matrix with that bias [out], which must outlive it.
  Linear with_bias(const float* bias) const {
    Linear result = *this;
    std::visit([&](auto& form) { form.bias = bias; }, result.form_);
    return result;
  }

  const Form& form() const noexcept { return form_; }

 private:
  Form form_;
};

}  // namespace v0_1
}  // namespace krait
