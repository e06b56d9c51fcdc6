#include "krait/core/error.hpp"

#include <atomic>
#include <exception>

namespace krait {
inline namespace v0_1 {

std::string_view to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::not_found:
      return "not_found";
    case ErrorCode::io_failed:
      return "io_failed";
    case ErrorCode::bad_format:
      return "bad_format";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::missing_tensor:
      return "missing_tensor";
    case ErrorCode::shape_mismatch:
      return "shape_mismatch";
    case ErrorCode::dtype_mismatch:
      return "dtype_mismatch";
    case ErrorCode::bad_config:
      return "bad_config";
    case ErrorCode::bad_argument:
      return "bad_argument";
    case ErrorCode::incompatible_state:
      return "incompatible_state";
    case ErrorCode::cancelled:
      return "cancelled";
    case ErrorCode::not_finite:
      return "not_finite";
    case ErrorCode::no_memory:
      return "no_memory";
  }
  return "unknown";
}

namespace {

void default_handler([[maybe_unused]] std::string_view message) {
#if KRAIT_HAS_EXCEPTIONS
  throw ContractError(std::string(message));
#endif
}

std::atomic<ContractHandler> current_handler{&default_handler};

}  // namespace

ContractHandler set_contract_handler(ContractHandler handler) noexcept {
  return current_handler.exchange(handler != nullptr ? handler : &default_handler);
}

namespace detail {

void contract_failed(std::string_view message) {
  current_handler.load()(message);
  std::terminate();  // the handler returned: there is no defined way to go on
}

void throw_error([[maybe_unused]] const Error& error) {
#if KRAIT_HAS_EXCEPTIONS
  throw Exception(error);
#else
  std::terminate();
#endif
}

}  // namespace detail

}  // namespace v0_1
}  // namespace krait
