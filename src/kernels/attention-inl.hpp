// Scores of attention and their weights, once per instruction set: what attention.cpp begins with.
// Include after targets.hpp.

#if defined(KRAIT_ATTENTION_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#  ifdef KRAIT_ATTENTION_INL_HPP
#    undef KRAIT_ATTENTION_INL_HPP
#  else
#    define KRAIT_ATTENTION_INL_HPP
#  endif

#  include <cstddef>
#  include <cstdint>
#  include <limits>
#  include <type_traits>

#  include <hwy/highway.h>

#  include "kernels/dot-inl.hpp"
#  include "krait/kernels/attention.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

using namespace detail;

constexpr Index page_tokens = attention_page_tokens;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

// Few queries: a tile holds four keys × this many queries, the contract's lanes in registers.
constexpr int few_tile = HWY_TARGET == HWY_SSE4 ? 1 : HWY_TARGET == HWY_AVX2 ? 3 : 6;

// Many queries lie side by side in panels, and one lane of the contract is done at a time; a tile
// holds this many keys. AVX2 has registers for no more.
constexpr Index panel_width = 16;
constexpr int panel_parts = static_cast<int>(panel_width / vector_lanes);
constexpr int side_by_side = HWY_TARGET == HWY_AVX3 ? 2 : 1;  // panels
constexpr int panel_keys = HWY_TARGET == HWY_SSE4 ? 2 : 4;
constexpr int lanes_at_once = HWY_TARGET == HWY_AVX3 ? 2 : 1;

// Rows of the cache that are done while the next ones are requested. Many queries take them out of
// the cache into a place of their own: rows that are 2^n bytes apart would share few places. So do
// some queries with rows of 16 bits, which become floats there.
constexpr Index most_rows = attention_rows;
static_assert(page_tokens % most_rows == 0 && most_rows % panel_keys == 0);

// As many as leave the L2 cache room, of `bytes` each; a part of a page.
HWY_INLINE Index rows_of(Index bytes) {
  Index rows = most_rows;
  while (rows > 8 && rows * bytes > Index{1} << 18) rows /= 2;
  return rows;
}

// The queries of some rows and heads that have the same keys, row after row.
struct Block {
  const AttentionArgs& args;
  Index row;
  Index rows;
  Index head;
  Index heads;
  Index kv_head;
  Index queries = rows * heads;
  Index width = round_up(args.d_head, 16);
  Index stride = args.row_stride * Index{sizeof(float)};  // bytes from a row to the next
  Index head_bytes = args.d_head * bytes_of(args.dtype);  // of a row

  // Keys that query m sees; they grow with m.
  HWY_INLINE Index visible(Index m) const { return args.position + row + m / heads + 1; }
  // The first key that query m sees; it grows with m.
  HWY_INLINE Index begin(Index m) const {
    return args.window == 0 ? 0 : HWY_MAX(Index{0}, visible(m) - args.window);
  }
  HWY_INLINE Index context() const { return args.position + row + rows; }
  HWY_INLINE const float* query(Index m) const {
    return args.q.row_data(row + m / heads) + (head + m % heads) * args.d_head;
  }
  HWY_INLINE float* output(Index m) const {
    return args.y.row_data(row + m / heads) + (head + m % heads) * args.d_head;
  }
  HWY_INLINE const std::byte* row_at(Index offset, Index j) const {
    return reinterpret_cast<const std::byte*>(
               args.pages[static_cast<std::size_t>(j / page_tokens)] + offset) +
           j % page_tokens * stride + kv_head * head_bytes;
  }
  HWY_INLINE const std::byte* keys(Index j) const { return row_at(args.key_offset, j); }
  HWY_INLINE const std::byte* values(Index j) const { return row_at(args.value_offset, j); }
};

// Where a block's working memory lies.
struct Memory {
  float* q;
  float* out;
  float* largest;
  float* sums;
  float* rows;  // [most_rows, width]
  float* scores;
  float* end;
  Index row;  // of scores

  Memory(const Block& block, float* scratch) : row(attention_row(block.context())) {
    const Index queries = padded_queries(block.queries);
    const Index padded = round_up(queries, 16);
    q = scratch;
    out = q + queries * block.width;
    largest = out + queries * block.width;
    sums = largest + padded;
    rows = sums + padded;
    scores = rows + (block.queries < few_queries ? 0 : most_rows * block.width);
    end = scores + queries * row;
  }
};

// Requests the next rows for the L2 cache, at four places of them at a time, at each in the order
// in which they lie: what one head needs of them is so little that memory sees no stream. A call
// asks for few bytes, and all calls of the present rows for all: a core holds two dozen requests,
// behind which its own loads would wait.
struct RowsAhead {
  // A core reads faster at several places at a time.
  static constexpr Index places = 4;
  std::uintptr_t line = 0;  // at the first place
  std::uintptr_t end = 0;   // of the present row's part
  Index part = 0;           // bytes of a row, as all
  Index stride = 0;
  Index apart = 0;  // from a place to the next
  Index rows = 0;   // of each place, still to be requested
  Index step = 0;   // of a call, at all places
  Index due = 0;

  RowsAhead() = default;
  RowsAhead(const std::byte* row, Index part_bytes, Index row_stride, Index row_count, Index calls)
      : line(reinterpret_cast<std::uintptr_t>(row) & ~std::uintptr_t{63}),
        end(reinterpret_cast<std::uintptr_t>(row) + static_cast<std::uintptr_t>(part_bytes)),
        part(part_bytes),
        stride(row_stride),
        apart(row_count < places ? 0 : (row_count + places - 1) / places * row_stride),
        rows(row_count < places ? row_count : (row_count + places - 1) / places),
        step((rows * places * round_up(part_bytes + 63, 64) + calls - 1) / calls) {}

  HWY_INLINE void request() {
    for (due += step; due > 0; due -= 64 * places) {
      KRAIT_UNROLL
      for (Index i = 0; i < places; ++i) {
        __builtin_prefetch(
            reinterpret_cast<const void*>(line + static_cast<std::uintptr_t>(i * apart)), 0, 2);
      }
      line += 64;
      if (line < end) continue;
      if (--rows == 0) step = due = 0;
      end += static_cast<std::uintptr_t>(stride);
      line = (end - static_cast<std::uintptr_t>(part)) & ~std::uintptr_t{63};
    }
  }
};

// Calls body(j, count, ahead) for up to `step` rows [j, j + count) of keys [0, n); `place` says
// where a row is, and `calls` how often the body requests something for `step` rows.
template <class Place, class Body>
HWY_INLINE void for_rows(const Block& block, Index step, Index kv_heads, Index n, Index calls,
                         Place place, Body body) {
  for (Index j = 0; j < n; j += step) {
    RowsAhead ahead;
    const Index next = j + step;
    if (next < n) {
      ahead = RowsAhead(place(next), kv_heads * block.head_bytes, block.stride,
                        HWY_MIN(step, n - next), calls);
    }
    body(j, HWY_MIN(step, n - j), ahead);
  }
}

// ---- Rows -------------------------------------------------------------------------------------

// Rows [at, at + rows) of one head as floats, [count, width]; where there are fewer than `count`,
// the last one is repeated.
template <class T>
void copy_rows_of(const Block& block, const std::byte* at, Index rows, Index count, float* to) {
  for (Index r = 0; r < count; ++r) {
    const auto* from = reinterpret_cast<const T*>(at + HWY_MIN(r, rows - 1) * block.stride);
    float* row = to + r * block.width;
    for_each_register(block.args.d_head, [=](Index k, Index some) HWY_ATTR {
      store(load_count(from + k, some), row + k);
    });
  }
}

HWY_NOINLINE void copy_rows(const Block& block, const std::byte* at, Index rows, Index count,
                            float* to) {
  switch (block.args.dtype) {
    case DType::f16:
      return copy_rows_of<f16>(block, at, rows, count, to);
    case DType::bf16:
      return copy_rows_of<bf16>(block, at, rows, count, to);
    default:
      copy_rows_of<float>(block, at, rows, count, to);
  }
}

// Rows of one head, one after another.
template <class W>
struct Rows {
  const W* at;
  Index stride;  // elements
};

// Up to so many queries take rows of 16 bits from where they lie and widen them in registers; for
// more, rows are widened once, into memory. A larger number gained nothing in long texts.
constexpr int queries_in_registers = 2;

// `count` rows as few queries read them: where they lie, or as floats in `to` [count, width].
template <class W>
HWY_INLINE Rows<W> rows_at(const Block& block, const std::byte* at, Index count, float* to) {
  if constexpr (std::is_same_v<W, float>) {
    if (block.args.dtype != DType::f32) {
      copy_rows(block, at, count, count, to);
      return {to, block.width};
    }
  }
  return {reinterpret_cast<const W*>(at), block.stride / Index{sizeof(W)}};
}

// ---- Few queries ------------------------------------------------------------------------------

// The products of `keys` keys with T queries.
template <int T, class W>
HWY_INLINE void few_products(const Block& block, const Rows<W>& K, Index keys, const float* q,
                             float* scores, Index row, RowsAhead& ahead) {
  const Product<W> in{.w = K.at,
                      .x = q,
                      .n = K.stride,
                      .x_stride = block.width,
                      .bias = nullptr,
                      .y = scores,
                      .y_stride = row};
  const auto tile = [&](auto height, Index j) HWY_ATTR {
    constexpr int R = decltype(height)::value;
    Array<Lanes, R * T> lanes;
    KRAIT_UNROLL
    for (int p = 0; p < register_parts; ++p) {
      Array<VF, R * T> acc;
      KRAIT_UNROLL
      for (int i = 0; i < R * T; ++i) acc[i] = hn::Zero(DF());
      Fetch none;
      accumulate_tile<R, T, 1, false>(K.at + j * in.n, q, in, p * vector_lanes, 0,
                                      block.args.d_head, acc, none);
      KRAIT_UNROLL
      for (int i = 0; i < R * T; ++i) lanes[i].part[p] = acc[i];
    }
    finish_tile<R, T>(lanes, nullptr, scores + j, row);
  };
  Index j = 0;
  for (; j + 4 <= keys; j += 4) {
    ahead.request();
    tile(std::integral_constant<int, 4>(), j);
  }
  for (; j < keys; ++j) {
    ahead.request();
    tile(std::integral_constant<int, 1>(), j);
  }
}

// Calls few_products<queries>; queries ≤ T.
template <int T, class W>
HWY_INLINE void few_products_of(Index queries, const Block& block, const Rows<W>& K, Index keys,
                                const float* q, float* scores, Index row, RowsAhead& ahead) {
  if constexpr (T > 0) {
    if (queries < T) {
      return few_products_of<T - 1>(queries, block, K, keys, q, scores, row, ahead);
    }
    few_products<T>(block, K, keys, q, scores, row, ahead);
  }
}

// Scales the scores of a query and makes them weights, +0 before the first key that it sees;
// returns their sum.
HWY_INLINE float few_weights(float* scores, Index first, Index n, float scale) {
  const DF d;
  const VF factor = hn::Set(d, scale);
  VF best = hn::Set(d, minus_infinity);
  for_each_register(n, [&](Index j, Index count) HWY_ATTR {
    VF s = hn::Mul(load(scores + j), factor);  // the row has room for whole registers
    if (j < first) {
      const auto hidden = hn::FirstN(d, static_cast<std::size_t>(HWY_MIN(first - j, vector_lanes)));
      s = hn::IfThenElse(hidden, hn::Set(d, minus_infinity), s);
    }
    store(s, scores + j);
    const auto larger = hn::And(hn::Gt(s, best), hn::FirstN(d, static_cast<std::size_t>(count)));
    best = hn::IfThenElse(larger, s, best);
  });
  HWY_ALIGN float lanes[vector_lanes];
  hn::Store(best, d, lanes);
  float largest = lanes[0];
  for (Index i = 1; i < vector_lanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  const VF subtrahend = hn::Set(d, largest);
  return reduce(accumulate(n, [=](VF acc, Index j, Index /*count*/) HWY_ATTR {
    const VF p = exp_nonpositive_of(VectorOps(), hn::Sub(load(scores + j), subtrahend));
    store(p, scores + j);
    return hn::Add(acc, p);
  }));
}

// ---- Many queries -----------------------------------------------------------------------------

// In which order the lanes are done, so that each sum of the tree is formed as early as it can be.
constexpr Index lane_order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

// Element k of query m goes to panel[k][m]; queries beyond the last are zeros.
void pack_queries(const Block& block, float* panels) {
  const Index d_head = block.args.d_head;
  for (Index first = 0; first < block.queries; first += panel_width) {
    for (Index m = 0; m < panel_width; ++m) {
      float* to = panels + first * d_head + m;
      const bool exists = first + m < block.queries;
      const float* q = exists ? block.query(first + m) : nullptr;
      for (Index k = 0; k < d_head; ++k) to[k * panel_width] = exists ? q[k] : 0.0F;
    }
  }
}

// sums[(r·panels + i)·panel_parts + p]: the products of panel_keys keys with the queries of panels.
template <int panels>
HWY_INLINE void panel_products(const float* queries, const float* K, Index stride, Index d_head,
                               Array<VF, panel_keys * panels * panel_parts>& sums) {
  constexpr int parts = panels * panel_parts;
  constexpr int size = panel_keys * parts;
  Array<VF, size> waiting[4];  // sums whose other term is still to come
  Array<VF, size>* top = waiting;
  const Index panel_size = d_head * panel_width;
  const auto step = [&](Index k, Array<VF, size>& acc) HWY_ATTR {
    const float* q = queries + k * panel_width;
    Array<VF, parts> qs;
    KRAIT_UNROLL
    for (int p = 0; p < parts; ++p) {
      qs[p] = load(q + p / panel_parts * panel_size + p % panel_parts * vector_lanes);
    }
    KRAIT_UNROLL
    for (int r = 0; r < panel_keys; ++r) {
      const VF key = hn::Set(DF(), K[r * stride + k]);
      KRAIT_UNROLL
      for (int p = 0; p < parts; ++p) acc[r * parts + p] = fma(key, qs[p], acc[r * parts + p]);
    }
  };
  for (int i = 0; i < virtual_lanes; i += lanes_at_once) {
    Array<VF, size> acc[lanes_at_once];
    KRAIT_UNROLL
    for (int lane = 0; lane < lanes_at_once; ++lane) {
      KRAIT_UNROLL
      for (int j = 0; j < size; ++j) acc[lane][j] = hn::Zero(DF());
    }
    Index k = lane_order[i];
    if constexpr (lanes_at_once == 2) {
      constexpr Index apart = lane_order[1];
      for (; k + apart < d_head; k += virtual_lanes) {
        step(k, acc[0]);
        step(k + apart, acc[1]);
      }
      if (k < d_head) step(k, acc[0]);
      KRAIT_UNROLL
      for (int j = 0; j < size; ++j) acc[0][j] = hn::Add(acc[0][j], acc[1][j]);
    } else {
      for (; k < d_head; k += virtual_lanes) step(k, acc[0]);
    }
    for (int terms = i / lanes_at_once + 1; terms % 2 == 0; terms /= 2) {
      --top;
      KRAIT_UNROLL
      for (int j = 0; j < size; ++j) acc[0][j] = hn::Add((*top)[j], acc[0][j]);
    }
    KRAIT_UNROLL
    for (int j = 0; j < size; ++j) (*top)[j] = acc[0][j];
    ++top;
  }
  KRAIT_UNROLL
  for (int j = 0; j < size; ++j) sums[j] = waiting[0][j];
}

// The scores of keys [j, j + panel_keys) for the panels from query m on, -inf where a query does
// not see a key, and the largest of each query.
template <int panels>
HWY_NOINLINE void panel_scores(const Block& block, const Memory& memory, Index m, const float* K,
                               Index j) {
  const DF d;
  constexpr int parts = panels * panel_parts;
  Array<VF, panel_keys * parts> sums;
  const Index d_head = block.args.d_head;
  panel_products<panels>(memory.q + m * d_head, K, block.width, d_head, sums);
  const VF factor = hn::Set(d, block.args.scale);
  const Index last = HWY_MIN(m + panels * panel_width, block.queries) - 1;
  const bool all_visible = j + panel_keys <= block.visible(m) && block.begin(last) <= j;
  KRAIT_UNROLL
  for (int p = 0; p < parts; ++p) {
    const Index at = m + p * vector_lanes;
    float* scores = memory.scores + (m + p / panel_parts * panel_width) * memory.row +
                    j * panel_width + p % panel_parts * vector_lanes;
    HWY_ALIGN std::int32_t seen[vector_lanes];
    HWY_ALIGN std::int32_t hidden[vector_lanes];
    if (!all_visible) {
      for (Index i = 0; i < vector_lanes; ++i) {
        const Index query = HWY_MIN(at + i, block.queries - 1);
        seen[i] = static_cast<std::int32_t>(block.visible(query) - j);
        hidden[i] = static_cast<std::int32_t>(block.begin(query) - j);
      }
    }
    VF best = load(memory.largest + at);
    KRAIT_UNROLL
    for (int r = 0; r < panel_keys; ++r) {
      VF s = hn::Mul(sums[r * parts + p], factor);
      if (!all_visible) {
        const DI di;
        const auto visible = hn::AndNot(hn::Gt(hn::Load(di, hidden), hn::Set(di, r)),
                                        hn::Gt(hn::Load(di, seen), hn::Set(di, r)));
        s = hn::IfThenElse(hn::RebindMask(d, visible), s, hn::Set(d, minus_infinity));
      }
      store(s, scores + r * panel_width);
      best = hn::IfThenElse(hn::Gt(s, best), s, best);
    }
    store(best, memory.largest + at);
  }
}

// Makes the scores of a panel weights: +0 for keys that are not seen. Their sums by lanes.
void panel_weights(float* scores, Index n, const float* largest, float* sums) {
  HWY_ALIGN float lanes[virtual_lanes * panel_width] = {};
  constexpr Index rows = HWY_MAX(1, 4 / panel_parts);
  constexpr std::size_t size = static_cast<std::size_t>(rows * panel_parts);
  Array<VF, panel_parts> subtrahend;
  KRAIT_UNROLL
  for (int p = 0; p < panel_parts; ++p) subtrahend[p] = load(largest + p * vector_lanes);
  // Rows beyond n, which the memory has room for, are no lane's.
  for (Index j = 0; j < n; j += rows) {
    float* at = scores + j * panel_width;
    RegisterSet<size> x;
    KRAIT_UNROLL
    for (std::size_t i = 0; i < size; ++i) {
      x.part[i] = hn::Sub(load(at + static_cast<Index>(i) * vector_lanes),
                          subtrahend[i % static_cast<std::size_t>(panel_parts)]);
    }
    x = exp_nonpositive_of(RegisterSetOps<size>(), x);
    float* lane = lanes + j % virtual_lanes * panel_width;
    KRAIT_UNROLL
    for (std::size_t i = 0; i < size; ++i) {
      const Index to = static_cast<Index>(i) * vector_lanes;
      store(x.part[i], at + to);
      if (j + to / panel_width < n) store(hn::Add(load(lane + to), x.part[i]), lane + to);
    }
  }
  for (Index half = virtual_lanes / 2; half > 0; half /= 2) {
    for (Index i = 0; i < half * panel_width; i += vector_lanes) {
      store(hn::Add(load(lanes + i), load(lanes + i + half * panel_width)), lanes + i);
    }
  }
  for (Index i = 0; i < panel_width; i += vector_lanes) store(load(lanes + i), sums + i);
}

}  // namespace
}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
