#pragma once

/// \file
/// What this machine can do at most: read bandwidth and f32 multiply-add rate.
///
/// Speeds of kernels are meaningful only beside these, measured on the same machine, preferably in
/// the same minute.

#include <cstddef>
#include <span>
#include <vector>

#include "krait/core/cpu.hpp"
#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"

namespace krait::bench {

/// Kinds of memory that weights may lie in.
enum class MemoryKind {
  file,        ///< a mapped file in the page cache, small pages: what krait's weights are
  huge_pages,  ///< anonymous memory, huge pages where the system gives them
};

/// Memory filled with the bytes of small floats, whose pages are all present.
class Memory {
 public:
  static Result<Memory> create(MemoryKind kind, Index bytes);
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  const std::byte* data() const noexcept { return data_; }
  Index size() const noexcept { return size_; }

 private:
  Memory(std::byte* data, Index size) noexcept : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  Index size_ = 0;
};

/// Bytes of the largest cache; 32 MiB where the system does not tell.
Index last_level_cache_bytes();

/// GB/s of one pass of plain vector loads over the memory, split evenly over the executor's width;
/// the best of `repeats`.
double read_bandwidth(const Memory& memory, Executor& executor, int repeats = 10);

/// GFLOP/s of independent f32 multiply-adds on registers with the vectors of `isa`, all threads of
/// the executor together; the best of `repeats`, which last a quarter of a second, longer than a
/// thread was seen to wait for a processor. 0 for levels without such an instruction.
double fma_peak(Isa isa, Executor& executor, int repeats = 100);

/// One line of the table.
struct RooflinePoint {
  int threads = 0;
  double file_read = 0.0;  ///< GB/s
  double huge_read = 0.0;  ///< GB/s
  double fma = 0.0;        ///< GFLOP/s
};

struct Roofline {
  Isa isa = Isa::scalar;
  Index buffer_bytes = 0;
  std::vector<RooflinePoint> points;  ///< for 1 … n threads
};

/// Measures at 1 … `max_threads` threads over eight times the last-level cache.
Result<Roofline> measure_roofline(int max_threads);

}  // namespace krait::bench
