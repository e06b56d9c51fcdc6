#pragma once

/// \file
/// Messages from the library to the application. Silent unless a callback is set.

#include <string_view>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

enum class LogLevel : int { debug, info, warning };

/// Receives one line without its newline. May be called from any thread.
using LogCallback = void (*)(LogLevel level, std::string_view message, void* user);

/// Sets the process-wide callback; null silences (the initial state). `user` is passed through.
KRAIT_API void set_log_callback(LogCallback callback, void* user = nullptr) noexcept;

/// Sends a message to the callback, if there is one.
KRAIT_API void log(LogLevel level, std::string_view message) noexcept;

}  // namespace v0_1
}  // namespace krait
