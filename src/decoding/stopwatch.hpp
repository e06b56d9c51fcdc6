#pragma once

/// \file
/// Stopwatch: seconds between laps.

#include <chrono>
#include <utility>

namespace krait {
inline namespace v0_1 {

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace v0_1
}  // namespace krait
