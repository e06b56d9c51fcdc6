#include "krait/core/cpu.hpp"

#include <array>
#include <atomic>
#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#  include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#  include <sys/syscall.h>
#  include <unistd.h>
#endif

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::array<std::string_view, isa_count> names = {
    "scalar", "neon", "sse4", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_amx"};

struct IsaList {
  std::array<Isa, isa_count> items{};
  std::size_t count = 0;

  void add(Isa isa) { items[count++] = isa; }
  bool contains(Isa isa) const {
    for (std::size_t i = 0; i < count; ++i) {
      if (items[i] == isa) return true;
    }
    return false;
  }
};

#if defined(__x86_64__)
// By CPUID, because Clang 14 does not know this name. The answer about AVX2 includes whether the
// operating system saves the registers.
bool has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1U << 29U)) != 0;
}

// Whether there are AMX's tiles and their products of 8-bit integers, and this process may use
// them: Linux saves the 8 KiB of tile registers only for those who ask, once for all threads.
bool has_amx() {
#  if defined(__linux__) && defined(SYS_arch_prctl)
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned tiles = 1U << 24U;
  constexpr unsigned int8_products = 1U << 25U;
  constexpr unsigned wanted = tiles | int8_products;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & wanted) != wanted) return false;
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;               // XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#  else
  return false;
#  endif
}
#endif

// The compiler's run-time support asks CPUID and XGETBV, so that a level is reported only if the
// operating system saves its registers.
IsaList detect() {
  IsaList list;
  list.add(Isa::scalar);
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("sse4.2")) return list;
  list.add(Isa::sse4);
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
        __builtin_cpu_supports("bmi2"))) {
    return list;
  }
  list.add(Isa::avx2);
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))) {
    return list;
  }
  list.add(Isa::avx512);
  if (!__builtin_cpu_supports("avx512vnni")) return list;
  list.add(Isa::avx512_vnni);
  if (!__builtin_cpu_supports("avx512bf16")) return list;
  list.add(Isa::avx512_bf16);
  if (has_amx()) list.add(Isa::avx512_amx);
#elif defined(__aarch64__)
  list.add(Isa::neon);
#endif
  return list;
}

// Of the levels that the machine has, those that are compiled: with KRAIT_NATIVE the named one, and
// with 512 bits its extensions.
IsaList compiled(const IsaList& all) {
#if defined(KRAIT_NATIVE_ISA)
  IsaList list;
  for (std::size_t i = 0; i < all.count; ++i) {
    const Isa isa = all.items[i];
    const bool is_extension = Isa::KRAIT_NATIVE_ISA == Isa::avx512 && isa > Isa::avx512;
    if (isa == Isa::scalar || isa == Isa::KRAIT_NATIVE_ISA || is_extension) list.add(isa);
  }
  return list;
#else
  return all;
#endif
}

const IsaList& detected() {
  static const IsaList list = compiled(detect());
  return list;
}

#if defined(KRAIT_NATIVE_ISA)
constexpr const char* lacking = "this machine lacks it, or this build, which is for one alone";
#else
constexpr const char* lacking = "this machine lacks it";
#endif

Error unavailable(Isa isa) {
  std::string have;
  for (const Isa item : available_isas()) {
    if (!have.empty()) have += ", ";
    have += to_string(item);
  }
  return {ErrorCode::unsupported, "[cpu] instruction set: expected one of " + have + ", found " +
                                      std::string(to_string(isa)) + " (" + lacking + ")"};
}

// The level that KRAIT_ISA names, or else the best one; and the error if its value is wrong.
struct Initial {
  Isa isa = Isa::scalar;
  Result<void> status;
};

const Initial& initial() {
  static const Initial value = [] {
    Initial result{available_isas().back(), {}};
    const char* wanted = std::getenv("KRAIT_ISA");
    if (wanted == nullptr || *wanted == '\0') return result;
    const Result<Isa> parsed = parse_isa(wanted);
    if (!parsed) {
      result.status = Error{parsed.error().code, parsed.error().message + " (KRAIT_ISA)"};
    } else if (!detected().contains(*parsed)) {
      Error error = unavailable(*parsed);
      error.message += " (KRAIT_ISA)";
      result.status = std::move(error);
    } else {
      result.isa = *parsed;
    }
    return result;
  }();
  return value;
}

constexpr int not_forced = -1;
std::atomic<int> forced{not_forced};

}  // namespace

std::string_view to_string(Isa isa) noexcept { return names[static_cast<std::size_t>(isa)]; }

Result<Isa> parse_isa(std::string_view name) {
  std::string known;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<Isa>(i);
    known += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  return Error{ErrorCode::bad_argument, "[cpu] instruction set: expected one of " + known +
                                            ", found '" + std::string(name) + "'"};
}

std::span<const Isa> available_isas() noexcept {
  return {detected().items.data(), detected().count};
}

Isa active_isa() noexcept {
  const int isa = forced.load(std::memory_order_relaxed);
  return isa != not_forced ? static_cast<Isa>(isa) : initial().isa;
}

Result<void> force_isa(Isa isa) {
  if (!detected().contains(isa)) return unavailable(isa);
  forced.store(static_cast<int>(isa), std::memory_order_relaxed);
  return {};
}

Result<void> check_isa_environment() { return initial().status; }

}  // namespace v0_1
}  // namespace krait
