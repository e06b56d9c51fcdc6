#pragma once

/// \file
/// Views: pointer and extents, owning nothing.

#include <cstddef>
#include <span>
#include <type_traits>

#include "krait/core/dtype.hpp"
#include "krait/core/shape.hpp"

namespace krait {
inline namespace v0_1 {

/// A view of a row-major matrix, which somebody else owns. `stride` may be larger than a row.
/// Converts from mutable to const, never back.
template <class T>
struct MatrixView {
  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;  ///< elements from one row to the next, ≥ cols

  constexpr MatrixView() noexcept = default;
  constexpr MatrixView(T* data_, Index rows_, Index cols_) noexcept
      : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
  constexpr MatrixView(T* data_, Index rows_, Index cols_, Index stride_) noexcept
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

  constexpr operator MatrixView<const T>() const noexcept  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<T>) {
    return {data, rows, cols, stride};
  }

  constexpr T& operator()(Index row, Index col) const noexcept { return data[row * stride + col]; }
  constexpr T* row_data(Index row) const noexcept { return data + row * stride; }
  constexpr std::span<T> row(Index r) const noexcept {
    return {row_data(r), static_cast<std::size_t>(cols)};
  }

  /// Rows [first, first + count).
  constexpr MatrixView rows_from(Index first, Index count) const noexcept {
    return {row_data(first), count, cols, stride};
  }
  /// Columns [first, first + count) of every row.
  constexpr MatrixView cols_from(Index first, Index count) const noexcept {
    return {data + first, rows, count, stride};
  }
};

/// A view of a contiguous row-major tensor of any type, which somebody else owns: usually a mapped
/// file. `data` is null where only type and shape are known, as in a plan.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  Index size() const noexcept { return shape.size(); }
  Index bytes() const noexcept { return size() * bytes_of(dtype); }

  /// The elements. T must be the type that `dtype` names.
  template <class T>
  std::span<const T> as() const noexcept {
    return {static_cast<const T*>(data), static_cast<std::size_t>(size())};
  }
};

}  // namespace v0_1
}  // namespace krait
