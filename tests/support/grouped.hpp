#pragma once

/// \file
/// Quantised matrices and activations for the tests.

#include <vector>

#include "krait/kernels/quant.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::test {

inline constexpr kernels::GroupedForm grouped_forms[] = {kernels::GroupedForm::q8,
                                                         kernels::GroupedForm::q4};

/// A matrix rounded to a form, its codes `offset` bytes after a 64-byte boundary and its scales
/// `offset` elements, each ending with its block of memory.
class GroupedMatrix {
 public:
  GroupedMatrix(kernels::GroupedForm form, const std::vector<float>& values, Index rows, Index cols,
                Index offset = 0)
      : view_{.form = form, .codes = nullptr, .scales = nullptr, .rows = rows, .cols = cols},
        codes_(view_.row_blocks() * view_.groups() * block_bytes(form) + offset),
        scales_(view_.row_blocks() * view_.groups() * kernels::row_block + offset) {
    std::uint8_t* codes = codes_.data() + offset;
    f16* scales = scales_.data() + offset;
    view_.codes = codes;
    view_.scales = scales;
    EXPECT_FALSE(kernels::quantize(form, {values.data(), DType::f32, {rows, cols}},
                                   {0, view_.row_blocks()}, codes, scales));
  }

  const kernels::GroupedWeights& view() const { return view_; }

 private:
  kernels::GroupedWeights view_;
  AlignedBuffer<std::uint8_t> codes_;
  AlignedBuffer<f16> scales_;
};

/// Activations [tokens, cols] rounded by the active kernel.
class RoundedActivations {
 public:
  explicit RoundedActivations(MatrixView<const float> x)
      : memory_(x.rows * kernels::Int8Activations::floats_per_token(x.cols)),
        view_(memory_.data(), x.rows, x.cols) {
    kernels::quantize_activations(x, {0, x.rows}, view_);
  }
  const kernels::Int8Activations& view() const { return view_; }

 private:
  AlignedBuffer<float> memory_;
  kernels::Int8Activations view_;
};

}  // namespace krait::test
