#pragma once

/// \file
/// AlignedBuffer: an owning array that starts on a cache line.

#include <algorithm>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Alignment of every block in bytes: a cache line, which is also the widest vector register.
inline constexpr std::size_t alignment = 64;

/// Rounds a count up to a multiple of `step`.
constexpr Index round_up(Index count, Index step) noexcept {
  return (count + step - 1) / step * step;
}

/// A zero-initialised, 64-byte aligned array of fixed size. Deep copies; throws std::bad_alloc.
template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedBuffer() noexcept = default;
  explicit AlignedBuffer(Index size) : size_(size) {
    if (size_ > 0) {
      data_ = static_cast<T*>(::operator new (bytes(), std::align_val_t{alignment}));
      std::fill_n(reinterpret_cast<std::byte*>(data_), bytes(), std::byte{});
    }
  }
  AlignedBuffer(const AlignedBuffer& other) : AlignedBuffer(other.size_) {
    if (size_ > 0) std::copy_n(other.data_, size_, data_);
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  // Two functions: with one that takes its argument by value, is_nothrow_copy_assignable would be
  // true of classes with such a member, although the copy can throw.
  AlignedBuffer& operator=(const AlignedBuffer& other) { return *this = AlignedBuffer(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{alignment});
  }

  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  Index size() const noexcept { return size_; }
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(size_) * sizeof(T); }

  T& operator[](Index i) noexcept { return data_[i]; }
  const T& operator[](Index i) const noexcept { return data_[i]; }

  std::span<T> span() noexcept { return {data_, static_cast<std::size_t>(size_)}; }
  std::span<const T> span() const noexcept { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  T* data_ = nullptr;
  Index size_ = 0;
};

}  // namespace v0_1
}  // namespace krait
