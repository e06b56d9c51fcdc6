#pragma once

/// \file
/// Function: a callable that its holder owns.

#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

template <class Signature>
class Function;

/// Owns a copy of any copyable callable: for callbacks that a struct keeps (`FunctionRef` is for
/// parameters). Behaves as std::function does, without its header, which is longer than all of
/// krait's together. Copying a Function copies the callable. Construction and copies allocate;
/// moves and calls do not.
template <class R, class... Args>
class Function<R(Args...)> {
 public:
  /// Empty: converts to false, must not be called.
  Function() noexcept = default;
  Function(std::nullptr_t) noexcept {}  // NOLINT(google-explicit-constructor)

  /// From a lambda, a function, another owner of a callable. Empty if that is null or empty.
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, Function> &&
           !std::same_as<std::remove_cvref_t<F>, std::nullptr_t> &&
           std::copy_constructible<std::decay_t<F>> &&
           std::is_invocable_r_v<R, std::decay_t<F>&, Args...>)
      Function(F&& f) {  // NOLINT(google-explicit-constructor): made to convert from lambdas
    using Target = std::decay_t<F>;
    Target target(std::forward<F>(f));
    if constexpr (std::is_constructible_v<Target, std::nullptr_t>) {
      if (!target) return;
    }
    target_ = std::make_unique<Holder<Target>>(std::move(target));
  }

  Function(const Function& other) : target_(other ? other.target_->copy() : nullptr) {}
  Function(Function&&) noexcept = default;
  Function& operator=(const Function& other) { return *this = Function(other); }
  Function& operator=(Function&&) noexcept = default;
  ~Function() = default;

  explicit operator bool() const noexcept { return target_ != nullptr; }
  friend bool operator==(const Function& f, std::nullptr_t) noexcept { return !f; }

  /// As with std::function, a constant Function may call what changes its own variables.
  R operator()(Args... args) const { return target_->call(std::forward<Args>(args)...); }

 private:
  struct Callable {
    virtual ~Callable() = default;
    virtual std::unique_ptr<Callable> copy() const = 0;
    virtual R call(Args... args) = 0;
  };

  template <class F>
  struct Holder final : Callable {
    explicit Holder(F target) : f(std::move(target)) {}
    std::unique_ptr<Callable> copy() const override { return std::make_unique<Holder>(f); }
    R call(Args... args) override {
      if constexpr (std::is_void_v<R>) {
        f(std::forward<Args>(args)...);
      } else {
        return f(std::forward<Args>(args)...);
      }
    }
    F f;
  };

  std::unique_ptr<Callable> target_;
};

}  // namespace v0_1
}  // namespace krait
