#pragma once

/// \file
/// Matrices of stored weights for the kernel tests.

#include <vector>

#include "krait/kernels/matvec.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::test {

/// A matrix in one of the storage types, `offset` elements after a 64-byte boundary, its last
/// element the last of its block.
class StoredMatrix {
 public:
  /// The values rounded to the storage type.
  StoredMatrix(DType dtype, const std::vector<float>& values, Index rows, Index cols,
               Index offset = 0)
      : dtype_(dtype), rows_(rows), cols_(cols), f32_({}, 0), f16_({}, 0), bf16_({}, 0) {
    if (dtype == DType::f32) {
      f32_ = misaligned(values, offset);
    } else if (dtype == DType::f16) {
      f16_ = misaligned(rounded<f16>(values, to_f16), offset);
    } else {
      bf16_ = misaligned(rounded<bf16>(values, to_bf16), offset);
    }
  }

  kernels::DenseWeights view() {
    const void* data = dtype_ == DType::f32   ? static_cast<const void*>(f32_.data())
                       : dtype_ == DType::f16 ? static_cast<const void*>(f16_.data())
                                              : static_cast<const void*>(bf16_.data());
    return {data, dtype_, rows_, cols_};
  }

 private:
  template <class T, class Round>
  static std::vector<T> rounded(const std::vector<float>& values, Round round) {
    std::vector<T> result(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) result[i] = round(values[i]);
    return result;
  }

  DType dtype_;
  Index rows_;
  Index cols_;
  Misaligned<float> f32_;
  Misaligned<f16> f16_;
  Misaligned<bf16> bf16_;
};

inline constexpr DType weight_types[] = {DType::f32, DType::f16, DType::bf16};

}  // namespace krait::test
