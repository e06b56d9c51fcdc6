#pragma once

/// \file
/// How krait reports failure.
///
/// What goes wrong in a correct program (files, configs, user input, a token beyond the vocabulary,
/// the state of another model) comes back as a `Result<T>`: a value or an `Error`. What only a
/// programmer's error explains (sizes that a call cannot have) is a contract breach: it reaches the
/// contract handler, which by default throws `ContractError`.
/// The library itself never prints, aborts or exits.

#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// What kind of thing went wrong. Values are stable: new ones are added at the end.
enum class ErrorCode : int {
  not_found = 1,       ///< file, tensor or name that does not exist
  io_failed,           ///< the operating system refused to read, write or map
  bad_format,          ///< bytes that are not what their format promises
  unsupported,         ///< understood, but not handled by this version
  missing_tensor,      ///< a checkpoint lacks a tensor the model needs
  shape_mismatch,      ///< a tensor's shape is not the one the model needs
  dtype_mismatch,      ///< a tensor's element type is not usable here
  bad_config,          ///< a model configuration that describes no model
  bad_argument,        ///< an option or argument with an impossible value
  incompatible_state,  ///< a saved state of another model
  cancelled,           ///< stopped by the caller's own callback
  not_finite,          ///< numbers of a run became NaN or infinite
  no_memory,           ///< memory for what grows could not be had
};

/// Name of the code, as spelled in the enumeration.
KRAIT_API std::string_view to_string(ErrorCode code) noexcept;

/// A failure: its kind, and one line of the form `[area] what: expected X, found Y (where)`.
struct Error {
  ErrorCode code = ErrorCode::bad_argument;
  std::string message;

  friend bool operator==(const Error&, const Error&) = default;
};

/// Thrown by `Result::value()` on a failure.
class KRAIT_API Exception : public std::exception {
 public:
  explicit Exception(Error error) : error_(std::move(error)) {}
  const char* what() const noexcept override { return error_.message.c_str(); }
  const Error& error() const noexcept { return error_; }

 private:
  Error error_;
};

/// Thrown by the default contract handler.
class KRAIT_API ContractError : public std::exception {
 public:
  explicit ContractError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// Receives the description of a contract breach. May throw; if it returns, the program is
/// terminated, since there is no defined way to go on.
using ContractHandler = void (*)(std::string_view message);

/// Installs `handler` (null: the default one) and returns the previous one. Thread-safe.
KRAIT_API ContractHandler set_contract_handler(ContractHandler handler) noexcept;

namespace detail {
[[noreturn]] KRAIT_API void contract_failed(std::string_view message);
[[noreturn]] KRAIT_API void throw_error(const Error& error);
}  // namespace detail

/// Reports a contract breach unless `holds`. For the entry points of the public interface.
inline void check_contract(bool holds, std::string_view message) {
  if (!holds) [[unlikely]] {
    detail::contract_failed(message);
  }
}

/// A value of type T, or the Error that says why there is none.
///
/// Works without exceptions: test it, then use `*result`. With exceptions, `value()` throws
/// `krait::Exception`, so that short programs stay short.
template <class T>
class [[nodiscard]] Result {
  static_assert(!std::is_reference_v<T> && !std::is_same_v<T, Error>);

 public:
  using value_type = T;

  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: converting
  Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool has_value() const noexcept { return content_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  T& operator*() & noexcept { return *std::get_if<0>(&content_); }
  const T& operator*() const& noexcept { return *std::get_if<0>(&content_); }
  // By value, here and below: a loop over `*f()` or `f().value()` keeps what it goes through.
  T operator*() && noexcept { return std::move(*std::get_if<0>(&content_)); }
  T* operator->() noexcept { return std::get_if<0>(&content_); }
  const T* operator->() const noexcept { return std::get_if<0>(&content_); }

  /// The value; throws `krait::Exception` on a failure (terminates without exceptions).
  T& value() & {
    require();
    return **this;
  }
  const T& value() const& {
    require();
    return **this;
  }
  T value() && {
    require();
    return std::move(**this);
  }

  T value_or(T fallback) && { return has_value() ? std::move(**this) : std::move(fallback); }

  /// The failure. Only when `!has_value()`.
  const Error& error() const& noexcept { return *std::get_if<1>(&content_); }
  Error&& error() && noexcept { return std::move(*std::get_if<1>(&content_)); }

 private:
  void require() const {
    if (!has_value()) [[unlikely]] {
      detail::throw_error(error());
    }
  }

  std::variant<T, Error> content_;
};

/// Success, or the Error that prevented it.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() noexcept = default;
  Result(Error error) : error_(std::move(error)), failed_(true) {}  // NOLINT: converting

  bool has_value() const noexcept { return !failed_; }
  explicit operator bool() const noexcept { return !failed_; }

  /// Throws `krait::Exception` on a failure (terminates without exceptions).
  void value() const {
    if (failed_) [[unlikely]] {
      detail::throw_error(error_);
    }
  }

  const Error& error() const& noexcept { return error_; }
  Error&& error() && noexcept { return std::move(error_); }

 private:
  Error error_;
  bool failed_ = false;
};

}  // namespace v0_1
}  // namespace krait

#define KRAIT_CONCAT_INNER(a, b) a##b
#define KRAIT_CONCAT(a, b) KRAIT_CONCAT_INNER(a, b)

/// Returns the error of `expression` (a Result) from the enclosing function, if it failed.
#define KRAIT_RETURN_IF_ERROR(expression)                  \
  do {                                                     \
    if (auto krait_result = (expression); !krait_result) { \
      return std::move(krait_result).error();              \
    }                                                      \
  } while (false)

/// Assigns the value of `expression` (a Result) to `target`, or returns its error.
#define KRAIT_ASSIGN_OR_RETURN(target, ...) \
  KRAIT_ASSIGN_OR_RETURN_IMPL(KRAIT_CONCAT(krait_result_, __LINE__), target, __VA_ARGS__)
#define KRAIT_ASSIGN_OR_RETURN_IMPL(result, target, ...) \
  auto result = (__VA_ARGS__);                           \
  if (!result) {                                         \
    return std::move(result).error();                    \
  }                                                      \
  target = *std::move(result)
