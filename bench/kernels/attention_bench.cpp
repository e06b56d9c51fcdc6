// Attention of one layer. A step reads the keys and values of all tokens from memory, a prompt is
// limited by two multiply-adds per element of a head, query and key: whichever takes longer is what
// a result is compared with. One item is one query and key.

#include "krait/kernels/attention.hpp"

#include <cmath>
#include <cstring>
#include <span>

#include "bench/support.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/kernels/ref/attention.hpp"

namespace krait::bench {
namespace {

constexpr Index page_tokens = kernels::attention_page_tokens;

struct Extents {
  const char* name;
  Index n_head;
  Index n_kv_head;
  Index d_head;
  DType dtype = DType::f32;                                               // of keys and values
  Index row() const { return n_kv_head * d_head * bytes_of(dtype) / 4; }  // units of 4 bytes
  Index page() const { return 2 * page_tokens * row(); }
};

// Of published models: heads of their own, and four, seven, three (Granite-4-H-1B) and four
// (Jamba-mini) heads that share keys.
constexpr Extents shapes[] = {{"32x128", 32, 32, 128},
                              {"32/8x64", 32, 8, 64},
                              {"28/4x128", 28, 4, 128},
                              {"12/4x128", 12, 4, 128},
                              {"32/8x128", 32, 8, 128}};

// Every page is a block of memory of its own, as in a cache.
struct Layer {
  std::vector<AlignedBuffer<float>> pages;
  std::vector<const float*> data;

  Layer(const Extents& shape, Index context, std::uint64_t seed) {
    const Index size = page_tokens * 2 * shape.n_kv_head * shape.d_head;
    const auto values = random_values(2 * size, seed);
    for (Index j = 0; j < context; j += page_tokens) {
      pages.emplace_back(shape.page());
      // Not the same in each page.
      const auto part = std::span(values).subspan(static_cast<std::size_t>(j * 7 % size),
                                                  static_cast<std::size_t>(size));
      kernels::store_attention_row(part, shape.dtype, pages.back().data());
      data.push_back(pages.back().data());
    }
  }
};

Index layer_bytes(const Extents& shape, Index context) {
  return context * 2 * shape.row() * static_cast<Index>(sizeof(float));
}

// As many as make each come from memory when its turn comes again.
Index layers_from_memory(Index bytes) { return 4 * last_level_cache_bytes() / bytes + 1; }

std::vector<Layer> make_layers(const Extents& shape, Index context, Index count) {
  std::vector<Layer> layers;
  for (Index i = 0; i < count; ++i) {
    layers.emplace_back(shape, context, static_cast<std::uint64_t>(i + 2));
  }
  return layers;
}

struct Problem {
  Extents shape;
  Index tokens;
  Index context;
  Index width = shape.n_head * shape.d_head;
  std::vector<float> q = random_values(tokens * width, 1);
  std::vector<float> y = std::vector<float>(static_cast<std::size_t>(tokens * width));
  AlignedBuffer<float> scratch = AlignedBuffer<float>(scratch_floats());

  Index scratch_floats() const {
    return kernels::attention_scratch(tokens, context, shape.n_head, shape.n_kv_head, shape.d_head);
  }
  kernels::AttentionArgs args(const Layer& layer) {
    return {.q = {q.data(), tokens, width},
            .pages = layer.data,
            .dtype = shape.dtype,
            .value_offset = shape.page() / 2,
            .row_stride = shape.row(),
            .position = context - tokens,
            .n_head = shape.n_head,
            .n_kv_head = shape.n_kv_head,
            .d_head = shape.d_head,
            .scale = 4.0F / std::sqrt(static_cast<float>(shape.d_head)),
            .y = {y.data(), tokens, width},
            .scratch = {scratch.data(), static_cast<std::size_t>(scratch.size())},
            .heads = {0, shape.n_head}};
  }
};

void run(benchmark::State& state, Isa isa, const Extents& shape, Index tokens, Index context) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  Problem problem{.shape = shape, .tokens = tokens, .context = context};
  const Index bytes = layer_bytes(shape, context);
  Index pairs = 0;
  for (Index t = 0; t < tokens; ++t) pairs += context - tokens + t + 1;
  const auto fma = static_cast<double>(2 * pairs * shape.n_head * shape.d_head);
  const bool is_read =
      static_cast<double>(bytes) / read_limit(serial) > 2.0 * fma / fma_limit(isa, serial);
  const std::vector<Layer> layers =
      make_layers(shape, context, is_read ? layers_from_memory(bytes) : 1);
  {
    // One group of heads and the last tokens: the model is slow.
    auto args = problem.args(layers[0]);
    args.heads.end = shape.n_head / shape.n_kv_head;
    const Index rows = std::min<Index>(tokens, 4);
    auto last = args;
    last.q = args.q.rows_from(tokens - rows, rows);
    last.y = args.y.rows_from(tokens - rows, rows);
    last.position += tokens - rows;
    ref::attention(last);
    const auto expected = problem.y;
    std::fill(problem.y.begin(), problem.y.end(), 0.0F);
    kernels::attention(args);
    const auto size = static_cast<std::size_t>(rows * problem.width);
    if (std::memcmp(expected.data() + expected.size() - size, last.y.data, size * sizeof(float)) !=
        0) {
      return state.SkipWithError("differs from the model");
    }
  }
  std::size_t layer = 0;
  for (auto _ : state) {
    kernels::attention(problem.args(layers[layer]));
    layer = layer + 1 == layers.size() ? 0 : layer + 1;
    benchmark::ClobberMemory();
  }
  count_items(state, pairs * shape.n_head);
  is_read ? count_bytes(state, bytes, serial) : count_fma(state, fma, isa, serial);
}

// A step as a model makes it, the heads shared between two threads.
void run_shared(benchmark::State& state, Isa isa, const Extents& shape, Index context) {
  const ForcedIsa forced(isa);
  ThreadPool pool(2);
  Problem problem{.shape = shape, .tokens = 1, .context = context};
  AlignedBuffer<float> scratch(2 * problem.scratch_floats());
  const Index bytes = layer_bytes(shape, context);
  const std::vector<Layer> layers = make_layers(shape, context, layers_from_memory(bytes));
  const Index group = shape.n_head / shape.n_kv_head;
  const Index half = shape.n_kv_head / 2;
  std::size_t layer = 0;
  for (auto _ : state) {
    parallel_for_blocks(pool, shape.n_kv_head, half, [&](Range heads, int /*task*/) {
      auto args = problem.args(layers[layer]);
      args.heads = {heads.begin * group, heads.end * group};
      args.scratch = {scratch.data() + heads.begin / half * problem.scratch_floats(),
                      args.scratch.size()};
      kernels::attention(args);
    });
    layer = layer + 1 == layers.size() ? 0 : layer + 1;
    benchmark::ClobberMemory();
  }
  count_items(state, context * shape.n_head);
  count_bytes(state, bytes, pool);
}

// The limit of a step: one element of every cache line of the same memory, page after page, at four
// places of a page at a time.
void read_lines(benchmark::State& state, const Extents& shape, Index context) {
  SerialExecutor serial;
  const Index bytes = layer_bytes(shape, context);
  const std::vector<Layer> layers = make_layers(shape, context, layers_from_memory(bytes));
  std::size_t layer = 0;
  for (auto _ : state) {
    float sums[4] = {};
    const Index apart = shape.page() / 4;
    for (const float* page : layers[layer].data) {
      for (Index i = 0; i < apart; i += 16) {
        for (Index k = 0; k < 4; ++k) sums[k] += page[k * apart + i];
      }
    }
    benchmark::DoNotOptimize(sums);
    layer = layer + 1 == layers.size() ? 0 : layer + 1;
  }
  count_bytes(state, bytes, serial);
}

}  // namespace

void register_benchmarks() {
  // A step late in a long text, by the type of keys and values.
  constexpr Index long_context = 32768;
  for (const Extents& wide : shapes) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      Extents shape = wide;
      shape.dtype = dtype;
      const std::string name =
          std::string("/") + shape.name + '/' + std::string(to_string(dtype)) + "/1_of_32768";
      benchmark::RegisterBenchmark(("attention/limit_of_memory" + name).c_str(), read_lines, shape,
                                   long_context)
          ->MinTime(0.2);
      for (const Isa isa : benchmarked_isas()) {
        const std::string full = "attention/" + std::string(to_string(isa)) + name;
        benchmark::RegisterBenchmark(full.c_str(), run, isa, shape, Index{1}, long_context)
            ->MinTime(0.2);
        benchmark::RegisterBenchmark((full + "/2_threads").c_str(), run_shared, isa, shape,
                                     long_context)
            ->UseRealTime()
            ->MinTime(0.2);
      }
    }
  }
  for (const Extents& shape : shapes) {
    const std::string name = std::string("attention/limit_of_memory/") + shape.name;
    benchmark::RegisterBenchmark(name.c_str(), read_lines, shape, 4096)->MinTime(0.2);
  }
  for (const Isa isa : benchmarked_isas()) {
    for (const Extents& shape : shapes) {
      const std::string name = "attention/" + std::string(to_string(isa)) + '/' + shape.name + '/';
      for (const auto& [tokens, context] :
           {std::pair<Index, Index>{1, 4096}, {2, 4096}, {4, 4096}, {16, 1024}, {256, 1024}}) {
        const std::string full = name + std::to_string(tokens) + "_of_" + std::to_string(context);
        benchmark::RegisterBenchmark(full.c_str(), run, isa, shape, tokens, context)->MinTime(0.2);
      }
    }
  }
}

}  // namespace krait::bench
