// Singular value decompositions of large matrices, as the search for cuts needs them (krait laser
// --search): all singular values exactly, and the leading fifth of them nearly, in turns.

#include "krait/tools/low_rank.hpp"

#include <cmath>
#include <ctime>

#include "bench/support.hpp"

namespace krait::bench {
namespace {

struct Spectrum {
  const char* name;
  double power;  // singular values fall about as 1 / k^power
};

// A random matrix whose singular values fall like that, by a product of two.
std::vector<float> random_matrix(Index rows, Index cols, double power) {
  if (power == 0.0) return random_values(rows * cols, 1);
  LowRankFactors factors{cols, random_values(rows * cols, 1), random_values(cols * cols, 2)};
  for (std::size_t i = 0; i < factors.v.size(); ++i) {
    const auto k = static_cast<double>(i / static_cast<std::size_t>(cols));
    factors.v[i] *= static_cast<float>(std::pow(k + 1.0, -power));
  }
  return multiply(factors, rows, cols);
}

double sum_of_squares(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

// Each decomposition is the work of one thread.
double processor_seconds() {
  return static_cast<double>(std::clock()) / static_cast<double>(CLOCKS_PER_SEC);
}

void run_decompositions(benchmark::State& state, Index rows, Index cols, double power) {
  const std::vector<float> values = random_matrix(rows, cols, power);
  const MatrixView<const float> W(values.data(), rows, cols);
  const Index rank = std::min(rows, cols) / 5;
  for (auto _ : state) {
    const double begin = processor_seconds();
    const auto exact = decompose(W);
    const double between = processor_seconds();
    const auto quick = decompose_randomly(W, rank, 1);
    const double end = processor_seconds();
    if (!exact || !quick) return state.SkipWithError("cannot be decomposed");
    const double exact_seconds = between - begin;
    const double quick_seconds = end - between;
    state.SetIterationTime(quick_seconds);
    state.counters["exact_s"] = exact_seconds;
    state.counters["quick_s"] = quick_seconds;
    state.counters["ratio"] = exact_seconds / quick_seconds;
    // What the approximations of that rank lose, the quick one's over the best one's.
    const double all = sum_of_squares(values);
    const double best = sum_of_squares(std::span(exact->s).first(static_cast<std::size_t>(rank)));
    state.counters["loss"] = std::sqrt((all - sum_of_squares(quick->s)) / (all - best));
  }
}

}  // namespace

void register_benchmarks() {
  for (const auto& [rows, cols] : {std::pair<Index, Index>{768, 384}, {3072, 1536}, {5120, 2560}}) {
    for (const Spectrum& spectrum : {Spectrum{"random", 0.0}, Spectrum{"decaying", 0.7}}) {
      const std::string name = std::string("decompose/") + spectrum.name + '/' +
                               std::to_string(rows) + 'x' + std::to_string(cols);
      benchmark::RegisterBenchmark(name.c_str(), run_decompositions, rows, cols, spectrum.power)
          ->UseManualTime()
          ->Iterations(1)
          ->Unit(benchmark::kSecond);
    }
  }
}

}  // namespace krait::bench
