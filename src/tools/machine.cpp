#include "krait/tools/machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "kernels/amx_tiles.hpp"
#include "krait/core/thread_pool.hpp"

#if defined(__unix__)
#  include <sys/mman.h>
#  include <unistd.h>
#endif

#if defined(__x86_64__)
#  include <immintrin.h>
#elif defined(__aarch64__)
#  include <arm_neon.h>
#endif

namespace krait {
inline namespace v0_1 {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Results go here, so that the loops are not removed.
std::atomic<float> sink{0.0F};

// --- reading -------------------------------------------------------------------------------------

// A core reads at this many places at a time: from one place alone it gets less than memory gives.
constexpr int streams = 4;

#if defined(__x86_64__)

__attribute__((target("avx512f"))) float read_avx512(const std::byte* p, Index apart) {
  __m512i sum[streams] = {};
  for (const std::byte* end = p + apart; p != end; p += 64) {
    for (int i = 0; i < streams; ++i) {
      sum[i] = _mm512_xor_si512(sum[i], _mm512_loadu_si512(p + i * apart));
    }
  }
  const __m512i all =
      _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
  alignas(64) std::int32_t lanes[16];
  _mm512_store_si512(lanes, all);
  return static_cast<float>(lanes[0] ^ lanes[7] ^ lanes[15]);
}

__attribute__((target("avx2"))) float read_avx2(const std::byte* p, Index apart) {
  __m256i sum[streams] = {};
  for (const std::byte* end = p + apart; p != end; p += 64) {
    for (int i = 0; i < streams; ++i) {
      const auto* at = reinterpret_cast<const __m256i*>(p + i * apart);
      sum[i] = _mm256_xor_si256(sum[i], _mm256_loadu_si256(at));
      sum[i] = _mm256_xor_si256(sum[i], _mm256_loadu_si256(at + 1));
    }
  }
  const __m256i all =
      _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  return static_cast<float>(_mm256_extract_epi32(all, 0) ^ _mm256_extract_epi32(all, 7));
}

#endif

// The compiler's baseline vectors.
float read_baseline(const std::byte* p, Index apart) {
  using Wide = std::uint64_t __attribute__((vector_size(16)));
  Wide sum[streams] = {};
  for (const std::byte* end = p + apart; p != end; p += 64) {
    for (int i = 0; i < streams; ++i) {
      for (int part = 0; part < 64; part += 16) {
        Wide value;
        std::memcpy(&value, p + i * apart + part, sizeof value);
        sum[i] ^= value;
      }
    }
  }
  const Wide all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  return static_cast<float>(all[0] ^ all[1]);
}

float read_all(const std::byte* p, Index bytes) {
  const Index apart = bytes / (64 * streams) * 64;
#if defined(__x86_64__)
  const Isa best = available_isas().back();
  if (best >= Isa::avx512) return read_avx512(p, apart);
  if (best >= Isa::avx2) return read_avx2(p, apart);
#endif
  return read_baseline(p, apart);
}

// --- multiplying ---------------------------------------------------------------------------------

// Twelve chains hide a latency of six cycles on two units, the longest in use.
constexpr int chains = 12;
constexpr Index rounds_of_loop = 200'000;  // about a millisecond: short enough to be left alone

// A loop of multiply-adds on registers, and how many of them one instruction does.
struct MultiplyLoop {
  float (*run)(Index rounds) = nullptr;
  int per_instruction = 0;
};

#if defined(__x86_64__)

__attribute__((target("avx512f"))) float fma_avx512(Index rounds) {
  __m512 acc[chains];
  for (int i = 0; i < chains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.5F);
  for (Index k = 0; k < rounds; ++k) {
    for (int i = 0; i < chains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], factor, factor);
  }
  float sum = 0.0F;
  for (int i = 0; i < chains; ++i) sum += _mm512_cvtss_f32(acc[i]);
  return sum;
}

__attribute__((target("avx512f,avx512bf16"))) float bf16_avx512(Index rounds) {
  __m512 acc[chains];
  for (int i = 0; i < chains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  // Pairs of 2^-64: the sums stay what they are.
  const __m512i bits = _mm512_set1_epi32(0x1F801F80);
  const __m512bh factor = reinterpret_cast<__m512bh>(bits);
  for (Index k = 0; k < rounds; ++k) {
    for (int i = 0; i < chains; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], factor, factor);
  }
  float sum = 0.0F;
  for (int i = 0; i < chains; ++i) sum += _mm512_cvtss_f32(acc[i]);
  return sum;
}

__attribute__((target("avx512f,avx512vnni"))) float int8_avx512(Index rounds) {
  __m512i acc[chains];
  for (int i = 0; i < chains; ++i) acc[i] = _mm512_set1_epi32(i);
  const __m512i factor = _mm512_set1_epi8(1);
  for (Index k = 0; k < rounds; ++k) {
    for (int i = 0; i < chains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], factor, factor);
  }
  std::int32_t sum = 0;
  for (int i = 0; i < chains; ++i) sum ^= _mm512_cvtsi512_si32(acc[i]);
  return static_cast<float>(sum);
}

// On zeros: neither their time nor the result depends on the numbers.
__attribute__((target("amx-tile,amx-int8"))) float int8_amx(Index rounds) {
  kernels::TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.set(tile, 16, 64);
  kernels::set_tile_shapes(shapes);
  for (Index k = 0; k < rounds; k += 2 * chains) {
    for (int i = 0; i < 4; ++i) {
      _tile_dpbssd(0, 6, 7);
      _tile_dpbssd(1, 6, 7);
      _tile_dpbssd(2, 6, 7);
      _tile_dpbssd(3, 6, 7);
      _tile_dpbssd(4, 6, 7);
      _tile_dpbssd(5, 6, 7);
    }
  }
  alignas(64) std::int32_t sums[16 * 16];
  _tile_stored(0, sums, 64);
  _tile_release();
  return static_cast<float>(sums[0]);
}

__attribute__((target("avx2,fma"))) float fma_avx2(Index rounds) {
  __m256 acc[chains];
  for (int i = 0; i < chains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.5F);
  for (Index k = 0; k < rounds; ++k) {
    for (int i = 0; i < chains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], factor, factor);
  }
  float sum = 0.0F;
  for (int i = 0; i < chains; ++i) sum += _mm256_cvtss_f32(acc[i]);
  return sum;
}

#elif defined(__aarch64__)

float fma_neon(Index rounds) {
  constexpr int twice = 2 * chains;  // up to four units
  float32x4_t acc[twice];
  for (int i = 0; i < twice; ++i) acc[i] = vdupq_n_f32(static_cast<float>(i));
  const float32x4_t factor = vdupq_n_f32(0.5F);
  for (Index k = 0; k < rounds / 2; ++k) {
    for (int i = 0; i < twice; ++i) acc[i] = vfmaq_f32(factor, acc[i], factor);
  }
  float sum = 0.0F;
  for (int i = 0; i < twice; ++i) sum += vgetq_lane_f32(acc[i], 0);
  return sum;
}

#endif

MultiplyLoop fma_loop(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return {fma_avx512, 16};
  if (isa == Isa::avx2) return {fma_avx2, 8};
#elif defined(__aarch64__)
  if (isa == Isa::neon) return {fma_neon, 4};
#endif
  static_cast<void>(isa);
  return {};
}

MultiplyLoop bf16_loop(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512_bf16) return {bf16_avx512, 32};
#endif
  static_cast<void>(isa);
  return {};
}

MultiplyLoop int8_loop(Isa isa) {
#if defined(__x86_64__)
  // One instruction where the loop of others has `chains`.
  if (isa >= Isa::avx512_amx) return {int8_amx, 16 * 16 * 64 / chains};
  if (isa >= Isa::avx512_vnni) return {int8_avx512, 64};
#endif
  static_cast<void>(isa);
  return {};
}

// The shortest time of one run of task(0) … task(width - 1).
template <class Task>
double best_seconds(Executor& executor, int repeats, Task task) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    executor.run(executor.width(), task);
    best = std::min(best, seconds_since(start));
  }
  return best;
}

// 10^9 multiplications and additions per second.
double peak(const MultiplyLoop& loop, Executor& executor, int repeats) {
  if (loop.run == nullptr) return 0.0;
  const double seconds = best_seconds(executor, repeats, [&](int) {
    sink.store(loop.run(rounds_of_loop), std::memory_order_relaxed);
  });
  const double flop = 2.0 * chains * loop.per_instruction * static_cast<double>(rounds_of_loop);
  return flop * executor.width() / seconds * 1e-9;
}

// --- memory --------------------------------------------------------------------------------------

// Halves that are ordinary numbers as bf16, as f16, and in pairs as f32. The period is odd, so that
// no two rows of a matrix are equal.
void fill(std::byte* data, std::size_t size) {
  std::uint32_t state = 12345;
  std::uint16_t block[4099];
  for (std::uint16_t& half : block) {
    state = state * 1664525U + 1013904223U;
    half = static_cast<std::uint16_t>(0x3C00U | ((state >> 16U) & 0x81FFU));
  }
  for (std::size_t at = 0; at < size; at += sizeof block) {
    std::memcpy(data + at, block, std::min(sizeof block, size - at));
  }
}

Error system_error(ErrorCode code, std::string_view what) {
  const int number = errno;
  return {code,
          fmt::format("[machine] {}: expected success, found: {}", what, std::strerror(number))};
}

#if defined(__unix__)

Result<std::byte*> map_huge_pages(std::size_t size) {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return system_error(ErrorCode::no_memory, "anonymous memory");
#  if defined(MADV_HUGEPAGE)
  madvise(data, size, MADV_HUGEPAGE);  // advice: small pages serve as well
#  endif
  auto* bytes = static_cast<std::byte*>(data);
  fill(bytes, size);
  return bytes;
}

struct CloseFile {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};

// Writes a file without a name, in the folder that the system has for such files, and maps it.
Result<std::byte*> map_file(std::size_t size) {
  const std::unique_ptr<std::FILE, CloseFile> file(std::tmpfile());
  if (!file) return system_error(ErrorCode::io_failed, "temporary file");
  std::vector<std::byte> chunk(std::size_t{1} << 20U);
  fill(chunk.data(), chunk.size());
  for (std::size_t written = 0; written < size;) {
    const std::size_t part = std::min(chunk.size(), size - written);
    if (std::fwrite(chunk.data(), 1, part, file.get()) != part) {
      return system_error(ErrorCode::io_failed, "write of a temporary file");
    }
    written += part;
  }
  if (std::fflush(file.get()) != 0) {
    return system_error(ErrorCode::io_failed, "write of a temporary file");
  }
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fileno(file.get()), 0);
  if (data == MAP_FAILED) return system_error(ErrorCode::no_memory, "mapping of a temporary file");
  sink = read_all(static_cast<std::byte*>(data), static_cast<Index>(size));
  return static_cast<std::byte*>(data);
}

#endif

}  // namespace

Result<MachineMemory> MachineMemory::create(MemoryKind kind, Index bytes) {
  if (bytes < 64 * streams) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[machine] memory: expected at least {} bytes, found {}", 64 * streams, bytes)};
  }
#if defined(__unix__)
  const auto size = static_cast<std::size_t>(bytes);
  std::byte* data = nullptr;
  KRAIT_ASSIGN_OR_RETURN(data, kind == MemoryKind::file ? map_file(size) : map_huge_pages(size));
  return MachineMemory(data, bytes);
#else
  static_cast<void>(kind);
  return Error{ErrorCode::unsupported, "[machine] memory: expected a Unix system, found another"};
#endif
}

MachineMemory::MachineMemory(MachineMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MachineMemory& MachineMemory::operator=(MachineMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MachineMemory::~MachineMemory() {
#if defined(__unix__)
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(size_));
#endif
}

Index last_level_cache_bytes() {
  Index largest = 0;
  // The C library's figure for the third level is that of all cores of some processors together.
  for (int i = 0; i < 8; ++i) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/size");
    Index count = 0;
    char unit = ' ';
    if (!(file >> count >> unit)) break;
    largest = std::max(largest, unit == 'M' ? count << 20 : count << 10);
  }
  return largest > 0 ? largest : Index{32} << 20;
}

double read_bandwidth(const MachineMemory& memory, Executor& executor, int repeats) {
  const Index width = executor.width();
  const double seconds = best_seconds(executor, repeats, [&](int i) {
    const Index begin = memory.size() * i / width / 64 * 64;
    const Index end = memory.size() * (i + 1) / width / 64 * 64;
    sink.store(read_all(memory.data() + begin, end - begin), std::memory_order_relaxed);
  });
  return static_cast<double>(memory.size()) / seconds * 1e-9;
}

double fma_peak(Isa isa, Executor& executor, int repeats) {
  return peak(fma_loop(isa), executor, repeats);
}

double bf16_peak(Isa isa, Executor& executor, int repeats) {
  return peak(bf16_loop(isa), executor, repeats);
}

double int8_peak(Isa isa, Executor& executor, int repeats) {
  return peak(int8_loop(isa), executor, repeats);
}

Result<Roofline> measure_roofline(int max_threads) {
  Roofline result;
  result.isa = available_isas().back();
  // Beyond 2 GiB a larger buffer tells nothing more.
  result.buffer_bytes = std::min(8 * last_level_cache_bytes(), Index{2} << 30);
  result.points.resize(static_cast<std::size_t>(std::max(max_threads, 1)));
  const auto for_each_width = [&](auto measure) {
    for (std::size_t i = 0; i < result.points.size(); ++i) {
      result.points[i].threads = static_cast<int>(i) + 1;
      ThreadPool pool(result.points[i].threads);
      measure(result.points[i], pool);
    }
  };
  {
    Result<MachineMemory> file = MachineMemory::create(MemoryKind::file, result.buffer_bytes);
    if (!file) return std::move(file).error();
    for_each_width([&](RooflinePoint& p, Executor& e) { p.file_read = read_bandwidth(*file, e); });
  }
  {
    Result<MachineMemory> huge = MachineMemory::create(MemoryKind::huge_pages, result.buffer_bytes);
    if (!huge) return std::move(huge).error();
    for_each_width([&](RooflinePoint& p, Executor& e) { p.huge_read = read_bandwidth(*huge, e); });
  }
  for_each_width([&](RooflinePoint& p, Executor& e) {
    p.fma = fma_peak(result.isa, e);
    p.bf16 = bf16_peak(result.isa, e);
    p.int8 = int8_peak(result.isa, e);
  });
  return result;
}

}  // namespace v0_1
}  // namespace krait
