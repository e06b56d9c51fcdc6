// Training: the products of a linear map's backward pass, and the recurrences'. One thread.

#include <cmath>
#include <cstring>
#include <string>

#include "bench/support.hpp"
#include "krait/kernels/ref/lanes.hpp"
#include "training/products.hpp"
#include "training/scan_backward.hpp"
#include "training/ssd_backward.hpp"

namespace krait::bench {
namespace {

// dx = dy W, or dW += dyᵀ x.
enum class Part { inputs, weights };

// The first element by section 2 of the numeric contract.
float first_element(Part part, std::span<const float> W, std::span<const float> x,
                    std::span<const float> dy, MatrixShape shape, Index tokens) {
  ref::Lanes lanes{};
  const Index count = part == Part::inputs ? shape.rows : tokens;
  for (Index k = 0; k < count; ++k) {
    const auto at = [&](Index stride) { return static_cast<std::size_t>(k * stride); };
    float& lane = lanes[static_cast<std::size_t>(k % 16)];
    lane = part == Part::inputs ? std::fma(W[at(shape.cols)], dy[at(1)], lane)
                                : std::fma(x[at(shape.cols)], dy[at(shape.rows)], lane);
  }
  return ref::reduce(lanes);
}

void run_product(benchmark::State& state, MatrixShape shape, Isa isa, Index tokens, Part part) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  Workspace memory;
  const auto W = random_values(shape.rows * shape.cols, 1);
  const auto x = random_values(tokens * shape.cols, 2);
  const auto dy = random_values(tokens * shape.rows, 3);
  std::vector<float> dx(x.size());
  std::vector<float> dW(W.size());
  training::LinearBackward args{.weights = {.W = W.data()},
                                .out = shape.rows,
                                .in = shape.cols,
                                .x = {x.data(), tokens, shape.cols},
                                .dy = {dy.data(), tokens, shape.rows},
                                .dx = {}};
  if (part == Part::inputs) {
    args.dx = {dx.data(), tokens, shape.cols};
  } else {
    args.weights.dW = dW.data();
  }
  training::linear_backward({serial, memory}, args);
  if ((part == Part::inputs ? dx : dW).front() != first_element(part, W, x, dy, shape, tokens)) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    training::linear_backward({serial, memory}, args);
    benchmark::ClobberMemory();
  }
  count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
}

// 64 channels of mamba-130m.
void run_scan(benchmark::State& state, Isa isa, Index T) {
  const ForcedIsa forced(isa);
  constexpr Index E = kernels::scan_group;
  constexpr Index N = 16;
  const auto u = random_values(T * E, 1);
  const auto dt = random_values(T * E, 2);
  const auto BC = random_values(T * 2 * N, 3);
  const auto z = random_values(T * E, 4);
  const auto dy = random_values(T * E, 5);
  const auto D = random_values(E, 6);
  std::vector<float> A(static_cast<std::size_t>(kernels::scan_size(E, N)), -0.7F);
  std::vector<float> y(u.size()), du(u.size()), ddt(u.size()), dz(u.size()), dBC(BC.size());
  std::vector<float> dA(A.size()), dh(A.size()), dD(D.size());
  std::vector<float> memory(static_cast<std::size_t>(kernels::scan_backward_memory(T, N)));
  const kernels::ScanBackwardArgs args{.u = {u.data(), T, E},
                                       .dt_raw = {dt.data(), T, E},
                                       .B = {BC.data(), T, N, 2 * N},
                                       .C = {BC.data() + N, T, N, 2 * N},
                                       .z = {z.data(), T, E},
                                       .A = A.data(),
                                       .D = D.data(),
                                       .d_state = N,
                                       .dy = {dy.data(), T, E},
                                       .y = {y.data(), T, E},
                                       .du = {du.data(), T, E},
                                       .ddt_raw = {ddt.data(), T, E},
                                       .dz = {dz.data(), T, E},
                                       .dBC = {dBC.data(), T, 2 * N},
                                       .dA_log = dA.data(),
                                       .dD = dD.data(),
                                       .dh = dh.data(),
                                       .memory = memory,
                                       .channels = {0, E}};
  ref::selective_scan_backward(args);
  const std::vector<float> expected = du;
  std::ranges::fill(dh, 0.0F);
  kernels::selective_scan_backward(args);
  if (std::memcmp(expected.data(), du.data(), du.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    std::ranges::fill(dh, 0.0F);
    kernels::selective_scan_backward(args);
    benchmark::ClobberMemory();
  }
  count_items(state, T * E * N);
}

// A head of mamba2-130m. States in front of chunks are zeros, as if every chunk began a text.
void run_ssd(benchmark::State& state, Isa isa, Index T) {
  const ForcedIsa forced(isa);
  constexpr Index P = 64;
  constexpr Index N = 128;
  const auto x = random_values(T * P, 1);
  const auto dy = random_values(T * P, 2);
  const auto BC = random_values(T * 2 * N, 3);
  const std::vector<float> dt(static_cast<std::size_t>(T), 0.1F);
  const auto D = random_values(1, 5);
  const Index chunks = (T + kernels::ssd_chunk - 1) / kernels::ssd_chunk;
  const std::vector<float> states(static_cast<std::size_t>(chunks * P * N));
  std::vector<float> dx(x.size()), ddt(dt.size()), dBC(BC.size());
  std::vector<float> dD(static_cast<std::size_t>(P)), dstate(static_cast<std::size_t>(P * N));
  std::vector<float> memory(static_cast<std::size_t>(kernels::ssd_backward_memory(N)));
  float dA = 0.0F;
  const kernels::SsdBackwardArgs args{.x = {x.data(), T, P},
                                      .dy = {dy.data(), T, P},
                                      .B = {BC.data(), T, N, 2 * N},
                                      .C = {BC.data() + N, T, N, 2 * N},
                                      .dt = dt,
                                      .A = -1.3F,
                                      .D = D.data(),
                                      .states = states.data(),
                                      .state_stride = P * N,
                                      .dx = {dx.data(), T, P},
                                      .ddt = ddt,
                                      .dBC = {dBC.data(), T, 2 * N},
                                      .dA_log = &dA,
                                      .dD = dD.data(),
                                      .dstate = dstate.data(),
                                      .memory = memory};
  // The model keeps all states, so that it is asked for the first chunk alone.
  if (T == kernels::ssd_chunk) {
    ref::ssd_backward(args);
    const std::vector<float> expected = dx;
    std::ranges::fill(dstate, 0.0F);
    kernels::ssd_backward(args);
    if (std::memcmp(expected.data(), dx.data(), dx.size() * sizeof(float)) != 0) {
      return state.SkipWithError("differs from the model");
    }
  }
  for (auto _ : state) {
    std::ranges::fill(dstate, 0.0F);
    kernels::ssd_backward(args);
    benchmark::ClobberMemory();
  }
  count_items(state, T * P * N);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    const std::string level = '/' + std::string(to_string(isa));
    for (const Index tokens : {128, 512}) {
      const std::string suffix = level + '/' + std::to_string(tokens);
      for (const MatrixShape shape : mamba_130m) {
        if (shape.rows > 4096) continue;  // the head's tokens come in blocks, which are no other
        for (const auto& [name, part] :
             {std::pair{"inputs/", Part::inputs}, {"weights/", Part::weights}}) {
          benchmark::RegisterBenchmark((name + std::string(shape.name) + suffix).c_str(),
                                       run_product, shape, isa, tokens, part)
              ->MinTime(0.1);
        }
      }
      benchmark::RegisterBenchmark(("scan" + suffix).c_str(), run_scan, isa, tokens)->MinTime(0.1);
    }
    for (const Index tokens : {kernels::ssd_chunk, Index{512}}) {
      benchmark::RegisterBenchmark(("ssd" + level + '/' + std::to_string(tokens)).c_str(), run_ssd,
                                   isa, tokens)
          ->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
