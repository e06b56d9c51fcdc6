#pragma once

/// \file
/// What this machine can do at most: read bandwidth and multiply-add rate.
///
/// Speeds of models and kernels are meaningful only beside these, measured on the same machine,
/// preferably in the same minute.

#include <cstddef>
#include <vector>

#include "krait/core/cpu.hpp"
#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

/// Kinds of memory that weights may lie in.
enum class MemoryKind {
  file,        ///< a mapped file in the page cache, small pages: what krait's weights are
  huge_pages,  ///< anonymous memory, huge pages where the system gives them
};

/// Memory filled with the bytes of small floats, whose pages are all present.
class MachineMemory {
 public:
  /// Errors: bad_argument (less than 256 bytes), io_failed (no temporary file, or no room for it),
  /// no_memory, unsupported (a system that is no Unix).
  static Result<MachineMemory> create(MemoryKind kind, Index bytes);
  MachineMemory(MachineMemory&& other) noexcept;
  MachineMemory& operator=(MachineMemory&& other) noexcept;
  ~MachineMemory();

  const std::byte* data() const noexcept { return data_; }
  Index size() const noexcept { return size_; }

 private:
  MachineMemory(std::byte* data, Index size) noexcept : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  Index size_ = 0;
};

/// Bytes of the largest cache; 32 MiB where the system does not tell.
Index last_level_cache_bytes();

/// GB/s of one pass of plain vector loads over the memory, split evenly over the executor's width;
/// the best of `repeats`.
double read_bandwidth(const MachineMemory& memory, Executor& executor, int repeats = 10);

/// GFLOP/s of independent f32 multiply-adds on registers with the vectors of `isa`, all threads of
/// the executor together; the best of `repeats`, which last a quarter of a second, longer than a
/// thread was seen to wait for a processor. 0 for levels without such an instruction.
double fma_peak(Isa isa, Executor& executor, int repeats = 100);

/// The same of products of two bf16 that are added to an f32 (from avx512_bf16 on), and of products
/// of two 8-bit integers that are added to one of 32 bits (from avx512_vnni on; avx512_amx on whole
/// tiles), in 10^9 multiplications and additions per second. 0 for levels without such an
/// instruction.
double bf16_peak(Isa isa, Executor& executor, int repeats = 100);
double int8_peak(Isa isa, Executor& executor, int repeats = 100);

/// One line of the table.
struct RooflinePoint {
  int threads = 0;
  double file_read = 0.0;  ///< GB/s
  double huge_read = 0.0;  ///< GB/s
  double fma = 0.0;        ///< GFLOP/s
  double bf16 = 0.0;       ///< GFLOP/s, 0 without its instruction
  double int8 = 0.0;       ///< 10^9 operations per second, 0 without its instruction
};

struct Roofline {
  Isa isa = Isa::scalar;
  Index buffer_bytes = 0;
  std::vector<RooflinePoint> points;  ///< for 1 … n threads
};

/// Measures at 1 … `max_threads` threads over eight times the last-level cache.
Result<Roofline> measure_roofline(int max_threads);

}  // namespace v0_1
}  // namespace krait
