#include "krait/core/log.hpp"

#include <mutex>

namespace krait {
inline namespace v0_1 {
namespace {

struct Sink {
  std::mutex mutex;
  LogCallback callback = nullptr;
  void* user = nullptr;
};

Sink& sink() {
  static Sink instance;
  return instance;
}

}  // namespace

void set_log_callback(LogCallback callback, void* user) noexcept {
  Sink& target = sink();
  const std::lock_guard lock(target.mutex);
  target.callback = callback;
  target.user = user;
}

void log(LogLevel level, std::string_view message) noexcept {
  Sink& target = sink();
  const std::lock_guard lock(target.mutex);
  if (target.callback != nullptr) target.callback(level, message, target.user);
}

}  // namespace v0_1
}  // namespace krait
