#pragma once

#include <cstddef>
#include <cstdint>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Says which memory is read soon. Of a mapped file the system then fetches these pages and no
/// others, many at a time; found missing one by one, each would be read with the megabytes around
/// it. Memory of any other kind is left as it is. Neighbours that come one after another are one
/// call of the system.
class ScatteredReads {
 public:
  ScatteredReads() = default;
  ScatteredReads(const ScatteredReads&) = delete;
  ScatteredReads& operator=(const ScatteredReads&) = delete;
  ~ScatteredReads() { tell(); }

  void expect(const void* data, std::size_t bytes) noexcept;

 private:
  void tell() noexcept;

  std::uintptr_t begin_ = 0;  // of whole pages that have not been told yet
  std::uintptr_t end_ = 0;
};

}  // namespace v0_1
}  // namespace krait
