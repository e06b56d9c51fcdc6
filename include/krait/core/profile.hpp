#pragma once

/// \file
/// Zones: where the time of a run goes.
///
/// The CMake option KRAIT_PROFILE compiles them in; without it a zone is an object without data,
/// code or cost. Zones are opened by the thread that calls a session, around its parallel loops,
/// and that thread reads the totals. `krait bench --profile` prints them.

#include <span>

#include "krait/core/config.hpp"

#if defined(KRAIT_PROFILE)
#  include <array>
#  include <chrono>
#  include <string_view>
#endif

namespace krait {
inline namespace v0_1 {
namespace profile {

/// What the zones of one name cost since `reset`.
struct Total {
  const char* zone = "";
  Index calls = 0;
  double seconds = 0.0;  ///< without the zones inside
  double bytes = 0.0;    ///< of weights that were read, as reported by `count`
  double flop = 0.0;     ///< additions and multiplications, as reported by `count`
};

#if defined(KRAIT_PROFILE)

inline constexpr bool is_enabled = true;

/// The totals of one thread, for at most `most_zones` names; further names are not recorded.
struct Recorder {
  using Clock = std::chrono::steady_clock;
  static constexpr int most_zones = 64;
  static constexpr int none = -1;

  std::array<Total, most_zones> totals{};
  int used = 0;
  int current = none;
  Clock::time_point since{};

  // The time until now belongs to the zone so far.
  void move_to(int zone) noexcept {
    const auto now = Clock::now();
    if (current != none) {
      totals[static_cast<std::size_t>(current)].seconds +=
          std::chrono::duration<double>(now - since).count();
    }
    since = now;
    current = zone;
  }

  void enter(const char* name) noexcept {
    int zone = 0;
    while (zone < used && std::string_view(totals[static_cast<std::size_t>(zone)].zone) != name) {
      ++zone;
    }
    if (zone == most_zones) return move_to(none);
    if (zone == used) totals[static_cast<std::size_t>(used++)].zone = name;
    ++totals[static_cast<std::size_t>(zone)].calls;
    move_to(zone);
  }
};

KRAIT_API inline constinit thread_local Recorder recorder{};

/// While it lives, the calling thread's time counts for the zone `name`, except in zones that are
/// opened inside it. Names are literals.
class [[maybe_unused]] Zone {
 public:
  explicit Zone(const char* name) noexcept : outer_(recorder.current) { recorder.enter(name); }
  ~Zone() { recorder.move_to(outer_); }
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

  /// Ends the zone and begins another one.
  void next(const char* name) noexcept { recorder.enter(name); }

 private:
  int outer_;
};

/// Adds work to the zone that is open.
inline void count(Index bytes, Index flop) noexcept {
  if (recorder.current == Recorder::none) return;
  Total& total = recorder.totals[static_cast<std::size_t>(recorder.current)];
  total.bytes += static_cast<double>(bytes);
  total.flop += static_cast<double>(flop);
}

/// The calling thread's zones, in the order in which they were first opened.
inline std::span<const Total> totals() noexcept {
  return std::span(recorder.totals).first(static_cast<std::size_t>(recorder.used));
}

/// Forgets the calling thread's totals. No zone may be open.
inline void reset() noexcept { recorder = Recorder{}; }

#else

inline constexpr bool is_enabled = false;

class [[maybe_unused]] Zone {
 public:
  constexpr explicit Zone(const char* /*name*/) noexcept {}
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;
  constexpr void next(const char* /*name*/) noexcept {}
};

constexpr void count(Index /*bytes*/, Index /*flop*/) noexcept {}
constexpr std::span<const Total> totals() noexcept { return {}; }
constexpr void reset() noexcept {}

#endif

}  // namespace profile
}  // namespace v0_1
}  // namespace krait
