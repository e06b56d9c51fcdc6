#pragma once

/// \file
/// Shape: the extents of a tensor, slowest axis first.

#include <array>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// a · b for sizes: nothing if either is negative or the product does not fit.
constexpr std::optional<Index> checked_product(Index a, Index b) noexcept {
  if (a < 0 || b < 0) return std::nullopt;
  if (a != 0 && b > std::numeric_limits<Index>::max() / a) return std::nullopt;
  return a * b;
}

/// Up to `max_rank` extents. For extents from outside use `make`, which refuses negative ones and
/// element counts that overflow.
class Shape {
 public:
  static constexpr int max_rank = 8;

  /// A scalar: rank 0, one element.
  constexpr Shape() noexcept = default;

  /// Extents that the caller knows to be valid (their product is not checked).
  constexpr Shape(std::initializer_list<Index> extents) noexcept {
    for (const Index extent : extents) {
      if (rank_ < max_rank) extents_[static_cast<std::size_t>(rank_++)] = extent;
    }
  }

  /// Extents from outside; nothing if the rank is above `max_rank`, an extent is negative, or the
  /// number of elements overflows Index.
  static constexpr std::optional<Shape> make(std::span<const Index> extents) noexcept {
    if (extents.size() > static_cast<std::size_t>(max_rank)) return std::nullopt;
    Shape shape;
    Index size = 1;
    for (const Index extent : extents) {
      if (extent < 0) return std::nullopt;
      shape.extents_[static_cast<std::size_t>(shape.rank_++)] = extent;
      const auto product = checked_product(size, extent);
      if (!product) return std::nullopt;
      size = *product;
    }
    return shape;
  }

  constexpr int rank() const noexcept { return rank_; }
  constexpr Index operator[](int axis) const noexcept {
    return extents_[static_cast<std::size_t>(axis)];
  }
  constexpr std::span<const Index> extents() const noexcept {
    return {extents_.data(), static_cast<std::size_t>(rank_)};
  }

  /// Number of elements; 1 for a scalar.
  constexpr Index size() const noexcept {
    Index size = 1;
    for (int axis = 0; axis < rank_; ++axis) size *= (*this)[axis];
    return size;
  }

  friend constexpr bool operator==(const Shape& a, const Shape& b) noexcept {
    if (a.rank_ != b.rank_) return false;
    for (int axis = 0; axis < a.rank_; ++axis) {
      if (a[axis] != b[axis]) return false;
    }
    return true;
  }

 private:
  std::array<Index, max_rank> extents_{};
  int rank_ = 0;
};

/// "[1536,16]".
inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (axis > 0) text += ',';
    text += std::to_string(shape[axis]);
  }
  return text + "]";
}

}  // namespace v0_1
}  // namespace krait
