#include "krait/kernels/attention.hpp"

#include <cstring>

#include "krait/kernels/ref/attention.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/attention-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

// A tile continues this many registers of output columns of T queries; it has up to so many of few
// queries, and of the 16 of a panel.
constexpr int value_parts(Index T) {
  return T < (HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON ? 7 : 3) ? 4 : 2;
}
constexpr int few_value_tile = HWY_TARGET == HWY_AVX3 ? 7 : 4;
constexpr int panel_value_tile = 4;

// Of a tile of columns: to ask for something behind each key takes longer than a small tile's
// products.
constexpr Index keys_a_request = 4;

// Weights of queries: of query t and key j at [t·apart + j·step].
struct Weights {
  const float* at;
  Index apart;
  Index step;
};

// Continues the chains of C registers of columns of T queries over `keys` keys. The last register
// has `count` columns.
template <int T, int C, class W>
HWY_INLINE void add_columns(const W* V, Index stride, Index keys, const Weights& p, Index count,
                            float* out, Index width, RowsAhead& ahead) {
  const DF d;
  Array<VF, T * C> acc;
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    KRAIT_UNROLL
    for (int c = 0; c < C; ++c) acc[t * C + c] = load(out + t * width + c * vector_lanes);
  }
  for (Index j = 0; j < keys; ++j) {
    if (j % keys_a_request == 0) ahead.request();
    const W* v = V + j * stride;
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
template <int T, class W>
HWY_NOINLINE void add_values(const Block& block, const W* V, Index stride, Index keys,
                             const Weights& p, float* out, RowsAhead& ahead) {
  constexpr int C = value_parts(T);
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
template <int T, class W>
HWY_INLINE void add_seen_values(const Block& block, Index m, const W* V, Index stride, Index j,
                                Index keys, const Weights& p, float* out, RowsAhead& ahead) {
  if (block.begin(m + T - 1) > j) [[unlikely]] {  // a window begins in these keys or behind them
    for (Index t = 0; t < T; ++t) {
      const Index begin = HWY_MAX(Index{0}, block.begin(m + t) - j);
      const Index count = HWY_MIN(keys, block.visible(m + t) - j) - begin;
      if (count <= 0) continue;
      add_values<1>(block, V + begin * stride, stride, count,
                    {p.at + t * p.apart + begin * p.step, p.apart, p.step}, out + t * block.width,
                    ahead);
    }
    return;
  }
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

// Calls add_seen_values<queries>; queries ≤ T.
template <int T, class W>
HWY_INLINE void add_seen_values_of(Index queries, const Block& block, Index m, const W* V,
                                   Index stride, Index j, Index keys, const Weights& p, float* out,
                                   RowsAhead& ahead) {
  if constexpr (T > 0) {
    if (queries < T) {
      return add_seen_values_of<T - 1>(queries, block, m, V, stride, j, keys, p, out, ahead);
    }
    add_seen_values<T>(block, m, V, stride, j, keys, p, out, ahead);
  }
}

// How often the tiles of add_rows request something for `keys` keys.
template <int T, bool panels>
Index value_calls(const Block& block, Index keys) {
  const Index tiles = (block.queries + T - 1) / T;
  const Index columns = vector_lanes * value_parts(panels ? T : block.queries / tiles);
  return keys / keys_a_request * tiles * ((block.args.d_head + columns - 1) / columns);
}

// All queries over keys [j, j + keys), in tiles of up to T, of nearly equal height unless those of
// panels. weights(m) are those of the queries from m on.
template <int T, bool panels, class W, class WeightsOf>
HWY_INLINE void add_rows(const Block& block, const Memory& memory, const W* V, Index stride,
                         Index j, Index keys, WeightsOf weights, RowsAhead& ahead) {
  const Index tiles = (block.queries + T - 1) / T;
  for (Index tile = 0; tile < tiles; ++tile) {
    const Index m = panels ? tile * T : block.queries * tile / tiles;
    const Index end = panels ? HWY_MIN(m + T, block.queries) : block.queries * (tile + 1) / tiles;
    add_seen_values_of<T>(end - m, block, m, V, stride, j, keys, weights(m),
                          memory.out + m * block.width, ahead);
  }
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
// `first`: the rows of the cache are read as they lie. One function, since its passes over queries,
// keys, scores and values share what tells a head's block and memory.
template <class W>
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
  float* const widened = memory_of(kv_heads).q;  // behind those of all heads
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
  const Index step = rows_of(kv_heads * first.head_bytes);
  constexpr bool is_float = std::is_same_v<W, float>;
  constexpr int key_tile = is_float ? few_tile : HWY_MIN(few_tile, queries_in_registers);
  constexpr int value_tile = is_float ? few_value_tile : queries_in_registers;
  const Index tiles = (first.queries + key_tile - 1) / key_tile;
  const auto keys_at = [&](Index j) HWY_ATTR { return first.keys(j); };
  for_rows(first, step, kv_heads, n, kv_heads * tiles * (step / 4), keys_at,
           [&](Index j, Index keys, RowsAhead ahead) HWY_ATTR {
             for (Index i = 0; i < kv_heads; ++i) {
               const Memory memory = memory_of(i);
               const Rows<W> rows =
                   rows_at<W>(first, first.keys(j) + i * first.head_bytes, keys, widened);
               // A few keys meet all queries while they are in the L1 cache.
               for (Index k = 0; k < keys; k += 4) {
                 for (Index tile = 0; tile < tiles; ++tile) {
                   const Index m = first.queries * tile / tiles;
                   few_products_of<key_tile, W>(
                       first.queries * (tile + 1) / tiles - m, first,
                       {rows.at + k * rows.stride, rows.stride}, HWY_MIN(Index{4}, keys - k),
                       memory.q + m * first.width, memory.scores + m * memory.row + j + k,
                       memory.row, ahead);
                 }
               }
             }
           });
  for (Index i = 0; i < kv_heads; ++i) {
    const Memory memory = memory_of(i);
    for (Index m = 0; m < first.queries; ++m) {
      memory.sums[m] = few_weights(memory.scores + m * memory.row, first.begin(m), first.visible(m),
                                   first.args.scale);
    }
  }
  const auto values_at = [&](Index j) HWY_ATTR { return first.values(j); };
  for_rows(first, step, kv_heads, n, kv_heads * value_calls<value_tile, false>(first, step),
           values_at, [&](Index j, Index keys, RowsAhead ahead) HWY_ATTR {
             for (Index i = 0; i < kv_heads; ++i) {
               const Memory memory = memory_of(i);
               const auto weights = [&](Index m) HWY_ATTR {
                 return Weights{memory.scores + m * memory.row + j, memory.row, 1};
               };
               const Rows<W> rows =
                   rows_at<W>(first, first.values(j) + i * first.head_bytes, keys, widened);
               add_rows<value_tile, false>(first, memory, rows.at, rows.stride, j, keys, weights,
                                           ahead);
             }
           });
  for (Index i = 0; i < kv_heads; ++i) finish(block_of(i), memory_of(i));
}

void attend_many(const Block& block) {
  const Memory memory(block, block.args.scratch.data());
  const Index n = block.context();
  const Index queries = round_up(block.queries, panel_width);
  // How often a tile of keys meets queries.
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
  const Index key_calls = most_rows / panel_keys * times;
  for_rows(block, most_rows, 1, n, key_calls, keys_at,
           [&](Index first, Index keys, RowsAhead ahead) HWY_ATTR {
             copy_rows(block, keys_at(first), keys, round_up(keys, panel_keys), memory.rows);
             const auto score = [&](auto count, Index m) HWY_ATTR {
               const Index end = HWY_MIN(first + keys, seen(m + (count - 1) * panel_width));
               for (Index j = first; j < end; j += panel_keys) {
                 ahead.request();
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
  const Index calls = value_calls<panel_value_tile, true>(block, most_rows);
  for_rows(block, most_rows, 1, n, calls, values_at,
           [&](Index j, Index keys, RowsAhead ahead) HWY_ATTR {
             copy_rows(block, values_at(j), keys, keys, memory.rows);
             const auto weights = [&](Index m) HWY_ATTR {
               return Weights{
                   memory.scores + m / panel_width * panel_size + j * panel_width + m % panel_width,
                   1, panel_width};
             };
             add_rows<panel_value_tile, true>(block, memory, memory.rows, block.width, j, keys,
                                              weights, ahead);
           });
  finish(block, memory);
}

void attend(const Block& block, Index kv_heads) {
  if (block.queries >= few_queries) return attend_many(block);
  if (block.queries <= queries_in_registers) {
    if (block.args.dtype == DType::bf16) return attend_few<bf16>(block, kv_heads);
#if HWY_TARGET != HWY_SSE4  // which has no instruction for it: widening once costs less
    if (block.args.dtype == DType::f16) return attend_few<f16>(block, kv_heads);
#endif
  }
  attend_few<float>(block, kv_heads);
}

}  // namespace

void store_attention_row(std::span<const float> from, DType dtype, void* to) noexcept {
  const Index count = std::ssize(from);
  Index k = 0;
  if (dtype == DType::bf16) {
    const hn::Rebind<std::uint16_t, DF> d16;
    for (; k + vector_lanes <= count; k += vector_lanes) {
      const auto bits = hn::BitCast(DI(), bf16_bits(DF(), load(from.data() + k)));
      hn::StoreU(hn::DemoteTo(d16, bits), d16, static_cast<std::uint16_t*>(to) + k);
    }
  }
#if HWY_TARGET != HWY_SSE4  // has no such instruction
  if (dtype == DType::f16) {
    const hn::Rebind<hwy::float16_t, DF> d16;
    for (; k + vector_lanes <= count; k += vector_lanes) {
      hn::StoreU(hn::DemoteTo(d16, load(from.data() + k)), d16,
                 static_cast<hwy::float16_t*>(to) + k);
    }
  }
#endif
  ref::store_attention_row(from.subspan(static_cast<std::size_t>(k)), dtype,
                           static_cast<std::byte*>(to) + k * bytes_of(dtype));
}

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
      kv_heads =
          HWY_MIN((args.heads.end - head) / group, few_kv_heads(args.d_head, args.q.rows * heads));
    }
    for (Index t = 0; t < args.q.rows; t += rows) {
      const Block block{.args = args,
                        .row = t,
                        .rows = HWY_MIN(rows, args.q.rows - t),
                        .head = head,
                        .heads = heads,
                        .kv_head = kv_head};
      attend(block, kv_heads);
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

void store_attention_row(std::span<const float> from, DType dtype, void* to) noexcept {
  if (dtype == DType::f32) {
    std::memcpy(to, from.data(), from.size_bytes());
    return;
  }
  KRAIT_KERNEL(store_attention_row, ref::store_attention_row)(from, dtype, to);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
