#pragma once

/// \file
/// FunctionRef: a callable passed by reference, without allocation.

#include <memory>
#include <type_traits>
#include <utility>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

template <class Signature>
class FunctionRef;

/// Refers to any callable for the length of one call. Two pointers; never allocates. The callable
/// must outlive the reference, so use it for parameters only.
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  /// An empty reference: converts to false, must not be called.
  constexpr FunctionRef() noexcept = default;

  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> &&
           std::is_invocable_r_v<R, F&, Args...>) FunctionRef(F&& f)
  noexcept  // NOLINT(google-explicit-constructor): made to convert from lambdas
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...);
        }) {}

  explicit operator bool() const noexcept { return call_ != nullptr; }

  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_ = nullptr;
  R (*call_)(void*, Args...) = nullptr;
};

}  // namespace v0_1
}  // namespace krait
