#include "krait/kernels/matmul_panels.hpp"

#include <optional>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/ref/matmul_panels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_panels.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

constexpr Index panel_rows = 16;
constexpr int panel_parts = static_cast<int>(panel_rows / vector_lanes);
constexpr Index panel_tokens = PanelActivations::panel_tokens;

// Fewer tokens do not repay the packing; `matmul_packed` is slower in f32 than in 16 bits.
constexpr Index min_tokens(DType weights) { return weights == DType::f32 ? 16 : 24; }

using D4 = hn::FixedTag<float, 4>;
using V4 = hn::Vec<D4>;

// Element j of v[i] becomes element i of v[j].
HWY_INLINE void transpose(V4 (&v)[4]) {
  const D4 d;
  const hn::Repartition<double, D4> wide;
  const auto low = [&](V4 x, V4 y) HWY_ATTR {
    return hn::BitCast(d, hn::InterleaveLower(wide, hn::BitCast(wide, x), hn::BitCast(wide, y)));
  };
  const auto high = [&](V4 x, V4 y) HWY_ATTR {
    return hn::BitCast(d, hn::InterleaveUpper(wide, hn::BitCast(wide, x), hn::BitCast(wide, y)));
  };
  const V4 a = hn::InterleaveLower(d, v[0], v[1]);
  const V4 b = hn::InterleaveUpper(d, v[0], v[1]);
  const V4 c = hn::InterleaveLower(d, v[2], v[3]);
  const V4 e = hn::InterleaveUpper(d, v[2], v[3]);
  v[0] = low(a, c);
  v[1] = high(a, c);
  v[2] = low(b, e);
  v[3] = high(b, e);
}

#if HWY_TARGET == HWY_AVX2

// Element c of row r, of 8 rows of 8, goes to places[c][at + r].
template <class W>
HWY_INLINE void transpose_8(const W* w, Index n, float* const* places, Index at) {
  const DF d;
  VF v[8];
  KRAIT_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = load(w + i * n);
  KRAIT_UNROLL
  for (int half = 0; half < 2; ++half) {
    VF rows[4];  // 4 columns of rows i and i + 4
    KRAIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      rows[i] = half == 0 ? hn::ConcatLowerLower(d, v[i + 4], v[i])
                          : hn::ConcatUpperUpper(d, v[i + 4], v[i]);
    }
    const VF a = hn::InterleaveLower(d, rows[0], rows[2]);
    const VF b = hn::InterleaveLower(d, rows[1], rows[3]);
    const VF c = hn::InterleaveUpper(d, rows[0], rows[2]);
    const VF e = hn::InterleaveUpper(d, rows[1], rows[3]);
    float* const* out = places + 4 * half;
    store(hn::InterleaveLower(d, a, b), out[0] + at);
    store(hn::InterleaveUpper(d, a, b), out[1] + at);
    store(hn::InterleaveLower(d, c, e), out[2] + at);
    store(hn::InterleaveUpper(d, c, e), out[3] + at);
  }
}

#endif

// Where the elements of the first group of a packed row go, `width` rows side by side.
struct Places {
  float* at[32];

  Places(const PanelLayout& layout, Index width, float* packed) {
    for (Index k = 0; k < layout.group(); ++k) at[k] = packed + layout.position(k) * width;
  }
};

// Writes `rows` ≤ 16 rows of w as a panel; rows that are missing become zeros.
template <class W>
void pack_weights(const W* w, Index n, Index rows, const PanelLayout& layout, float* panel) {
  const Places places(layout, panel_rows, panel);
  const Index group = layout.group();
  Index k = 0;
  if (rows == panel_rows) {
    for (; k + group <= n; k += group) {
      // 16 · 16 floats on for each 16 elements: a group of 16 or 32 fills so many places. Rows one
      // after the other: where they are 2^n bytes long, the cache holds the lines of few at a time.
#if HWY_TARGET == HWY_AVX2
      for (Index r = 0; r < panel_rows; r += 8) {
        for (Index column = 0; column < group; column += 8) {
          transpose_8(w + r * n + k + column, n, places.at + column, k + r);
        }
      }
#else
      for (Index r = 0; r < panel_rows; r += 4) {
        for (Index column = 0; column < group; column += 4) {
          V4 v[4];
          KRAIT_UNROLL
          for (int i = 0; i < 4; ++i) v[i] = load_as(D4(), w + (r + i) * n + k + column);
          transpose(v);
          KRAIT_UNROLL
          for (int i = 0; i < 4; ++i) hn::StoreU(v[i], D4(), places.at[column + i] + k + r);
        }
      }
#endif
    }
  }
  for (; k < layout.length(); ++k) {
    float* out = panel + layout.position(k) * panel_rows;
    for (Index r = 0; r < panel_rows; ++r) {
      out[r] = r < rows && k < n ? to_float(w[r * n + k]) : 0.0F;
    }
  }
}

// T tokens and the outputs of one panel.
struct PanelProduct {
  const float* x;     // a panel
  const float* bias;  // or null
  float* y;
  Index y_stride;
};

// One panel times T tokens; stores the first `rows` outputs. The loop over lanes is not unrolled:
// there must be one place with T · panel_parts registers, or compilers spill them.
template <int T>
void multiply_tile(const float* panel, const PanelProduct& in, const std::array<Index, 16>& steps,
                   Index rows, Fetch& fetch) {
  constexpr int size = panel_parts * T;
  Array<VF, size> waiting[4];  // sums whose other term is still to come
  Array<VF, size>* top = waiting;
  const float* x = in.x;
  for (unsigned i = 0; i < virtual_lanes; ++i) {
    fetch.advance();
    Array<VF, size> acc;
    KRAIT_UNROLL
    for (int j = 0; j < size; ++j) acc[j] = hn::Zero(DF());
    const auto step = [&]() HWY_ATTR {
      Array<VF, panel_parts> ws;
      KRAIT_UNROLL
      for (int p = 0; p < panel_parts; ++p) ws[p] = load(panel + p * vector_lanes);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const VF xs = hn::Set(DF(), x[t]);
        KRAIT_UNROLL
        for (int p = 0; p < panel_parts; ++p) {
          VF& a = acc[t * panel_parts + p];
          a = fma(ws[p], xs, a);
        }
      }
      panel += panel_rows;
      x += panel_tokens;
    };
    for (Index s = steps[i]; s > 0; --s) step();
    panel += panel_rows;  // the unused place
    x += panel_tokens;
    for (unsigned sums = i + 1; sums % 2 == 0; sums /= 2) {
      --top;
      KRAIT_UNROLL
      for (int j = 0; j < size; ++j) acc[j] = hn::Add((*top)[j], acc[j]);
    }
    KRAIT_UNROLL
    for (int j = 0; j < size; ++j) (*top)[j] = acc[j];
    ++top;
  }
  KRAIT_UNROLL
  for (int p = 0; p < panel_parts; ++p) {
    const Index at = p * vector_lanes;
    if (at >= rows) return;
    const Index count = HWY_MIN(vector_lanes, rows - at);
    VF bias = hn::Zero(DF());
    if (in.bias != nullptr) bias = load_count(in.bias + at, count);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      VF sum = waiting[0][t * panel_parts + p];
      if (in.bias != nullptr) sum = hn::Add(sum, bias);
      store_count(sum, in.y + t * in.y_stride + at, count);
    }
  }
}

// Calls multiply_tile<tokens>; tokens ≤ T.
template <int T>
HWY_INLINE void multiply_tile_of(Index tokens, const float* panel, const PanelProduct& in,
                                 const std::array<Index, 16>& steps, Index rows, Fetch& fetch) {
  if constexpr (T > 0) {
    if (tokens < T) return multiply_tile_of<T - 1>(tokens, panel, in, steps, rows, fetch);
    multiply_tile<T>(panel, in, steps, rows, fetch);
  }
}

template <class W>
void multiply(const MatmulPanelsArgs& args) {
  const Index n = args.W.cols;
  const auto* w = static_cast<const W*>(args.W.data);
  const PanelLayout layout(args.x.order, n);
  const Index panel = panel_floats(args.x.order, n);
  const Index room = static_cast<Index>(args.panels.size()) / panel * panel_rows;
  const Index block = HWY_MIN(room, panel_block(args.x.order, n));
  const Index panels = (args.x.tokens + panel_tokens - 1) / panel_tokens;
  for (Index first = args.outputs.begin; first < args.outputs.end; first += block) {
    const Index last = HWY_MIN(args.outputs.end, first + block);
    const auto panel_of = [&](Index row) {
      return args.panels.data() + (row - first) / panel_rows * panel;
    };
    for (Index row = first; row < last; row += panel_rows) {
      pack_weights(w + row * n, n, HWY_MIN(panel_rows, last - row), layout, panel_of(row));
    }
    const Range next =
        last < args.outputs.end ? Range{last, HWY_MIN(last + block, args.outputs.end)} : args.next;
    const Index bytes = next.size() * n * static_cast<Index>(sizeof(W));
    const Index lanes = panels * ((last - first + panel_rows - 1) / panel_rows) * virtual_lanes;
    Fetch fetch{.next = reinterpret_cast<std::uintptr_t>(w + next.begin * n),
                .step = static_cast<std::uintptr_t>((bytes + lanes - 1) / lanes)};
    for (Index token = 0; token < args.x.tokens; token += panel_tokens) {
      for (Index row = first; row < last; row += panel_rows) {
        const PanelProduct part{.x = args.x.panel_data(token),
                                .bias = args.bias != nullptr ? args.bias + row : nullptr,
                                .y = args.y.row_data(token) + row,
                                .y_stride = args.y.stride};
        multiply_tile_of<panel_tokens>(HWY_MIN(panel_tokens, args.x.tokens - token), panel_of(row),
                                       part, layout.steps(), HWY_MIN(panel_rows, last - row),
                                       fetch);
      }
    }
  }
}

}  // namespace

void pack_activations(MatrixView<const float> x, Range tokens,
                      const PanelActivations& out) noexcept {
  const D4 d;
  const hn::FixedTag<float, 2> d2;
  const PanelLayout layout(out.order, out.cols);
  const bool rounds = out.order == LaneOrder::pairs;
  for (Index token = tokens.begin; token < tokens.end; token += panel_tokens) {
    float* packed = out.panel_data(token);
    const Places places(layout, panel_tokens, packed);
    const float* rows[panel_tokens];  // tokens that are missing repeat the last one
    for (Index t = 0; t < panel_tokens; ++t)
      rows[t] = x.row_data(HWY_MIN(token + t, tokens.end - 1));
    const auto load_row = [&](Index t, Index k) HWY_ATTR {
      const V4 v = hn::LoadU(d, rows[t] + k);
      return rounds ? hn::BitCast(d, hn::ShiftLeft<16>(bf16_bits(d, v))) : v;
    };
    Index k = 0;
    for (; k + layout.group() <= out.cols; k += layout.group()) {
      const Index at = k / 16 * panel_tokens;
      for (Index column = 0; column < layout.group(); column += 4) {
        V4 v[4];
        KRAIT_UNROLL
        for (int i = 0; i < 4; ++i) v[i] = load_row(i, k + column);
        const V4 e = load_row(4, k + column);
        const V4 f = load_row(5, k + column);
        transpose(v);
        KRAIT_UNROLL
        for (int i = 0; i < 4; ++i) hn::StoreU(v[i], d, places.at[column + i] + at);
        const V4 low = hn::InterleaveLower(d, e, f);
        const V4 high = hn::InterleaveUpper(d, e, f);
        hn::StoreU(hn::LowerHalf(d2, low), d2, places.at[column] + at + 4);
        hn::StoreU(hn::UpperHalf(d2, low), d2, places.at[column + 1] + at + 4);
        hn::StoreU(hn::LowerHalf(d2, high), d2, places.at[column + 2] + at + 4);
        hn::StoreU(hn::UpperHalf(d2, high), d2, places.at[column + 3] + at + 4);
      }
    }
    for (; k < layout.length(); ++k) {
      float* values = packed + layout.position(k) * panel_tokens;
      for (Index t = 0; t < panel_tokens; ++t) {
        const float value = k < out.cols ? rows[t][k] : 0.0F;
        values[t] = rounds ? to_float(to_bf16(value)) : value;
      }
    }
  }
}

void matmul_panels(const MatmulPanelsArgs& args) noexcept {
  std::optional<FlushToZero> flush;
  if (args.x.order == LaneOrder::pairs) flush.emplace();
  switch (args.W.dtype) {
    case DType::f16:
      return multiply<f16>(args);
    case DType::bf16:
      return multiply<bf16>(args);
    default:
      return multiply<float>(args);
  }
}

// Where one register holds all lanes of an output, there is nothing to gain.
bool panels_pay(Index tokens, DType weights) noexcept {
  constexpr bool few_lanes = HWY_TARGET != HWY_AVX3 && HWY_TARGET != HWY_SSE4;
  return few_lanes && tokens >= min_tokens(weights);
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

bool panels_pay_scalar(Index /*tokens*/, DType /*weights*/) noexcept { return false; }

}  // namespace

void pack_activations(MatrixView<const float> x, Range tokens,
                      const PanelActivations& out) noexcept {
  KRAIT_KERNEL(pack_activations, ref::pack_activations)(x, tokens, out);
}

void matmul_panels(const MatmulPanelsArgs& args) noexcept {
  KRAIT_KERNEL(matmul_panels, ref::matmul_panels)(args);
}

bool panels_pay(Index tokens, DType weights) noexcept {
  return KRAIT_KERNEL(panels_pay, panels_pay_scalar)(tokens, weights);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
