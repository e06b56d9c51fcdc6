#pragma once

/// \file
/// What the kernel benchmarks share. `support.cpp` has `main`, which calls `register_benchmarks` of
/// the program.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/kernels/matvec.hpp"
#include "krait/tools/machine.hpp"

namespace krait::bench {

/// Defined by each benchmark program.
void register_benchmarks();

/// A weight matrix of a published model.
struct MatrixShape {
  const char* name;
  Index rows;
  Index cols;
};

/// The matrices of mamba-130m.
inline constexpr MatrixShape mamba_130m[] = {{"in_proj", 3072, 768},
                                             {"x_proj", 80, 1536},
                                             {"dt_proj", 1536, 48},
                                             {"out_proj", 768, 1536},
                                             {"head", 50280, 768}};

inline constexpr DType weight_types[] = {DType::f32, DType::bf16, DType::f16};

/// Matrices at changing places of a mapped file that is larger than the last-level cache, so that
/// a matrix comes from memory each time, as in decoding.
class RotatingWeights {
 public:
  RotatingWeights(DType dtype, Index rows, Index cols);
  /// The matrix after the last one; begins anew at the end of the file.
  kernels::DenseWeights next();

 private:
  kernels::DenseWeights weights_;
  Index bytes_;
  Index at_ = 0;
};

/// Values in [-1, 1).
std::vector<float> random_values(Index count, std::uint64_t seed);

/// The machine's limits, measured at first use: GB/s of a mapped file, GFLOP/s of the level.
double read_limit(Executor& executor);
double fma_limit(Isa isa, Executor& executor);

/// Whether `kernel` gives the bits of `model` for the first rows of W, which is all that the slow
/// model is asked for.
template <class Args>
bool equals_model(Args args, void (*kernel)(const Args&) noexcept,
                  void (*model)(const Args&) noexcept) {
  args.outputs.end = std::min<Index>(args.W.rows, 32);
  const auto size = static_cast<std::size_t>(args.y.rows * args.W.rows);
  std::vector<float> expected(size);
  std::vector<float> actual(size);
  args.y.data = actual.data();
  kernel(args);
  args.y.data = expected.data();
  model(args);
  return std::memcmp(expected.data(), actual.data(), size * sizeof(float)) == 0;
}

/// Forces the level for the length of a benchmark.
class ForcedIsa {
 public:
  explicit ForcedIsa(Isa isa);
  ~ForcedIsa();
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;

 private:
  Isa before_;
};

/// The vector levels of this machine.
std::vector<Isa> benchmarked_isas();

/// Sets the counter ns/item, from items per iteration.
void count_items(benchmark::State& state, Index items);

/// Sets the counters GB/s and percent of the read limit, from bytes per iteration.
void count_bytes(benchmark::State& state, Index bytes, Executor& executor);

/// Sets the counters GFLOP/s and percent of the multiply-add peak, from multiply-adds per
/// iteration.
void count_fma(benchmark::State& state, double count, Isa isa, Executor& executor);

}  // namespace krait::bench
