#pragma once

/// \file
/// Y = X Wᵀ for many tokens, from packed operands: faster than `matmul` and `matmul_bf16`, with
/// their bits.
///
/// `matmul` keeps the 16 lanes of an output in registers and adds them up at the end. Here a
/// register holds the same lane of neighbouring outputs, lane after lane, so that the contract's
/// tree adds whole registers. This needs both operands packed in panels: X once for all threads, W
/// a few rows at a time.

#include <algorithm>
#include <array>
#include <span>

#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/matvec.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Which elements of a row belong to which lane, and in which order.
enum class LaneOrder : std::uint8_t {
  single,  ///< element k is lane k mod 16's, ascending (numeric contract, section 2)
  pairs,   ///< elements 2j and 2j + 1 are lane j mod 16's, the odd one first (section 4)
};

/// Where the elements of a packed row lie: lane after lane, each in the order of its chain of fma,
/// followed by one unused place. Packing writes to all lanes in turn; without that place the lanes
/// of a row of 2^n elements would compete for a few sets of the cache.
class PanelLayout {
 public:
  /// The lanes in the order in which the tree s[i] = acc[i] + acc[i+8], + 4, + 2, + 1 can add them
  /// with the fewest sums waiting.
  static constexpr std::array<Index, 16> tree_order = {0, 8, 4, 12, 2, 10, 6, 14,
                                                       1, 9, 5, 13, 3, 11, 7, 15};

  PanelLayout(LaneOrder order, Index cols) noexcept : order_(order), length_(length(order, cols)) {
    Index used = 0;
    for (std::size_t i = 0; i < 16; ++i) {
      const Index width = order == LaneOrder::pairs ? 2 : 1;
      const Index lane = tree_order[i];
      steps_[i] = (length_ / width - lane + 15) / 16 * width;
      first_[static_cast<std::size_t>(lane)] = used;
      used += steps_[i] + 1;
    }
  }

  /// Elements of a packed row of `cols`; a missing half of a pair is a zero.
  static constexpr Index length(LaneOrder order, Index cols) noexcept {
    return order == LaneOrder::pairs ? round_up(cols, 2) : cols;
  }

  /// Places of a packed row of `cols`.
  static constexpr Index places(LaneOrder order, Index cols) noexcept {
    return length(order, cols) + 16;
  }

  Index length() const noexcept { return length_; }

  /// Elements of each lane, in tree order.
  const std::array<Index, 16>& steps() const noexcept { return steps_; }

  /// Elements after which the pattern of `position` repeats, 16 further for each group of 16.
  Index group() const noexcept { return order_ == LaneOrder::pairs ? 32 : 16; }

  /// The lane of element k.
  std::size_t lane(Index k) const noexcept {
    return static_cast<std::size_t>((order_ == LaneOrder::pairs ? k / 2 : k) % 16);
  }

  /// Place of element k in the packed row.
  Index position(Index k) const noexcept {
    const Index step = order_ == LaneOrder::pairs ? k / 32 * 2 + (1 - k % 2) : k / 16;
    return first_[lane(k)] + step;
  }

 private:
  LaneOrder order_;
  Index length_;
  std::array<Index, 16> steps_{};
  std::array<Index, 16> first_{};  // of each lane, in elements
};

/// Packed activations of several tokens, in panels of a few.
struct PanelActivations {
  static constexpr Index panel_tokens = 6;  ///< tokens of a panel, which lie side by side

  float* values = nullptr;  ///< [panels, places, panel_tokens], the second as PanelLayout says
  Index tokens = 0;
  Index cols = 0;
  LaneOrder order = LaneOrder::single;

  /// Floats of memory for `tokens` tokens of `cols` inputs.
  static constexpr Index floats(LaneOrder order, Index tokens, Index cols) noexcept {
    return round_up(tokens, panel_tokens) * PanelLayout::places(order, cols);
  }

  float* panel_data(Index first_token) const noexcept {
    return values + first_token * PanelLayout::places(order, cols);
  }

  /// Some of the tokens, from a panel's first on.
  PanelActivations tokens_from(Index first_token, Index count) const noexcept {
    return {panel_data(first_token), count, cols, order};
  }
};

/// Packs rows `tokens` of x [out.tokens, out.cols]; `tokens` begins at a multiple of panel_tokens,
/// and ends at one or with the last token. With LaneOrder::pairs values are rounded to bf16.
KRAIT_API void pack_activations(MatrixView<const float> x, Range tokens,
                                const PanelActivations& out) noexcept;

/// Arguments of `matmul_panels`.
struct MatmulPanelsArgs {
  DenseWeights W;               ///< [out, in]; of bf16 with LaneOrder::pairs
  PanelActivations x;           ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
  Range next{};                 ///< outputs of the next call, whose weights are prefetched
  std::span<float> panels;      ///< working memory of this call, at least `panel_floats`
};

/// Floats of working memory for one panel of weights, those of 16 outputs.
constexpr Index panel_floats(LaneOrder order, Index cols) noexcept {
  return 16 * PanelLayout::places(order, cols);
}

/// Outputs, a multiple of 16, whose packed weights fit in the L2 cache while all tokens are
/// multiplied with them. `matmul_panels` does not use memory for more.
constexpr Index panel_block(LaneOrder order, Index cols) noexcept {
  constexpr Index cached_floats = Index{48} << 10;
  const Index panel = std::max(Index{1}, 16 * PanelLayout::length(order, cols));
  return std::max(Index{1}, cached_floats / panel) * 16;
}

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]) for r in `outputs` and every token t.
///
/// Bits     those of `matmul`; with LaneOrder::pairs those of `matmul_bf16`.
/// Aliasing none.
/// Cost     packs each weight once, which takes as long as multiplying it with about five tokens.
/// Oracle   ref::matmul, ref::matmul_bf16.
KRAIT_API void matmul_panels(const MatmulPanelsArgs& args) noexcept;

/// Whether `matmul_panels` is the fastest kernel for this many tokens and this type of weights, on
/// the active instruction set.
KRAIT_API bool panels_pay(Index tokens, DType weights) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
