#include "krait/kernels/ssd.hpp"

#include "krait/kernels/ref/ssd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ssd.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// Tokens that a part of the state passes through while it stays in registers.
constexpr Index chunk_tokens = 16;

// Rows of the state whose sums are reduced together.
constexpr Index row_block = vector_lanes;

// What stays in registers at a time: rows, and groups of 16 columns of each.
constexpr int tile_rows = vector_lanes == 16 ? 4 : 1;
constexpr int tile_groups = 4;

// Step sizes and decays of one register of heads in a chunk, [tokens, vector_lanes].
struct HeadChunk {
  HWY_ALIGN float dt[chunk_tokens * vector_lanes];
  HWY_ALIGN float decay[chunk_tokens * vector_lanes];
};

// Columns of B and C that are packed at a time.
constexpr Index packed_columns = 256;

// B and C of a chunk and a group of heads, [columns / 16, tokens, B and C, 16], with zeros beyond
// the last column. They come from rows that may lie so far apart that the first-level cache has the
// same few places for all of them.
struct Columns {
  HWY_ALIGN float BC[chunk_tokens * 2 * packed_columns];
  Index group;  // what is packed: of this group of heads,
  Index first;  // the columns from here on
};

// What one block of rows needs for a chunk: [tokens, row_block] and [tokens, row_block, 16].
struct RowChunk {
  HWY_ALIGN float dt_x[chunk_tokens * row_block];
  HWY_ALIGN float sums[chunk_tokens * row_block * virtual_lanes];
};

// One head's part of a chunk.
struct Head {
  const float* decay;  // vector_lanes from one token to the next
  const float* dt;
  Index d_state;
};

// Advances R rows and `groups` groups of 16 columns from n on through a chunk. They stay in
// registers; the lanes of the sums, which take the columns in ascending order, go through `sums`.
// With `partial`, the only group has `count` columns. The same part of the next block of rows, or
// of the next head, is requested meanwhile: in this order, memory sees no stream to run ahead of.
// One function, since the state stays in its registers from loading to storing.
template <int R, int groups, bool wants_y, bool partial>
HWY_INLINE void advance(const Head& head, const float* BC, Index tokens, Index n, Index count,
                        const float* dt_x, float* sums, float* S) {
  constexpr int registers = groups * register_parts;
  const DF d;
  Array<Index, registers> counts;
  KRAIT_UNROLL
  for (int i = 0; i < registers; ++i) {
    const Index rest = count - i * vector_lanes;
    counts[i] = !partial ? vector_lanes : rest < 0 ? 0 : HWY_MIN(rest, vector_lanes);
  }
  const auto next_block = reinterpret_cast<std::uintptr_t>(S + n) +
                          static_cast<std::uintptr_t>(row_block * head.d_state) * sizeof(float);
  Array<VF, R * registers> state;
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) {
    const auto row = next_block + static_cast<std::uintptr_t>(r * head.d_state) * sizeof(float);
    KRAIT_UNROLL
    for (int g = 0; g < groups; ++g) {
      __builtin_prefetch(reinterpret_cast<const void*>(row + static_cast<std::uintptr_t>(g) * 64));
    }
    KRAIT_UNROLL
    for (int i = 0; i < registers; ++i) {
      state[r * registers + i] = load_count(S + r * head.d_state + n + i * vector_lanes, counts[i]);
    }
  }
  const float* decay = head.decay;
  for (Index t = 0; t < tokens; ++t) {
    const VF a = hn::Set(d, *decay);
    Array<VF, R> x;
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) x[r] = hn::Set(d, dt_x[r]);
    KRAIT_UNROLL
    for (int p = 0; p < register_parts; ++p) {
      Array<VF, R> acc;
      if constexpr (wants_y) {
        KRAIT_UNROLL
        for (int r = 0; r < R; ++r) {
          acc[r] = n == 0 ? hn::Zero(d) : load(sums + r * virtual_lanes + p * vector_lanes);
        }
      }
      KRAIT_UNROLL
      for (int g = 0; g < groups; ++g) {
        const int i = g * register_parts + p;
        const VF b = load(BC + g * chunk_tokens * 2 * virtual_lanes + p * vector_lanes);
        KRAIT_UNROLL
        for (int r = 0; r < R; ++r) {
          VF& s = state[r * registers + i];
          s = fma(a, s, hn::Mul(x[r], b));
        }
        if constexpr (wants_y) {
          const VF c = load(BC + (g * chunk_tokens * 2 + 1) * virtual_lanes + p * vector_lanes);
          KRAIT_UNROLL
          for (int r = 0; r < R; ++r) {
            const VF next = fma(c, state[r * registers + i], acc[r]);
            if constexpr (partial) {
              const auto mask = hn::FirstN(d, static_cast<std::size_t>(counts[i]));
              acc[r] = hn::IfThenElse(mask, next, acc[r]);
            } else {
              acc[r] = next;
            }
          }
        }
      }
      if constexpr (wants_y) {
        KRAIT_UNROLL
        for (int r = 0; r < R; ++r) store(acc[r], sums + r * virtual_lanes + p * vector_lanes);
      }
    }
    decay += vector_lanes;
    dt_x += row_block;
    sums += row_block * virtual_lanes;
    BC += 2 * virtual_lanes;
  }
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) {
    KRAIT_UNROLL
    for (int i = 0; i < registers; ++i) {
      store_count(state[r * registers + i], S + r * head.d_state + n + i * vector_lanes, counts[i]);
    }
  }
}

// All rows of a block.
template <int groups, bool wants_y, bool partial>
HWY_NOINLINE void advance_rows(const Head& head, const float* BC, Index tokens, Index n,
                               Index count, RowChunk& chunk, float* S, Index rows) {
  const auto tile = [&](auto tile_height, Index r) HWY_ATTR {
    advance<decltype(tile_height)::value, groups, wants_y, partial>(
        head, BC, tokens, n, count, chunk.dt_x + r, chunk.sums + r * virtual_lanes,
        S + r * head.d_state);
  };
  Index r = 0;
  for (; r + tile_rows <= rows; r += tile_rows) {
    tile(std::integral_constant<int, tile_rows>(), r);
  }
  for (; r < rows; ++r) tile(std::integral_constant<int, 1>(), r);
}

// The tree of row_block sums at once.
HWY_INLINE VF reduce_rows(const float* sums) {
#if HWY_TARGET == HWY_AVX3
  Lanes lanes[16];
  KRAIT_UNROLL
  for (int r = 0; r < 4; ++r) {
    KRAIT_UNROLL
    for (int t = 0; t < 4; ++t) lanes[r * 4 + t].part[0] = load(sums + (4 * t + r) * virtual_lanes);
  }
  return reduce_tokens<4, 0, 4>(lanes);
#elif HWY_TARGET == HWY_AVX2
  const DF d;
  VF s4[4];  // row r in the lower half, row r + 4 in the upper one
  KRAIT_UNROLL
  for (int r = 0; r < 4; ++r) {
    const float* low = sums + r * virtual_lanes;
    const float* high = low + 4 * virtual_lanes;
    const VF a = hn::Add(load(low), load(low + 8));
    const VF b = hn::Add(load(high), load(high + 8));
    s4[r] = hn::Add(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a));
  }
  const auto halves = [](VF a, VF b) HWY_ATTR {
    return hn::Add(VF{_mm256_shuffle_ps(a.raw, b.raw, 0x44)},
                   VF{_mm256_shuffle_ps(a.raw, b.raw, 0xEE)});
  };
  const VF s2_01 = halves(s4[0], s4[1]);
  const VF s2_23 = halves(s4[2], s4[3]);
  return hn::Add(VF{_mm256_shuffle_ps(s2_01.raw, s2_23.raw, 0x88)},
                 VF{_mm256_shuffle_ps(s2_01.raw, s2_23.raw, 0xDD)});
#else
  Lanes lanes[4];
  KRAIT_UNROLL
  for (int r = 0; r < 4; ++r) {
    KRAIT_UNROLL
    for (int p = 0; p < register_parts; ++p) {
      lanes[r].part[p] = load(sums + r * virtual_lanes + p * vector_lanes);
    }
  }
  return reduce_4(lanes[0], lanes[1], lanes[2], lanes[3]);
#endif
}

// Packs B and C, unless they are there from another block of rows or another head.
template <bool wants_y>
HWY_INLINE void pack(const SsdScanArgs& args, Columns& columns, Index first_token, Index tokens,
                     Index group, Index first) {
  if (columns.group == group && columns.first == first) return;
  columns.group = group;
  columns.first = first;
  const Index end = HWY_MIN(first + packed_columns, args.d_state);
  for (Index n = first; n < end; n += virtual_lanes) {
    float* to = columns.BC + (n - first) * chunk_tokens * 2;
    for (Index t = first_token; t < first_token + tokens; ++t) {
      for (Index p = 0; p < vector_parts; ++p) {
        const Index at = n + p * vector_lanes;
        const Index count = HWY_MAX(0, HWY_MIN(vector_lanes, end - at));
        const Index from = group * args.d_state + at;
        store(load_count(args.B.row_data(t) + from, count), to + p * vector_lanes);
        if constexpr (wants_y) {
          store(load_count(args.C.row_data(t) + from, count),
                to + virtual_lanes + p * vector_lanes);
        }
      }
      to += 2 * virtual_lanes;
    }
  }
}

// A chunk of tokens of `rows` rows of head h, the first of which is channel c.
template <bool wants_y>
HWY_INLINE void scan_rows(const SsdScanArgs& args, const Head& head, Columns& columns,
                          Index first_token, Index tokens, Index h, Index c, Index rows) {
  const DF d;
  RowChunk chunk;
  for (Index t = 0; t < tokens; ++t) {
    const VF x = load_count(args.x.row_data(first_token + t) + c, rows);
    store(hn::Mul(hn::Set(d, head.dt[t * vector_lanes]), x), chunk.dt_x + t * row_block);
  }
  const Index group = h / (args.n_head / args.n_group);
  float* S = args.state + c * head.d_state;
  for (Index first = 0; first < head.d_state; first += packed_columns) {
    pack<wants_y>(args, columns, first_token, tokens, group, first);
    const Index end = HWY_MIN(first + packed_columns, head.d_state);
    const auto packed = [&](Index n) { return columns.BC + (n - first) * chunk_tokens * 2; };
    constexpr Index width = tile_groups * virtual_lanes;
    Index n = first;
    for (; n + width <= end; n += width) {
      advance_rows<tile_groups, wants_y, false>(head, packed(n), tokens, n, width, chunk, S, rows);
    }
    for (; n + virtual_lanes <= end; n += virtual_lanes) {
      advance_rows<1, wants_y, false>(head, packed(n), tokens, n, virtual_lanes, chunk, S, rows);
    }
    if (n < end) {
      advance_rows<1, wants_y, true>(head, packed(n), tokens, n, end - n, chunk, S, rows);
    }
  }
  if constexpr (wants_y) {
    const VF D = args.D_per_channel ? load_count(args.D + c, rows) : hn::Set(d, args.D[h]);
    for (Index t = 0; t < tokens; ++t) {
      const VF x = load_count(args.x.row_data(first_token + t) + c, rows);
      float* sums = chunk.sums + t * row_block * virtual_lanes;
      for (Index i = rows * virtual_lanes; i < row_block * virtual_lanes; ++i) sums[i] = 0.0F;
      store_count(fma(D, x, reduce_rows(sums)), args.y.row_data(first_token + t) + c, rows);
    }
  }
}

template <bool wants_y>
void scan(const SsdScanArgs& args) noexcept {
  const VectorOps ops;
  for_each_register(args.heads.size(), [&](Index i, Index count) HWY_ATTR {
    const Index first_head = args.heads.begin + i;
    HeadChunk chunk;
    Columns columns;
    for (Index first = 0; first < args.x.rows; first += chunk_tokens) {
      const Index tokens = HWY_MIN(chunk_tokens, args.x.rows - first);
      for (Index t = 0; t < tokens; ++t) {
        const VF raw = hn::Add(load_count(args.dt_raw.row_data(first + t) + first_head, count),
                               load_count(args.dt_bias + first_head, count));
        const VF dt =
            ops.min(ops.set(args.dt_max), ops.max(ops.set(args.dt_min), softplus_of(ops, raw)));
        const VF A = load_count(args.A + first_head, count);
        store(dt, chunk.dt + t * vector_lanes);
        store(exp2_nonpositive_of(ops, ops.mul(dt, A)), chunk.decay + t * vector_lanes);
      }
      columns.group = -1;  // of the last chunk
      for (Index k = 0; k < count; ++k) {
        const Index h = first_head + k;
        const Head head{.decay = chunk.decay + k, .dt = chunk.dt + k, .d_state = args.d_state};
        for (Index p = 0; p < args.head_dim; p += row_block) {
          scan_rows<wants_y>(args, head, columns, first, tokens, h, h * args.head_dim + p,
                             HWY_MIN(row_block, args.head_dim - p));
        }
      }
    }
  });
}

void ssd_scan(const SsdScanArgs& args) noexcept {
  args.C.data != nullptr ? scan<true>(args) : scan<false>(args);
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void ssd_scan(const SsdScanArgs& args) noexcept { KRAIT_KERNEL(ssd_scan, ref::ssd_scan)(args); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
