#pragma once

/// \file
/// ClonePtr: an object of some derived class, as a value.

#include <memory>
#include <utility>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Owns an object; a copy owns what the object's `clone` gives. May be empty.
template <class T>
class ClonePtr {
 public:
  ClonePtr() = default;
  ClonePtr(std::unique_ptr<T> object)  // NOLINT(google-explicit-constructor): the same, owned
      : object_(std::move(object)) {}
  ClonePtr(const ClonePtr& other) : object_(other.object_ ? other.object_->clone() : nullptr) {}
  ClonePtr(ClonePtr&&) noexcept = default;
  ClonePtr& operator=(const ClonePtr& other) {
    if (this != &other) object_ = other.object_ ? other.object_->clone() : nullptr;
    return *this;
  }
  ClonePtr& operator=(ClonePtr&&) noexcept = default;
  ~ClonePtr() = default;

  explicit operator bool() const noexcept { return object_ != nullptr; }
  T& operator*() const noexcept { return *object_; }
  T* operator->() const noexcept { return object_.get(); }

 private:
  std::unique_ptr<T> object_;
};

}  // namespace v0_1
}  // namespace krait
