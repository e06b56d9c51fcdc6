#include "io/scattered_reads.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace krait {
inline namespace v0_1 {

void expect_scattered_read(const void* data, std::size_t bytes) noexcept {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = begin / page * page;
  // A hint: where the system takes none, the pages are read when they are needed.
  ::madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_WILLNEED);
}

}  // namespace v0_1
}  // namespace krait
