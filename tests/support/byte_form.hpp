#pragma once

/// \file
/// A form of weights as an application might add it.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "krait/weights/convert.hpp"
#include "krait/weights/form.hpp"

namespace krait::test {

/// W[r,k] = scale[r] q[r,k], q in [-100, 100]. Rows beyond the last of a block are zeros.
class ByteMatrix final : public WeightMatrix {
 public:
  ByteMatrix(const std::int8_t* q, const float* scales, Index out, Index in)
      : WeightMatrix(out, in, out * in), q_(q), scales_(scales) {}

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    parallel_for(ctx.executor, out(), 1, [&](Range rows) {
      for (Index r = rows.begin; r < rows.end; ++r) {
        for (Index t = 0; t < args.x.rows; ++t) {
          float sum = 0.0F;
          for (Index k = 0; k < in(); ++k) {
            sum += static_cast<float>(q_[r * in() + k]) * args.x(t, k);
          }
          args.y(t, r) = sum * scales_[r] + (args.bias == nullptr ? 0.0F : args.bias[r]);
        }
      }
    });
  }

  void row(Index r, std::span<float> values) const noexcept override {
    for (Index k = 0; k < in(); ++k) {
      values[static_cast<std::size_t>(k)] = static_cast<float>(q_[r * in() + k]) * scales_[r];
    }
  }

 private:
  const std::int8_t* q_;
  const float* scales_;
};

/// That form, the name of which can be chosen.
class ByteForm : public RowForm {
 public:
  static constexpr Index rows_of_block = 4;

  explicit ByteForm(std::string name = "bytes") : name_(std::move(name)) {}

  std::string_view name() const noexcept override { return name_; }
  Index block_rows() const noexcept override { return rows_of_block; }
  Index workspace(Index in) const noexcept override { return 3 * in; }

  std::vector<WeightPart> parts(Index out, Index in) const override {
    const Index blocks = round_up(out, rows_of_block) / rows_of_block;
    return {{"q", DType::i8, {blocks, rows_of_block, in}},
            {"s", DType::f32, {blocks, rows_of_block}}};
  }

  std::optional<kernels::BadWeight> encode(Executor&, const TensorView& rows,
                                           std::span<std::byte* const> parts) const override {
    const Index in = rows.shape[1];
    std::vector<float> values(static_cast<std::size_t>(rows.size()));
    convert_floats(rows, DType::f32, values.data());
    auto* q = reinterpret_cast<std::int8_t*>(parts[0]);
    auto* scales = reinterpret_cast<float*>(parts[1]);
    const Index padded = round_up(rows.shape[0], rows_of_block);
    std::fill_n(q, padded * in, std::int8_t{0});
    std::fill_n(scales, padded, 0.0F);
    for (Index r = 0; r < rows.shape[0]; ++r) {
      const float* w = values.data() + r * in;
      float most = 0.0F;
      for (Index k = 0; k < in; ++k) {
        if (!std::isfinite(w[k])) return kernels::BadWeight{r, k};
        most = std::max(most, std::abs(w[k]));
      }
      scales[r] = most / 100.0F;
      for (Index k = 0; k < in; ++k) {
        q[r * in + k] = static_cast<std::int8_t>(most == 0.0F ? 0 : std::lround(w[k] / scales[r]));
      }
    }
    return std::nullopt;
  }

  std::shared_ptr<const WeightMatrix> matrix(std::span<const TensorView> parts, Index out,
                                             Index in) const override {
    return std::make_shared<ByteMatrix>(static_cast<const std::int8_t*>(parts[0].data),
                                        static_cast<const float*>(parts[1].data), out, in);
  }

 private:
  std::string name_;
};

}  // namespace krait::test
