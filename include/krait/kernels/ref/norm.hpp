#pragma once

/// \file
/// Normalisation: the oracle in double and the bit-exact scalar model.

#include <cmath>

#include "krait/kernels/norm.hpp"
#include "krait/kernels/ref/lanes.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// RMS norm in double precision.
inline void rms_norm_oracle(const kernels::NormArgs& args, MatrixView<double> y) {
  for (Index t = 0; t < args.x.rows; ++t) {
    double sum = 0.0;
    for (const float value : args.x.row(t)) {
      sum += static_cast<double>(value) * static_cast<double>(value);
    }
    const double scale =
        1.0 / std::sqrt(sum / static_cast<double>(args.x.cols) + static_cast<double>(args.eps));
    for (Index i = 0; i < args.x.cols; ++i) {
      const double weight = args.weight != nullptr ? static_cast<double>(args.weight[i]) : 1.0;
      y(t, i) = static_cast<double>(args.x(t, i)) * scale * weight;
    }
  }
}

/// Layer norm in double precision.
inline void layer_norm_oracle(const kernels::NormArgs& args, MatrixView<double> y) {
  const auto d = static_cast<double>(args.x.cols);
  for (Index t = 0; t < args.x.rows; ++t) {
    double sum = 0.0;
    for (const float value : args.x.row(t)) sum += static_cast<double>(value);
    const double mean = sum / d;
    double square = 0.0;
    for (const float value : args.x.row(t)) {
      const double centred = static_cast<double>(value) - mean;
      square += centred * centred;
    }
    const double scale = 1.0 / std::sqrt(square / d + static_cast<double>(args.eps));
    for (Index i = 0; i < args.x.cols; ++i) {
      const double weight = args.weight != nullptr ? static_cast<double>(args.weight[i]) : 1.0;
      const double bias = args.bias != nullptr ? static_cast<double>(args.bias[i]) : 0.0;
      y(t, i) = (static_cast<double>(args.x(t, i)) - mean) * scale * weight + bias;
    }
  }
}

/// The bits of kernels::rms_norm.
inline void rms_norm(const kernels::NormArgs& args) noexcept {
  const Index d = args.x.cols;
  for (Index t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.row_data(t);
    const float scale = 1.0F / std::sqrt(dot(x, x, d) / static_cast<float>(d) + args.eps);
    for (Index i = 0; i < d; ++i) {
      const float scaled = x[i] * scale;
      args.y(t, i) = args.weight != nullptr ? scaled * args.weight[i] : scaled;
    }
  }
}

/// The bits of kernels::layer_norm.
inline void layer_norm(const kernels::NormArgs& args) noexcept {
  const Index d = args.x.cols;
  for (Index t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.row_data(t);
    const float mean = sum(x, d) / static_cast<float>(d);
    Lanes acc{};
    for (Index i = 0; i < d; ++i) {
      const float centred = x[i] - mean;
      float& lane = acc[static_cast<std::size_t>(i % 16)];
      lane = std::fma(centred, centred, lane);
    }
    const float scale = 1.0F / std::sqrt(reduce(acc) / static_cast<float>(d) + args.eps);
    for (Index i = 0; i < d; ++i) {
      const float scaled = (x[i] - mean) * scale;
      if (args.weight == nullptr) {
        args.y(t, i) = scaled;
      } else if (args.bias == nullptr) {
        args.y(t, i) = scaled * args.weight[i];
      } else {
        args.y(t, i) = std::fma(scaled, args.weight[i], args.bias[i]);
      }
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
