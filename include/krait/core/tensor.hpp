#pragma once

/// \file
/// Tensor: owns its elements.

#include <cstddef>
#include <span>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// A contiguous row-major tensor, zero at first, 64-byte aligned. For tools and tests; models work
/// on views. Copies are deep; throws std::bad_alloc.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, const Shape& shape)
      : block_(shape.size() * bytes_of(dtype)), dtype_(dtype), shape_(shape) {}

  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  void* data() noexcept { return block_.data(); }

  /// The elements. T must be the type that `dtype()` names.
  template <class T>
  std::span<T> as() noexcept {
    return {reinterpret_cast<T*>(block_.data()), static_cast<std::size_t>(shape_.size())};
  }

  TensorView view() const noexcept { return {block_.data(), dtype_, shape_}; }

 private:
  AlignedBuffer<std::byte> block_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

}  // namespace v0_1
}  // namespace krait
