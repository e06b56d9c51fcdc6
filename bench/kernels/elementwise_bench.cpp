// Functions of single elements, from the first-level cache. The limit is the arithmetic of each.

#include "krait/kernels/elementwise.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/elementwise.hpp"

namespace krait::bench {
namespace {

using Unary = void (*)(std::span<const float>, std::span<float>) noexcept;

void run(benchmark::State& state, Unary kernel, Unary model, Isa isa) {
  constexpr Index n = 3072;
  const ForcedIsa forced(isa);
  auto x = random_values(n, 1);
  for (float& value : x) value *= 12.0F;
  std::vector<float> expected(x.size());
  std::vector<float> y(x.size());
  model(x, expected);
  kernel(x, y);
  if (std::memcmp(expected.data(), y.data(), x.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    kernel(x, y);
    benchmark::ClobberMemory();
  }
  count_items(state, n);
}

const struct {
  const char* name;
  Unary kernel;
  Unary model;
} cases[] = {{"exp", kernels::exp, ref::exp},
             {"log", kernels::log, ref::log},
             {"softplus", kernels::softplus, ref::softplus},
             {"sigmoid", kernels::sigmoid, ref::sigmoid},
             {"silu", kernels::silu, ref::silu},
             {"gelu", kernels::gelu, ref::gelu}};

}  // namespace

void register_benchmarks() {
  for (const auto& c : cases) {
    for (const Isa isa : benchmarked_isas()) {
      const std::string name = std::string(c.name) + '/' + std::string(to_string(isa));
      benchmark::RegisterBenchmark(name.c_str(), run, c.kernel, c.model, isa)->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
