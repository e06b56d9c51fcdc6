#include "krait/core/float_environment.hpp"

#if defined(__SSE2__)
#  include <xmmintrin.h>
#endif

namespace krait {
inline namespace v0_1 {
namespace {

#if defined(__SSE2__)

// MXCSR: all exceptions masked, round to nearest, no flush-to-zero, no denormals-are-zero.
constexpr unsigned krait_word = 0x1F80U;
constexpr unsigned flush_bits = 0x8040U;  // both of the latter
std::uint64_t read_word() noexcept { return _mm_getcsr(); }
void write_word(std::uint64_t word) noexcept { _mm_setcsr(static_cast<unsigned>(word)); }

#elif defined(__aarch64__)

constexpr std::uint64_t krait_word = 0;
constexpr std::uint64_t flush_bits = 1U << 24U;  // FZ
std::uint64_t read_word() noexcept {
  std::uint64_t word = 0;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
void write_word(std::uint64_t word) noexcept { asm volatile("msr fpcr, %0" : : "r"(word)); }

#else

constexpr std::uint64_t krait_word = 0;
constexpr std::uint64_t flush_bits = 0;
std::uint64_t read_word() noexcept { return krait_word; }
void write_word(std::uint64_t /*word*/) noexcept {}

#endif

}  // namespace

FloatEnvironment::FloatEnvironment() noexcept : saved_(read_word()) {
  if (saved_ != krait_word) write_word(krait_word);
}

FloatEnvironment::~FloatEnvironment() { write_word(saved_); }

FlushToZero::FlushToZero() noexcept : saved_(read_word()) { write_word(saved_ | flush_bits); }

FlushToZero::~FlushToZero() { write_word(saved_); }

}  // namespace v0_1
}  // namespace krait
