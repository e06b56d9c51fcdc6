#include "krait/kernels/matmul.hpp"

#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/ref/matmul.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_packed.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

// Packed tokens of a tile lie side by side: for every register of inputs, that of each token.
constexpr Index tile_tokens = 4;

// 12 sums, 3 rows and a token fill 16 registers. Where packing never pays (see packing_pays), tiles
// are single rows: compiling the others takes half a minute for SSE4 alone.
template <int T>
constexpr int tile_rows = HWY_TARGET != HWY_AVX2 ? 1
                          : T >= 3               ? 3
                                                 : 4;

// All rows of a block meet a stretch of this many elements of a tile of tokens, which thus stays in
// the L1 cache, before the next stretch.
constexpr Index stretch = 768;

// Weights that are multiplied while the next block is requested, which should lie in the L2 cache
// as well. Its rows are a multiple of 12 for both heights of tiles.
constexpr Index block_bytes = Index{48} << 10;
constexpr Index row_step = 12;
constexpr Index most_rows = 48;

constexpr Index min_cols = 256;

constexpr Index tiles_of(Index tokens) { return (tokens + tile_tokens - 1) / tile_tokens; }

// Tiles of nearly equal width: a narrow last one would be slow.
constexpr Range tile_range(Index tokens, Index tile) {
  const Index tiles = tiles_of(tokens);
  return {tokens * tile / tiles, tokens * (tile + 1) / tiles};
}

// Requests the next block evenly while the present one is multiplied. For the bandwidth of memory
// f32 needs two places at a time.
template <class W>
struct NextBlock {
  static constexpr std::uintptr_t places = sizeof(W) / 2;
  std::uintptr_t next;  // may lie beyond the end of everything
  std::uintptr_t apart;
  std::uintptr_t step;

  HWY_INLINE void advance() {
    KRAIT_UNROLL
    for (std::uintptr_t i = 0; i < places; ++i) {
      __builtin_prefetch(reinterpret_cast<const void*>(next + i * apart), 0, 2);
    }
    next += step;
  }
};

// Where the hardware's prefetchers do.
struct NoRequests {
  HWY_INLINE void advance() {}
};

// fma(w, x, acc) in the register of acc. Where all 16 are in use, compilers that may choose which
// operand to overwrite move and spill others.
HWY_INLINE VF fma_in_place(VF w, VF x, VF acc) {
#if HWY_TARGET == HWY_AVX2
  asm("vfmadd231ps %2, %1, %0" : "+x"(acc.raw) : "x"(w.raw), "x"(x.raw));
  return acc;
#else
  return fma(w, x, acc);
#endif
}

// Elements [begin, end) of R rows, n from each other, for T tokens, register p of the lanes; begin
// is a multiple of 16. x is the stretch of the tile.
template <int R, int T, class W, class Requests>
HWY_INLINE void accumulate_part(const W* w, Index n, const float* x, Index p, Index begin,
                                Index end, Array<VF, R * T>& acc, Requests& next) {
  w += begin + p * vector_lanes;
  x += p * T * vector_lanes;
  const auto group = [&]() HWY_ATTR {
    Array<VF, R> ws;
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) ws[r] = load(w + r * n);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      const VF xs = load(x + t * vector_lanes);
      KRAIT_UNROLL
      for (int r = 0; r < R; ++r) acc[r * T + t] = fma_in_place(ws[r], xs, acc[r * T + t]);
    }
    w += virtual_lanes;
    x += T * virtual_lanes;
  };
  Index rest = end - begin;
  for (; rest >= 2 * virtual_lanes; rest -= 2 * virtual_lanes) {
    next.advance();
    group();
    group();
  }
  if (rest >= virtual_lanes) {
    group();
    rest -= virtual_lanes;
  }
  rest -= p * vector_lanes;
  if (rest <= 0) return;
  const Index count = HWY_MIN(vector_lanes, rest);
  const auto mask = hn::FirstN(DF(), static_cast<std::size_t>(count));
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) {
    const VF ws = load_count(w + r * n, count);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      VF& a = acc[r * T + t];
      a = hn::IfThenElse(mask, fma(ws, load(x + t * vector_lanes), a), a);
    }
  }
}

// One stretch of R rows for T tokens. If it is not the first, it continues `lanes`.
template <int R, int T, class W, class Requests>
HWY_INLINE void continue_tile(const W* w, Index n, const float* x, Index begin, Index end,
                              Array<Lanes, R * T>& lanes, Requests& next) {
  Requests local = next;  // in registers
  KRAIT_UNROLL
  for (int p = 0; p < register_parts; ++p) {
    Array<VF, R * T> acc;
    KRAIT_UNROLL
    for (int i = 0; i < R * T; ++i) acc[i] = begin == 0 ? hn::Zero(DF()) : lanes[i].part[p];
    accumulate_part<R, T>(w, n, x, p, begin, end, acc, local);
    KRAIT_UNROLL
    for (int i = 0; i < R * T; ++i) lanes[i].part[p] = acc[i];
  }
  next = local;
}

// Reduces and stores the lanes of outputs `row`, `row` + apart, … of T tokens.
template <int R, int T>
HWY_INLINE void finish(const Array<Lanes, R * T>& lanes, const MatmulArgs& args, Index row,
                       Index apart, Index token) {
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) {
    const Lanes* at = lanes + r * T;
    V4 sums = reduce_4(at[0], at[T > 1 ? 1 : 0], at[T > 2 ? 2 : 0], at[T > 3 ? 3 : 0]);
    const Index output = row + r * apart;
    if (args.bias != nullptr) sums = hn::Add(sums, hn::Set(D4(), args.bias[output]));
    HWY_ALIGN float tokens[4];
    hn::Store(sums, D4(), tokens);
    for (int t = 0; t < T; ++t) args.y.row_data(token + t)[output] = tokens[t];
  }
}

// Rows [first, last) of a block, a multiple of R, for one tile.
template <int R, int T, class W>
void multiply_rows(const MatmulArgs& args, Index first, Index last, const float* x, Index token,
                   NextBlock<W>& next) {
  const Index n = args.W.cols;
  const auto* w = static_cast<const W*>(args.W.data);
  Array<Lanes, R * T> waiting[static_cast<std::size_t>(most_rows / R)];
  for (Index k = 0; k == 0 || k < n; k += stretch) {
    const Index end = HWY_MIN(n, k + stretch);
    for (Index row = first; row < last; row += R) {
      auto& lanes = waiting[n > stretch ? (row - first) / R : 0];
      continue_tile<R, T>(w + row * n, n, x + k * T, k, end, lanes, next);
      if (end == n) finish<R, T>(lanes, args, row, 1, token);
    }
  }
}

// Calls multiply_rows for a tile of `tokens` ≤ T.
template <int T, class W>
void multiply_block(const MatmulArgs& args, Range rows, const float* x, Range tokens,
                    NextBlock<W>& next) {
  if constexpr (T > 0) {
    if (tokens.size() < T) return multiply_block<T - 1>(args, rows, x, tokens, next);
    constexpr int R = tile_rows<T>;
    const Index whole = rows.begin + rows.size() / R * R;
    if (whole > rows.begin) {
      multiply_rows<R, T>(args, rows.begin, whole, x, tokens.begin, next);
    }
    if (whole < rows.end) multiply_rows<1, T>(args, whole, rows.end, x, tokens.begin, next);
  }
}

// All outputs but a rest, for one tile. Its weights come from memory more slowly than they are
// multiplied; rows far from each other are a stream each to the prefetchers, which keep more
// requests under way than instructions can. Returns the first output of the rest.
template <int T, class W>
Index multiply_apart(const MatmulArgs& args) {
  if constexpr (T > 0) {
    if (args.x.rows < T) return multiply_apart<T - 1, W>(args);
    constexpr int R = tile_rows<T>;
    const Index n = args.W.cols;
    const Index first = args.outputs.begin;
    const Index apart = args.outputs.size() / R;
    NoRequests none;
    for (Index row = first; row < first + apart; ++row) {
      Array<Lanes, R * T> lanes;
      const W* w = static_cast<const W*>(args.W.data) + row * n;
      continue_tile<R, T>(w, apart * n, args.packed, 0, n, lanes, none);
      finish<R, T>(lanes, args, row, apart, 0);
    }
    return first + R * apart;
  }
  return args.outputs.begin;
}

template <class W>
void multiply(const MatmulArgs& args) {
  const Index n = args.W.cols;
  const Index tokens = args.x.rows;
  const Index row_bytes = HWY_MAX(Index{1}, n * static_cast<Index>(sizeof(W)));
  const Index block =
      HWY_MIN(HWY_MAX(block_bytes / row_bytes / row_step * row_step, row_step), most_rows);
  const Index tiles = tiles_of(tokens);
  Index row = args.outputs.begin;
  if constexpr (HWY_TARGET == HWY_AVX2) {
    if (tiles == 1) row = multiply_apart<tile_tokens, W>(args);
  }
  for (; row < args.outputs.end; row += block) {
    const Index end = HWY_MIN(args.outputs.end, row + block);
    const Index bytes = HWY_MIN(block, args.outputs.end - end) * row_bytes;
    const Index calls = tiles * ((end - row + 2) / 3) * register_parts * (n / 32);
    const auto apart = static_cast<std::uintptr_t>(bytes) / NextBlock<W>::places;
    NextBlock<W> next{
        .next = reinterpret_cast<std::uintptr_t>(static_cast<const W*>(args.W.data) + end * n),
        .apart = apart,
        .step = apart / static_cast<std::uintptr_t>(HWY_MAX(Index{1}, calls)) + 1};
    for (Index tile = 0; tile < tiles; ++tile) {
      const Range range = tile_range(tokens, tile);
      const float* x = args.packed + range.begin * round_up(n, virtual_lanes);
      multiply_block<tile_tokens>(args, {row, end}, x, range, next);
    }
  }
}

}  // namespace

void pack_tokens(MatrixView<const float> x, float* packed) noexcept {
  const Index length = round_up(x.cols, virtual_lanes);
  for (Index tile = 0; tile < tiles_of(x.rows); ++tile) {
    const Range range = tile_range(x.rows, tile);
    for (Index t = range.begin; t < range.end; ++t) {
      const float* from = x.row_data(t);
      float* to = packed + range.begin * length + (t - range.begin) * vector_lanes;
      for (Index k = 0; k < length; k += vector_lanes) {
        const Index count = HWY_MIN(vector_lanes, x.cols - k);
        store(count > 0 ? load_count(from + k, count) : hn::Zero(DF()), to);
        to += range.size() * vector_lanes;
      }
    }
  }
}

void matmul_packed(const MatmulArgs& args) noexcept {
  switch (args.W.dtype) {
    case DType::f16:
      return multiply<f16>(args);
    case DType::bf16:
      return multiply<bf16>(args);
    default:
      return multiply<float>(args);
  }
}

// Measured with the 16 registers of AVX2 only. Short rows do not repay the packing.
bool packing_pays(Index tokens, Index cols) noexcept {
  return HWY_TARGET == HWY_AVX2 && tokens > 1 && cols >= min_cols;
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

// The model reads x itself.
void pack_nothing(MatrixView<const float> /*x*/, float* /*packed*/) noexcept {}

bool packing_pays_scalar(Index /*tokens*/, Index /*cols*/) noexcept { return false; }

}  // namespace

void pack_tokens(MatrixView<const float> x, float* packed) noexcept {
  KRAIT_KERNEL(pack_tokens, pack_nothing)(x, packed);
}

void matmul_packed(const MatmulArgs& args) noexcept {
  KRAIT_KERNEL(matmul_packed, ref::matmul)(args);
}

bool packing_pays(Index tokens, Index cols) noexcept {
  return KRAIT_KERNEL(packing_pays, packing_pays_scalar)(tokens, cols);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
