#pragma once

/// \file
/// Products of packed operands in scalar form.

#include "krait/kernels/matmul_panels.hpp"
#include "krait/kernels/ref/lanes.hpp"
#include "krait/kernels/ref/matmul_bf16.hpp"
#include "krait/kernels/ref/matvec.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The bits of kernels::pack_activations. Places of a last panel that has fewer tokens are
/// undefined.
inline void pack_activations(MatrixView<const float> x, Range tokens,
                             const kernels::PanelActivations& out) noexcept {
  constexpr Index panel = kernels::PanelActivations::panel_tokens;
  const kernels::PanelLayout layout(out.order, out.cols);
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    float* values = out.panel_data(t / panel * panel) + t % panel;
    for (Index k = 0; k < layout.length(); ++k) {
      float value = k < out.cols ? x(t, k) : 0.0F;
      if (out.order == kernels::LaneOrder::pairs) value = to_float(to_bf16(value));
      values[layout.position(k) * panel] = value;
    }
  }
}

/// The bits of kernels::matmul_panels.
inline void matmul_panels(const kernels::MatmulPanelsArgs& args) noexcept {
  constexpr Index panel = kernels::PanelActivations::panel_tokens;
  const kernels::PanelLayout layout(args.x.order, args.W.cols);
  const bool pairs = args.x.order == kernels::LaneOrder::pairs;
  const Index n = args.W.cols;
  const auto flushed = [&](float x) { return pairs ? flush(x) : x; };
  const auto weight = [&](Index r, Index k) {
    return k < n ? static_cast<float>(weight_at(args.W, r, k)) : 0.0F;
  };
  for (Index t = 0; t < args.x.tokens; ++t) {
    const float* x = args.x.panel_data(t / panel * panel) + t % panel;
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      Lanes acc{};
      for (Index k = 0; k < layout.length(); k += pairs ? 2 : 1) {
        const auto step = [&](Index at) {
          float& lane = acc[layout.lane(at)];
          const float value = x[layout.position(at) * panel];
          lane = flushed(std::fma(flushed(weight(r, at)), flushed(value), lane));
        };
        if (pairs) step(k + 1);
        step(k);
      }
      const float sum = pairs ? reduce_flushed(acc) : reduce(acc);
      args.y(t, r) = args.bias != nullptr ? flushed(sum + flushed(args.bias[r])) : sum;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
