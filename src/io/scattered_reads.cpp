#include "io/scattered_reads.hpp"

#include <sys/mman.h>
#include <unistd.h>

namespace krait {
inline namespace v0_1 {

void ScatteredReads::expect(const void* data, std::size_t bytes) noexcept {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = at / page * page;
  const std::uintptr_t end = (at + bytes + page - 1) / page * page;
  if (begin < begin_ || begin > end_) {
    tell();
    begin_ = begin;
    end_ = end;
  } else if (end > end_) {
    end_ = end;
  }
}

void ScatteredReads::tell() noexcept {
  // A hint: where the system takes none, the pages are read when they are needed.
  if (end_ > begin_) ::madvise(reinterpret_cast<void*>(begin_), end_ - begin_, MADV_WILLNEED);
}

}  // namespace v0_1
}  // namespace krait
