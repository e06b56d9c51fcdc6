#include "krait/kernels/attention.hpp"

#include "krait/kernels/ref/attention.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

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
constexpr int panel_keys = HWY_TARGET == HWY_AVX3 ? 8 : HWY_TARGET == HWY_SSE4 ? 2 : 4;

// Registers of output columns that a tile of T queries continues at a time.
template <int T>
constexpr int value_parts = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 ? (T == 4 ? 2 : 4) : 4;
constexpr int value_queries = 4;

// Rows of the cache that are done while the next ones are requested. Many queries take them out of
// the cache into a place of their own: rows that are 2^n bytes apart would share few places.
constexpr Index few_rows = 16;
constexpr Index many_rows = 32;
static_assert(page_tokens % many_rows == 0 && many_rows % panel_keys == 0);

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

  // Keys that query m sees; they grow with m.
  HWY_INLINE Index visible(Index m) const { return args.position + row + m / heads + 1; }
  HWY_INLINE Index context() const { return args.position + row + rows; }
  HWY_INLINE const float* query(Index m) const {
    return args.q.row_data(row + m / heads) + (head + m % heads) * args.d_head;
  }
  HWY_INLINE float* output(Index m) const {
    return args.y.row_data(row + m / heads) + (head + m % heads) * args.d_head;
  }
  HWY_INLINE const float* keys(Index j) const {
    return args.pages[static_cast<std::size_t>(j / page_tokens)] + args.page_offset +
           j % page_tokens * args.row_stride + kv_head * args.d_head;
  }
  HWY_INLINE const float* values(Index j) const { return keys(j) + args.n_kv_head * args.d_head; }
};

// Where a block's working memory lies.
struct Memory {
  float* q;
  float* out;
  float* largest;
  float* sums;
  float* rows;  // [many_rows, width]
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
    scores = rows + (block.queries < few_queries ? 0 : many_rows * block.width);
    end = scores + queries * row;
  }
};

// Requests the next rows for the L2 cache, in the order in which they lie: what one head needs of
// them is so little that memory sees no stream.
struct RowsAhead {
  const float* row = nullptr;
  Index stride = 0;
  Index heads = 0;  // next to each other
  Index d_head = 0;
  Index left = 0;  // parts of one head
  Index head = 0;

  HWY_INLINE void request() {
    if (left == 0) return;
    --left;
    const auto at = reinterpret_cast<std::uintptr_t>(row + head * d_head);
    const auto end = at + static_cast<std::uintptr_t>(d_head) * sizeof(float);
    for (auto line = at & ~std::uintptr_t{63}; line < end; line += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(line), 0, 2);
    }
    if (++head == heads) {
      head = 0;
      row += stride;
    }
  }
};

// Calls body(j, count, ahead) for rows [j, j + count) of keys [0, n); `place` says where a row is.
template <Index step, class Place, class Body>
HWY_INLINE void for_rows(const Block& block, Index kv_heads, Index n, Place place, Body body) {
  for (Index j = 0; j < n; j += step) {
    RowsAhead ahead;
    const Index next = j + step;
    if (next < n) {
      ahead = {.row = place(next),
               .stride = block.args.row_stride,
               .heads = kv_heads,
               .d_head = block.args.d_head,
               .left = HWY_MIN(step, n - next) * kv_heads};
    }
    body(j, HWY_MIN(step, n - j), ahead);
  }
}

// ---- Few queries ------------------------------------------------------------------------------

// The products of `keys` keys with T queries.
template <int T>
HWY_INLINE void few_products(const Block& block, const float* K, Index keys, const float* q,
                             float* scores, Index row, RowsAhead& ahead) {
  const Product<float> in{.w = K,
                          .x = q,
                          .n = block.args.row_stride,
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
      accumulate_tile<R, T, 1, false>(K + j * in.n, q, in, p * vector_lanes, 0, block.args.d_head,
                                      acc, none);
      KRAIT_UNROLL
      for (int i = 0; i < R * T; ++i) lanes[i].part[p] = acc[i];
    }
    finish_tile<R, T>(lanes, nullptr, scores + j, row);
  };
  Index j = 0;
  for (; j + 4 <= keys; j += 4) {
    for (Index i = 0; i < 4; ++i) ahead.request();
    tile(std::integral_constant<int, 4>(), j);
  }
  for (; j < keys; ++j) {
    ahead.request();
    tile(std::integral_constant<int, 1>(), j);
  }
}

// Calls few_products<queries>; queries ≤ T.
template <int T>
HWY_INLINE void few_products_of(Index queries, const Block& block, const float* K, Index keys,
                                const float* q, float* scores, Index row, RowsAhead& ahead) {
  if constexpr (T > 0) {
    if (queries < T) {
      return few_products_of<T - 1>(queries, block, K, keys, q, scores, row, ahead);
    }
    few_products<T>(block, K, keys, q, scores, row, ahead);
  }
}

// Scales the scores of a query and makes them weights; returns their sum.
HWY_INLINE float few_weights(float* scores, Index n, float scale) {
  const DF d;
  const VF factor = hn::Set(d, scale);
  VF best = hn::Set(d, minus_infinity);
  for_each_register(n, [&](Index j, Index count) HWY_ATTR {
    const VF s = hn::Mul(load(scores + j), factor);  // the row has room for whole registers
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
constexpr unsigned lane_order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

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
  for (unsigned i = 0; i < virtual_lanes; ++i) {
    Array<VF, size> acc;
    KRAIT_UNROLL
    for (int j = 0; j < size; ++j) acc[j] = hn::Zero(DF());
    for (Index k = lane_order[i]; k < d_head; k += virtual_lanes) {
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
    }
    for (unsigned terms = i + 1; terms % 2 == 0; terms /= 2) {
      --top;
      KRAIT_UNROLL
      for (int j = 0; j < size; ++j) acc[j] = hn::Add((*top)[j], acc[j]);
    }
    KRAIT_UNROLL
    for (int j = 0; j < size; ++j) (*top)[j] = acc[j];
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
  const bool all_visible = j + panel_keys <= block.visible(m);
  KRAIT_UNROLL
  for (int p = 0; p < parts; ++p) {
    const Index at = m + p * vector_lanes;
    float* scores = memory.scores + (m + p / panel_parts * panel_width) * memory.row +
                    j * panel_width + p % panel_parts * vector_lanes;
    HWY_ALIGN std::int32_t seen[vector_lanes];
    if (!all_visible) {
      for (Index i = 0; i < vector_lanes; ++i) {
        seen[i] = static_cast<std::int32_t>(block.visible(HWY_MIN(at + i, block.queries - 1)) - j);
      }
    }
    VF best = load(memory.largest + at);
    KRAIT_UNROLL
    for (int r = 0; r < panel_keys; ++r) {
      VF s = hn::Mul(sums[r * parts + p], factor);
      if (!all_visible) {
        const DI di;
        const auto visible = hn::Gt(hn::Load(di, seen), hn::Set(di, r));
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
    Pack<size> x;
    KRAIT_UNROLL
    for (std::size_t i = 0; i < size; ++i) {
      x.part[i] = hn::Sub(load(at + static_cast<Index>(i) * vector_lanes),
                          subtrahend[i % static_cast<std::size_t>(panel_parts)]);
    }
    x = exp_nonpositive_of(PackOps<size>(), x);
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

// ---- Values -----------------------------------------------------------------------------------

// Weights of queries: of query t and key j at [t·apart + j·step].
struct Weights {
  const float* at;
  Index apart;
  Index step;
};

// Continues the chains of C registers of columns of T queries over `keys` keys. The last register
// has `count` columns.
template <int T, int C>
HWY_INLINE void add_columns(const float* V, Index stride, Index keys, const Weights& p, Index count,
                            float* out, Index width, RowsAhead& ahead) {
  const DF d;
  Array<VF, T * C> acc;
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    KRAIT_UNROLL
    for (int c = 0; c < C; ++c) acc[t * C + c] = load(out + t * width + c * vector_lanes);
  }
  for (Index j = 0; j < keys; ++j) {
    ahead.request();
    const float* v = V + j * stride;
    const float* weight = p.at + j * p.step;
    Array<VF, C> vs;
    KRAIT_UNROLL
    for (int c = 0; c < C; ++c) {
      vs[c] = C > 1 ? load(v + c * vector_lanes) : load_count(v, count);
    }
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      const VF w = hn::Set(d, weight[t * p.apart]);
      KRAIT_UNROLL
      for (int c = 0; c < C; ++c) acc[t * C + c] = fma(w, vs[c], acc[t * C + c]);
    }
  }
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    KRAIT_UNROLL
    for (int c = 0; c < C; ++c) store(acc[t * C + c], out + t * width + c * vector_lanes);
  }
}

// All columns of T queries.
template <int T>
HWY_NOINLINE void add_values(const Block& block, const float* V, Index stride, Index keys,
                             const Weights& p, float* out, RowsAhead& ahead) {
  constexpr int C = value_parts<T>;
  const Index d_head = block.args.d_head;
  Index i = 0;
  for (; i + C * vector_lanes <= d_head; i += C * vector_lanes) {
    add_columns<T, C>(V + i, stride, keys, p, vector_lanes, out + i, block.width, ahead);
  }
  for (; i < d_head; i += vector_lanes) {
    const Index count = HWY_MIN(vector_lanes, d_head - i);
    add_columns<T, 1>(V + i, stride, keys, p, count, out + i, block.width, ahead);
  }
}

// T queries from m on over keys [j, j + keys), of which each query takes those that it sees.
template <int T>
HWY_INLINE void add_seen_values(const Block& block, Index m, const float* V, Index stride, Index j,
                                Index keys, const Weights& p, float* out, RowsAhead& ahead) {
  const Index common = HWY_MIN(keys, HWY_MAX(Index{0}, block.visible(m) - j));
  if (common > 0) add_values<T>(block, V, stride, common, p, out, ahead);
  if constexpr (T > 1) {
    for (Index t = 1; t < T; ++t) {
      const Index more = HWY_MIN(keys, block.visible(m + t) - j) - common;
      if (more <= 0) continue;
      add_values<1>(block, V + common * stride, stride, more,
                    {p.at + t * p.apart + common * p.step, p.apart, p.step}, out + t * block.width,
                    ahead);
    }
  }
}

// All queries over keys [j, j + keys); weights(m) are those of the queries from m on.
template <class WeightsOf>
HWY_INLINE void add_rows(const Block& block, const Memory& memory, const float* V, Index stride,
                         Index j, Index keys, WeightsOf weights, RowsAhead& ahead) {
  Index m = 0;
  const auto tile = [&](auto queries) HWY_ATTR {
    constexpr int T = decltype(queries)::value;
    add_seen_values<T>(block, m, V, stride, j, keys, weights(m), memory.out + m * block.width,
                       ahead);
    m += T;
  };
  while (m + value_queries <= block.queries) tile(std::integral_constant<int, value_queries>());
  while (m + 2 <= block.queries) tile(std::integral_constant<int, 2>());
  if (m < block.queries) tile(std::integral_constant<int, 1>());
}

// ---- Blocks -----------------------------------------------------------------------------------

void clear(float* p, Index count) {
  for (Index i = 0; i < count; i += vector_lanes) store(hn::Zero(DF()), p + i);
}

// Divides and stores the outputs.
void finish(const Block& block, const Memory& memory) {
  const DF d;
  for (Index m = 0; m < block.queries; ++m) {
    const VF divisor = hn::Set(d, memory.sums[m]);
    const float* from = memory.out + m * block.width;
    float* to = block.output(m);
    for_each_register(block.args.d_head, [=](Index i, Index count) HWY_ATTR {
      const VF y = hn::Div(load(from + i), divisor);
      store_count(hn::IfThenElse(hn::Eq(y, y), y, hn::Set(DF(), quiet_nan)), to + i, count);
    });
  }
}

// The queries of `kv_heads` neighbouring heads of the cache, the first of which are those of
// `block`: the rows of the cache are read as they lie.
void attend_few(const Block& first, Index kv_heads) {
  const auto block_of = [&](Index i) HWY_ATTR {
    Block block = first;
    block.head += i * block.heads;
    block.kv_head += i;
    return block;
  };
  const auto memory_of = [&](Index i) HWY_ATTR {
    float* scratch = first.args.scratch.data();
    return Memory(first, scratch + i * (Memory(first, scratch).end - scratch));
  };
  const Index d_head = first.args.d_head;
  for (Index i = 0; i < kv_heads; ++i) {
    const Block block = block_of(i);
    const Memory memory = memory_of(i);
    for (Index m = 0; m < block.queries; ++m) {
      const float* from = block.query(m);
      float* to = memory.q + m * block.width;
      for_each_register(d_head, [=](Index k, Index count)
                                    HWY_ATTR { store(load_count(from + k, count), to + k); });
    }
    clear(memory.out, block.queries * block.width);
  }
  const Index n = first.context();
  const Index tiles = (first.queries + few_tile - 1) / few_tile;
  const auto keys_at = [&](Index j) HWY_ATTR { return first.keys(j); };
  for_rows<few_rows>(
      first, kv_heads, n, keys_at, [&](Index j, Index keys, RowsAhead ahead) HWY_ATTR {
        for (Index i = 0; i < kv_heads; ++i) {
          const Memory memory = memory_of(i);
          for (Index tile = 0; tile < tiles; ++tile) {
            const Index m = first.queries * tile / tiles;
            few_products_of<few_tile>(first.queries * (tile + 1) / tiles - m, first,
                                      first.keys(j) + i * d_head, keys, memory.q + m * first.width,
                                      memory.scores + m * memory.row + j, memory.row, ahead);
          }
        }
      });
  for (Index i = 0; i < kv_heads; ++i) {
    const Memory memory = memory_of(i);
    for (Index m = 0; m < first.queries; ++m) {
      memory.sums[m] =
          few_weights(memory.scores + m * memory.row, first.visible(m), first.args.scale);
    }
  }
  const auto values_at = [&](Index j) HWY_ATTR { return first.values(j); };
  for_rows<few_rows>(first, kv_heads, n, values_at,
                     [&](Index j, Index keys, RowsAhead ahead) HWY_ATTR {
                       for (Index i = 0; i < kv_heads; ++i) {
                         const Memory memory = memory_of(i);
                         const auto weights = [&](Index m) HWY_ATTR {
                           return Weights{memory.scores + m * memory.row + j, memory.row, 1};
                         };
                         add_rows(first, memory, first.values(j) + i * d_head,
                                  first.args.row_stride, j, keys, weights, ahead);
                       }
                     });
  for (Index i = 0; i < kv_heads; ++i) finish(block_of(i), memory_of(i));
}

// Copies rows of one head; where there are fewer than `count`, the last one is repeated.
template <class Place>
HWY_INLINE void copy_rows(const Block& block, Index j, Index rows, Index count, Place place,
                          float* to) {
  for (Index r = 0; r < count; ++r) {
    const float* from = place(j + HWY_MIN(r, rows - 1));
    float* row = to + r * block.width;
    for_each_register(block.args.d_head, [=](Index k, Index some) HWY_ATTR {
      store(load_count(from + k, some), row + k);
    });
  }
}

void attend_many(const Block& block) {
  const Memory memory(block, block.args.scratch.data());
  const Index n = block.context();
  const Index queries = round_up(block.queries, panel_width);
  // How often a tile of keys meets queries: each time requests its part of the next rows.
  const Index times = (queries / panel_width + side_by_side - 1) / side_by_side;
  const Index panel_size = memory.row * panel_width;
  pack_queries(block, memory.q);
  for (Index m = 0; m < queries; m += vector_lanes) {
    store(hn::Set(DF(), minus_infinity), memory.largest + m);
  }
  // Keys that the last query of a panel sees.
  const auto seen = [&](Index m) HWY_ATTR {
    return block.visible(HWY_MIN(m + panel_width, block.queries) - 1);
  };
  const auto keys_at = [&](Index j) HWY_ATTR { return block.keys(j); };
  for_rows<many_rows>(block, 1, n, keys_at, [&](Index first, Index keys, RowsAhead ahead) HWY_ATTR {
    copy_rows(block, first, keys, round_up(keys, panel_keys), keys_at, memory.rows);
    const auto score = [&](auto count, Index m) HWY_ATTR {
      const Index end = HWY_MIN(first + keys, seen(m + (count - 1) * panel_width));
      for (Index j = first; j < end; j += panel_keys) {
        for (Index i = 0; i < panel_keys; i += times) ahead.request();
        panel_scores<decltype(count)::value>(block, memory, m,
                                             memory.rows + (j - first) * block.width, j);
      }
    };
    Index m = 0;
    for (; m + side_by_side * panel_width <= queries; m += side_by_side * panel_width) {
      score(std::integral_constant<int, side_by_side>(), m);
    }
    for (; m < queries; m += panel_width) score(std::integral_constant<int, 1>(), m);
  });
  for (Index m = 0; m < queries; m += panel_width) {
    panel_weights(memory.scores + m / panel_width * panel_size, seen(m), memory.largest + m,
                  memory.sums + m);
  }
  clear(memory.out, block.queries * block.width);
  const auto values_at = [&](Index j) HWY_ATTR { return block.values(j); };
  for_rows<many_rows>(block, 1, n, values_at, [&](Index j, Index keys, RowsAhead ahead) HWY_ATTR {
    copy_rows(block, j, keys, keys, values_at, memory.rows);
    const auto weights = [&](Index m) HWY_ATTR {
      return Weights{
          memory.scores + m / panel_width * panel_size + j * panel_width + m % panel_width, 1,
          panel_width};
    };
    add_rows(block, memory, memory.rows, block.width, j, keys, weights, ahead);
  });
  finish(block, memory);
}

}  // namespace

void attention(const AttentionArgs& args) noexcept {
  const Index group = args.n_head / args.n_kv_head;
  const Index row = attention_row(args.position + args.q.rows);
  constexpr Index step = least_attention_block;
  const Index limit =
      HWY_MAX(step, HWY_MIN(largest_attention_block, attention_scores / row / step * step));
  for (Index head = args.heads.begin; head < args.heads.end;) {
    const Index kv_head = head / group;
    const Index heads = HWY_MIN(HWY_MIN(args.heads.end, (kv_head + 1) * group) - head, limit);
    const Index rows = limit / heads;
    Index kv_heads = 1;
    if (heads == group && args.q.rows * heads < few_queries) {
      kv_heads = HWY_MIN((args.heads.end - head) / group, few_kv_heads(args.d_head));
    }
    for (Index t = 0; t < args.q.rows; t += rows) {
      const Block block{.args = args,
                        .row = t,
                        .rows = HWY_MIN(rows, args.q.rows - t),
                        .head = head,
                        .heads = heads,
                        .kv_head = kv_head};
      block.queries < few_queries ? attend_few(block, kv_heads) : attend_many(block);
    }
    head += heads * kv_heads;
  }
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void attention(const AttentionArgs& args) noexcept {
  KRAIT_KERNEL(attention, ref::attention)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
