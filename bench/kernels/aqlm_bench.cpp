// Additively quantised matrices beside dense ones, in turns, so that whatever else the machine does
// slows both. All of them lie at changing places of a file that is larger than the caches.
//
// What limits one token times a matrix of n weights with codes of 2 bits per weight (n / 4 bytes),
// on a core of 3.7 GHz with registers of 64 bytes, of which additions go two at a time and
// shuffles, multiplications and permutations one (Zen 4):
//
// - dense f32: 4 n bytes from memory.
// - 4 bits, by tables: n / 4 bytes from memory. A block of 16 codes × 64 rows (32 inputs at 4x4 g8)
// is
//   512 bytes: 8 loads, 24 operations to part the codes, 16 shuffles, 48 for the sums and 18 to
//   scale them, about 106 in 53 cycles: 10 bytes a cycle, 36 GB/s a core. Measured from the L2
//   cache: 30. The tables are another 64 multiply-adds for each input, what 64 dense rows cost;
//   measured 3 ns an input.
// - 2x8 g8: for each group of 8 weights two codewords of 32 bytes from the L1 cache, each found by
// a
//   rotation and a mask, an addition, half an instruction each to put two groups together, to scale
//   and to multiply: 7.8 instructions, 1.3 cycles at 6 a cycle, 23 weights/ns. Measured 15 to 18.
//   Dense f32 at 20 GB/s a core is 5 weights/ns: no more than 4.5 times that, less where memory is
//   faster.
// - 1x16 g8: a codeword of 16 bytes from a codebook of 1 MiB, the size of the L2 cache: each one is
// a
//   line of 64 bytes from there or from the L3 cache for 8 weights. At 32 bytes a cycle, 15
//   weights/ns; measured 16 to 22, since hot codewords stay in the L1 cache.
// - 64 tokens: 16 multiply-adds a cycle bound dense matrices and those that are decoded to f32
// (which
//   takes as long as some 4 tokens more); tables take 5 operations of 64 bytes for 128 products.

#include "krait/kernels/aqlm.hpp"

#include <algorithm>
#include <chrono>
#include <memory>

#include "bench/support.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/kernels/product.hpp"
#include "krait/kernels/ref/aqlm.hpp"

namespace krait::bench {
namespace {

using kernels::AqlmScheme;
using kernels::AqlmTableWeights;
using kernels::AqlmWeights;

struct Scheme {
  const char* name;
  AqlmScheme scheme;
  bool by_tables = false;
};

constexpr Scheme schemes[] = {
    {"4x4g8", {.codebooks = 4, .bits = 4, .in_group = 8}, true},
    {"8x4g16", {.codebooks = 8, .bits = 4, .in_group = 16}, true},
    {"4x4g8-exact", {.codebooks = 4, .bits = 4, .in_group = 8}},
    {"1x8g8", {.codebooks = 1, .bits = 8, .in_group = 8}, true},
    {"2x8g8", {.codebooks = 2, .bits = 8, .in_group = 8}, true},
    {"8x8g32", {.codebooks = 8, .bits = 8, .in_group = 32}, true},
    {"1x8g8-exact", {.codebooks = 1, .bits = 8, .in_group = 8}},
    {"2x8g8-exact", {.codebooks = 2, .bits = 8, .in_group = 8}},
    {"8x8g32-exact", {.codebooks = 8, .bits = 8, .in_group = 32}},
    {"1x12g8", {.codebooks = 1, .bits = 12, .in_group = 8}},
    {"1x16g8", {.codebooks = 1, .bits = 16, .in_group = 8}},
    {"2x8g8h2", {.codebooks = 2, .bits = 8, .in_group = 8, .out_group = 2}},
};

// A matrix at changing places.
class RotatingAqlm {
 public:
  RotatingAqlm(const Scheme& scheme, MatrixShape shape)
      : exact_{.scheme = scheme.scheme,
               .code_type = scheme.scheme.bits <= 8 ? DType::i8 : DType::i16,
               .rows = shape.rows,
               .cols = shape.cols},
        tables_{.scheme = scheme.scheme, .rows = shape.rows, .cols = shape.cols},
        by_tables_(scheme.by_tables),
        // As bytes: a row of 16-bit numbers has half of them.
        codes_(DType::f16, shape.rows, row_bytes() / 2),
        numbers_(numbers()),
        halves_(numbers()),
        scales_(random_values(shape.rows, 6)) {
    const std::vector<float> values = random_values(numbers(), 5);
    std::copy(values.begin(), values.end(), numbers_.data());
    std::transform(values.begin(), values.end(), halves_.data(), [](float x) { return to_f16(x); });
    tables_.codebooks = numbers_.data();
    tables_.scales = scales_.data();
    exact_.scales = scales_.data();
    // As the form holds them: large codebooks in 16 bits.
    const bool is_small = numbers() * 4 <= Index{16} << 10;
    exact_.codebook_type = is_small ? DType::f32 : DType::f16;
    exact_.codebooks = is_small ? static_cast<const void*>(numbers_.data()) : halves_.data();
    next();
  }

  void next() {
    const void* data = codes_.next().data;
    exact_.codes = data;
    tables_.codes = static_cast<const std::uint8_t*>(data);
  }

  const AqlmWeights& exact() const { return exact_; }
  const AqlmTableWeights& tables() const { return tables_; }
  Index bytes() const { return by_tables_ ? tables_.bytes() : exact_.bytes(); }

  Index workspace() const {
    return by_tables_ ? kernels::product_aqlm_workspace(tables_)
                      : kernels::product_aqlm_workspace(exact_.cols);
  }

  void product(const ProductContext& ctx, const ProductArgs& args) const {
    if (by_tables_) {
      kernels::product(ctx, tables_, args);
    } else {
      kernels::product(ctx, exact_, args);
    }
  }

 private:
  Index numbers() const {
    return exact_.scheme.codebooks * exact_.scheme.codewords() * exact_.scheme.codeword();
  }
  Index row_bytes() const {
    if (by_tables_) return tables_.blocks() * tables_.block_bytes() / 64;
    return exact_.groups() * exact_.scheme.codebooks * bytes_of(exact_.code_type) /
           exact_.scheme.out_group;
  }

  AqlmWeights exact_;
  AqlmTableWeights tables_;
  bool by_tables_;
  RotatingWeights codes_;
  AlignedBuffer<float> numbers_;  // codewords do not cross lines of the cache
  AlignedBuffer<f16> halves_;
  std::vector<float> scales_;
};

bool is_right(const RotatingAqlm& W, bool by_tables, MatrixView<const float> x,
              MatrixView<float> y) {
  if (!by_tables) {
    return equals_model<kernels::MatmulAqlmArgs>({.W = W.exact(), .x = x, .y = y, .outputs = {}},
                                                 kernels::matmul_aqlm, ref::matmul_aqlm);
  }
  const Index blocks = W.tables().blocks();
  AlignedBuffer<float> memory(x.rows * blocks * kernels::AqlmTables::floats_per_block(W.tables()));
  const kernels::AqlmTables tables(memory.data(), x.rows, W.tables(), {0, blocks});
  kernels::make_aqlm_tables(W.tables(), x, {0, x.rows * blocks}, tables);
  return equals_model<kernels::MatmulAqlmTablesArgs>(
      {.W = W.tables(), .x = tables, .y = y, .outputs = {}}, kernels::matmul_aqlm_tables,
      ref::matmul_aqlm_tables);
}

enum class Dense { f32, bf16, computed_in_bf16 };

constexpr const char* to_string(Dense dense) {
  return dense == Dense::f32 ? "f32" : dense == Dense::bf16 ? "bf16" : "compute-bf16";
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

void run(benchmark::State& state, MatrixShape shape, Scheme scheme, Dense beside, Isa isa,
         Index tokens, int threads) {
  const ForcedIsa forced(isa);
  ThreadPool pool(threads);
  const auto input = random_values(tokens * shape.cols, 1);
  const MatrixView<const float> x(input.data(), tokens, shape.cols);
  std::vector<float> values(static_cast<std::size_t>(tokens * shape.rows));
  const MatrixView<float> y(values.data(), tokens, shape.rows);
  RotatingAqlm W(scheme, shape);
  if (!is_right(W, scheme.by_tables, x, y)) return state.SkipWithError("differs from the model");

  RotatingWeights dense(beside == Dense::f32 ? DType::f32 : DType::bf16, shape.rows, shape.cols);
  const Index floats = tokens * std::max({W.workspace(), kernels::product_workspace(shape.cols),
                                          kernels::product_bf16_workspace(shape.cols)});
  AlignedBuffer<float> workspace(floats);
  const ProductContext ctx{.executor = pool, .workspace = workspace.span()};
  const ProductArgs args{.x = x, .y = y};
  std::vector<double> dense_seconds;
  std::vector<double> seconds;
  for (auto _ : state) {
    using Clock = std::chrono::steady_clock;
    const auto began = Clock::now();
    if (beside == Dense::computed_in_bf16) {
      kernels::product_bf16(ctx, dense.next(), args);
    } else {
      kernels::product(ctx, dense.next(), args);
    }
    benchmark::ClobberMemory();
    W.next();
    const auto between = Clock::now();
    W.product(ctx, args);
    benchmark::ClobberMemory();
    const auto ended = Clock::now();
    dense_seconds.push_back(std::chrono::duration<double>(between - began).count());
    seconds.push_back(std::chrono::duration<double>(ended - between).count());
    state.SetIterationTime(seconds.back());
  }
  const double time = median(seconds);
  const double weights = 1e-9 * static_cast<double>(shape.rows * shape.cols * tokens);
  const double giga = 1e-9 * static_cast<double>(W.bytes());
  state.counters["x_dense"] = median(dense_seconds) / time;
  state.counters["Gweight/s"] = weights / time;
  state.counters["GB/s"] = giga / time;
  if (tokens == 1) state.counters["%"] = 100.0 * giga / time / read_limit(pool);
}

}  // namespace

void register_benchmarks() {
  constexpr MatrixShape shapes[] = {{"4096x8192", 4096, 8192}, {"in_proj", 3072, 768}};
  std::vector<int> widths = {1};
  if (available_threads() > 1) widths.push_back(available_threads());
  for (const MatrixShape& shape : shapes) {
    for (const Scheme& scheme : schemes) {
      for (const Isa isa : benchmarked_isas()) {
        for (const Index tokens : {1, 2, 4, 6, 8, 64}) {
          for (const Dense beside : {Dense::f32, Dense::bf16, Dense::computed_in_bf16}) {
            if ((tokens == 1) != (beside == Dense::f32)) continue;
            for (const int threads : widths) {
              const std::string name =
                  std::string("aqlm/") + shape.name + '/' + scheme.name + '/' +
                  std::string(to_string(isa)) + "/tokens:" + std::to_string(tokens) +
                  "/beside:" + to_string(beside) + "/threads:" + std::to_string(threads);
              benchmark::RegisterBenchmark(name.c_str(), run, shape, scheme, beside, isa, tokens,
                                           threads)
                  ->UseManualTime()
                  ->MinTime(0.2);
            }
          }
        }
      }
    }
  }
}

}  // namespace krait::bench
