#include "bench/support.hpp"

#include <cstdio>
#include <map>
#include <utility>

#include "krait/core/rng.hpp"

namespace krait::bench {
namespace {

const MachineMemory& weight_file() {
  static const MachineMemory memory = [] {
    // At least one head matrix must fit.
    const Index bytes = std::max(8 * last_level_cache_bytes(), Index{256} << 20);
    return MachineMemory::create(MemoryKind::file, std::min(bytes, Index{2} << 30)).value();
  }();
  return memory;
}

}  // namespace

RotatingWeights::RotatingWeights(DType dtype, Index rows, Index cols)
    : weights_{nullptr, dtype, rows, cols},
      bytes_((rows * cols * bytes_of(dtype) + 63) / 64 * 64) {}

kernels::DenseWeights RotatingWeights::next() {
  const MachineMemory& memory = weight_file();
  if (at_ + bytes_ > memory.size()) at_ = 0;
  weights_.data = memory.data() + at_;
  at_ += bytes_;
  return weights_;
}

std::vector<float> random_values(Index count, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(2.0 * random_uniform({.seed = seed, .position = i}) - 1.0);
  }
  return values;
}

double read_limit(Executor& executor) {
  static std::map<int, double> known;
  double& limit = known[executor.width()];
  if (limit == 0.0) limit = read_bandwidth(weight_file(), executor);
  return limit;
}

double fma_limit(Isa isa, Executor& executor) {
  static std::map<std::pair<Isa, int>, double> known;
  double& limit = known[{isa, executor.width()}];
  if (limit == 0.0) limit = fma_peak(isa, executor);
  return limit;
}

ForcedIsa::ForcedIsa(Isa isa) : before_(active_isa()) { force_isa(isa).value(); }

ForcedIsa::~ForcedIsa() { static_cast<void>(force_isa(before_)); }

std::vector<Isa> benchmarked_isas() {
  std::vector<Isa> result;
  for (const Isa isa : available_isas()) {
    if (isa != Isa::scalar) result.push_back(isa);
  }
  return result;
}

void count_items(benchmark::State& state, Index items) {
  using benchmark::Counter;
  // The inverse of a rate in units of 10^9 per second.
  state.counters["ns/item"] = Counter(1e-9 * static_cast<double>(items),
                                      Counter::kIsIterationInvariantRate | Counter::kInvert);
}

void count_bytes(benchmark::State& state, Index bytes, Executor& executor) {
  using benchmark::Counter;
  const double giga = static_cast<double>(bytes) * 1e-9;
  state.counters["GB/s"] = Counter(giga, Counter::kIsIterationInvariantRate);
  state.counters["%"] =
      Counter(100.0 * giga / read_limit(executor), Counter::kIsIterationInvariantRate);
}

void count_fma(benchmark::State& state, double count, Isa isa, Executor& executor) {
  using benchmark::Counter;
  const double giga = 2e-9 * count;
  state.counters["GFLOP/s"] = Counter(giga, Counter::kIsIterationInvariantRate);
  const double limit = fma_limit(isa, executor);
  if (limit > 0.0) {
    state.counters["%"] = Counter(100.0 * giga / limit, Counter::kIsIterationInvariantRate);
  }
}

}  // namespace krait::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  krait::bench::register_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
