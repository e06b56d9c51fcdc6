#include "krait/kernels/aqlm.hpp"

#include <bit>
#include <cstring>

#include "krait/kernels/ref/aqlm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/aqlm.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

// A row of W while it is decoded: its codes, and where the codewords of its row of a block begin.
template <class Code, class Number>
struct Row {
  const std::byte* codes;
  const Number* codebooks;
  float scale;
  Index book;    // numbers of a codebook
  Index word;    // numbers of a codeword
  Index length;  // of a row of a codeword
  Index mask;
  int count;  // codebooks

  Row(const AqlmWeights& W, Index r)
      : codes(static_cast<const std::byte*>(W.codes) + r / W.scheme.out_group * W.groups() *
                                                           W.scheme.codebooks *
                                                           static_cast<Index>(sizeof(Code))),
        codebooks(static_cast<const Number*>(W.codebooks) +
                  r % W.scheme.out_group * W.scheme.in_group),
        scale(W.scales[r / W.scheme.out_group]),
        book(W.scheme.codewords() * W.scheme.codeword()),
        word(W.scheme.codeword()),
        length(W.scheme.in_group),
        mask(W.scheme.codewords() - 1),
        count(static_cast<int>(W.scheme.codebooks)) {}

  // The codeword of codebook m for group j.
  HWY_INLINE const Number* at(Index j, int m) const {
    Code code;
    std::memcpy(&code, codes + (j * count + m) * static_cast<Index>(sizeof(Code)), sizeof code);
    return codebooks + m * book + (code & mask) * word;
  }
};

// Whole groups [begin, end) of a row, a register at a time, of M codebooks.
template <int M, class D, class Code, class Number>
HWY_INLINE void decode_groups(D d, const Row<Code, Number>& row, Index begin, Index end,
                              float* out) {
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const auto scale = hn::Set(d, row.scale);
  const Index word = row.word;
  const Index mask = row.mask;
  const Index length = row.length;
  Array<const Number*, M> books;
  KRAIT_UNROLL
  for (int m = 0; m < M; ++m) books[m] = row.codebooks + m * row.book;
  const std::byte* codes = row.codes + begin * M * static_cast<Index>(sizeof(Code));
  for (Index j = begin; j < end; ++j) {
    Code group[static_cast<std::size_t>(M)];
    std::memcpy(group, codes, sizeof group);
    codes += sizeof group;
    Array<const Number*, M> words;
    KRAIT_UNROLL
    for (int m = 0; m < M; ++m) words[m] = books[m] + (group[m] & mask) * word;
    for (Index at = 0; at < length; at += lanes) {
      auto sum = load_as(d, words[0] + at);
      KRAIT_UNROLL
      for (int m = 1; m < M; ++m) sum = hn::Add(sum, load_as(d, words[m] + at));
      hn::StoreU(hn::Mul(scale, sum), d, out + at);
    }
    out += length;
  }
}

// The same for any number of codebooks.
template <class D, class R>
HWY_INLINE void decode_groups(D d, const R& row, Index begin, Index end, float* out) {
  const Index lanes = static_cast<Index>(hn::Lanes(d));
  const auto scale = hn::Set(d, row.scale);
  for (Index j = begin; j < end; ++j) {
    for (Index at = 0; at < row.length; at += lanes) {
      auto sum = load_as(d, row.at(j, 0) + at);
      for (int m = 1; m < row.count; ++m) sum = hn::Add(sum, load_as(d, row.at(j, m) + at));
      hn::StoreU(hn::Mul(scale, sum), d, out + at);
    }
    out += row.length;
  }
}

template <class R>
HWY_INLINE void decode_numbers(const R& row, Index begin, Index end, float* out) {
  for (Index k = begin; k < end; ++k) {
    const Index j = k / row.length;
    const Index at = k % row.length;
    float sum = to_float(row.at(j, 0)[at]);
    for (int m = 1; m < row.count; ++m) sum += to_float(row.at(j, m)[at]);
    *out++ = row.scale * sum;
  }
}

template <class D, class R>
HWY_INLINE void decode_by_count(D d, const R& row, Index begin, Index end, float* out) {
  switch (row.count) {
    case 1:
      return decode_groups<1>(d, row, begin, end, out);
    case 2:
      return decode_groups<2>(d, row, begin, end, out);
    case 4:
      return decode_groups<4>(d, row, begin, end, out);
    case 8:
      return decode_groups<8>(d, row, begin, end, out);
    default:
      return decode_groups(d, row, begin, end, out);
  }
}

// Weights [begin, end) of a row, which begin and end with a group or else are any.
template <class R>
HWY_NOINLINE void decode_part(const R& row, Index begin, Index end, float* out) {
  const Index g = row.length;
  if (g % 4 != 0 || begin % g != 0 || end % g != 0) return decode_numbers(row, begin, end, out);
  if (g % 16 == 0) return decode_by_count(DF(), row, begin / g, end / g, out);
  if (g % 8 == 0) {
    return decode_by_count(hn::CappedTag<float, 8>(), row, begin / g, end / g, out);
  }
  decode_by_count(hn::FixedTag<float, 4>(), row, begin / g, end / g, out);
}

// Weights that are decoded to memory at a time: whole groups of inputs where these are not too odd,
// and whole groups of lanes.
constexpr Index most_decoded = 512;

HWY_INLINE Index decoded_at_once(Index in_group) {
  Index length = in_group;
  while (length % virtual_lanes != 0) length *= 2;
  return length <= most_decoded ? most_decoded / length * length : most_decoded;
}

#if HWY_TARGET == HWY_AVX3
// Two groups of 8 in one register. hn::Combine would clear the upper half first.
HWY_INLINE VF put_together(hn::Vec<hn::Half<DF>> low, hn::Vec<hn::Half<DF>> high) {
  return VF{_mm512_insertf32x8(_mm512_castps256_ps512(low.raw), high.raw, 1)};
}
#endif

// Codes that are decoded together, in registers: 4 groups of 8 inputs.
constexpr Index step = 32;
constexpr Index step_groups = 4;
constexpr Index step_parts = step / vector_lanes;

// The codes of 4 groups for M codebooks, in registers.
template <int M, class Code>
class StepCodes {
 public:
  HWY_INLINE explicit StepCodes(const std::byte* codes) {
    KRAIT_UNROLL
    for (int i = 0; i < words; ++i) {
      word_[i] = 0;
      std::memcpy(&word_[i], codes + i * word_bytes, static_cast<std::size_t>(word_bytes));
    }
  }

  // What is `mask` of a code times 2^scale. A rotation leaves the word in its register, where a
  // shift would need a copy: two steps for each codeword.
  template <int scale>
  HWY_INLINE std::uintptr_t offset(int group, int m, std::uintptr_t mask) const {
    const int i = group * M + m;
    return std::rotr(word_[i / per_word], i % per_word * bits - scale) & mask;
  }

 private:
  static constexpr int bits = 8 * static_cast<int>(sizeof(Code));
  static constexpr int count = step_groups * M;
  static constexpr int per_word = HWY_MIN(count, 64 / bits);
  static constexpr int words = count / per_word;
  static constexpr int word_bytes = per_word * bits / 8;
  Array<std::uint64_t, words> word_;
};

// 32 weights of a row of groups of 8; `codes` are those of its 4 groups.
template <int M, class Code, class Number>
HWY_INLINE void decode_step(const Row<Code, Number>& row, const std::byte* codes, VF scale,
                            Array<VF, step_parts>& weights) {
  // Where a register has two groups they are put together when they have been added up.
  using D = hn::CappedTag<float, 8>;
  constexpr int codeword_shift = sizeof(Number) == 4 ? 5 : 4;  // of its bytes
  constexpr int lanes = static_cast<int>(hn::MaxLanes(D()));
  constexpr int per_group = 8 / lanes;
  const StepCodes<M, Code> words(codes);
  const std::uintptr_t mask = static_cast<std::uintptr_t>(row.mask) << codeword_shift;
  Array<hn::Vec<D>, step_groups * per_group> sums;
  KRAIT_UNROLL
  for (int group = 0; group < step_groups; ++group) {
    KRAIT_UNROLL
    for (int m = 0; m < M; ++m) {
      const auto* book = reinterpret_cast<const std::byte*>(row.codebooks + m * row.book);
      const auto* word = reinterpret_cast<const Number*>(
          book + words.template offset<codeword_shift>(group, m, mask));
      KRAIT_UNROLL
      for (int i = 0; i < per_group; ++i) {
        const auto numbers = load_as(D(), word + i * lanes);
        auto& sum = sums[group * per_group + i];
        sum = m == 0 ? numbers : hn::Add(sum, numbers);
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < static_cast<int>(step_parts); ++i) {
#if HWY_TARGET == HWY_AVX3
    weights[i] = hn::Mul(scale, put_together(sums[2 * i], sums[2 * i + 1]));
#else
    weights[i] = hn::Mul(scale, sums[i]);
#endif
  }
}

// The chains of R rows × T tokens over weights [begin, begin + count), which lie in `weights`, rows
// `most_decoded` from each other; begin is a multiple of 16.
template <int R, int T>
HWY_INLINE void accumulate_weights(const float* weights, const float* x, Index x_stride,
                                   Index count, Array<Lanes, R * T>& lanes) {
  constexpr int parts = static_cast<int>(vector_parts);
  const DF d;
  Array<VF, R * T * parts> acc;
  KRAIT_UNROLL
  for (int i = 0; i < R * T * parts; ++i) acc[i] = lanes[i / parts].part[i % parts];
  Index k = 0;
  for (; k + virtual_lanes <= count; k += virtual_lanes) {
    KRAIT_UNROLL
    for (int p = 0; p < parts; ++p) {
      Array<VF, R> w;
      KRAIT_UNROLL
      for (int r = 0; r < R; ++r) w[r] = load(weights + r * most_decoded + k + p * vector_lanes);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const VF xs = load(x + t * x_stride + k + p * vector_lanes);
        KRAIT_UNROLL
        for (int r = 0; r < R; ++r) {
          VF& a = acc[(r * T + t) * parts + p];
          a = fma(w[r], xs, a);
        }
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < R * T * parts; ++i) lanes[i / parts].part[i % parts] = acc[i];
  for (Index p = 0; k < count; k += vector_lanes, ++p) {
    const Index rest = HWY_MIN(vector_lanes, count - k);
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(rest));
    for (int t = 0; t < T; ++t) {
      const VF xs = load_count(x + t * x_stride + k, rest);
      for (int r = 0; r < R; ++r) {
        VF& a = lanes[r * T + t].part[p];
        a = hn::IfThenElse(mask, fma(load_count(weights + r * most_decoded + k, rest), xs, a), a);
      }
    }
  }
}

// Rows and tokens of a tile, whose chains are kept in registers. Without an instruction for fma
// more of them would only be more code.
constexpr int most_tokens = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 ? 4 : 2;

template <int T>
constexpr int tile_rows = HWY_TARGET == HWY_AVX3   ? 4
                          : HWY_TARGET == HWY_AVX2 ? (T == 1   ? 4
                                                      : T == 2 ? 2
                                                               : 1)
                                                   : 1;

// Rows of a group, which meet a stretch of this many inputs before the next, so that the tokens'
// inputs stay in the L1 cache beside the codebooks.
constexpr Index group_rows = 16;
template <int T>
constexpr Index stretch = T == 1 ? 1024 : 512;

// The next codes of R rows, which are too far apart for the hardware to see that they come.
template <int R>
HWY_INLINE void request(const std::byte* codes, Index row_bytes, Index bytes) {
  for (int r = 0; r < R; ++r) {
    for (Index at = 0; at < bytes; at += 64) __builtin_prefetch(codes + r * row_bytes + at, 0, 3);
  }
}

// R rows of groups of 8 inputs for T tokens: weights [begin, end), multiples of `step`.
template <int M, class Code, class Number, int R, int T>
HWY_INLINE void continue_rows(const MatmulAqlmArgs& args, Index first, Index token, Index begin,
                              Index end, Array<Lanes, R * T>& lanes) {
  constexpr int parts = static_cast<int>(vector_parts);
  constexpr Index step_bytes = step_groups * M * static_cast<Index>(sizeof(Code));
  const Row<Code, Number> row(args.W, first);
  const Index row_bytes = args.W.groups() * M * static_cast<Index>(sizeof(Code));
  const float* x = args.x.row_data(token);
  const std::byte* codes = row.codes + begin / step * step_bytes;
  if (end + step <= args.W.cols) {
    request<R>(codes + (end - begin) / step * step_bytes, row_bytes,
               (end - begin) / step * step_bytes);
  } else {
    request<R>(row.codes + group_rows * row_bytes, row_bytes,
               HWY_MIN(row_bytes, stretch<T> / step * step_bytes));
  }
  Array<VF, R> scales;
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) scales[r] = hn::Set(DF(), args.W.scales[first + r]);
  Array<VF, R * T * parts> acc;
  KRAIT_UNROLL
  for (int i = 0; i < R * T * parts; ++i) acc[i] = lanes[i / parts].part[i % parts];
  for (Index k = begin; k < end; k += step, codes += step_bytes) {
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) {
      Array<VF, step_parts> weights;
      decode_step<M>(row, codes + r * row_bytes, scales[r], weights);
      KRAIT_UNROLL
      for (int i = 0; i < static_cast<int>(step_parts); ++i) {
        KRAIT_UNROLL
        for (int t = 0; t < T; ++t) {
          VF& a = acc[(r * T + t) * parts + i % parts];
          a = fma(weights[i], load(x + t * args.x.stride + k + i * vector_lanes), a);
        }
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < R * T * parts; ++i) lanes[i / parts].part[i % parts] = acc[i];
}

// Whether `continue_row` can: registers hold parts of one group or two whole ones.
constexpr int most_books = 16;

HWY_INLINE bool has_even_groups(const AqlmScheme& scheme) {
  const bool is_even = scheme.in_group == 8 ||
                       (scheme.in_group % virtual_lanes == 0 && stretch<2> % scheme.in_group == 0);
  return is_even && scheme.codebooks <= most_books;
}

// One row of any scheme that has even groups for T tokens: weights [begin, end), multiples of 16
// and of groups. One function, since the lanes of all tokens stay in registers from loading to
// storing.
template <class Code, class Number, int T>
HWY_INLINE void continue_row(const MatmulAqlmArgs& args, Index r, Index token, Index begin,
                             Index end, Lanes* lanes) {
  constexpr int parts = static_cast<int>(vector_parts);
  using D = hn::CappedTag<float, 8>;
  constexpr int per_group = 8 / static_cast<int>(hn::MaxLanes(D()));
  const Row<Code, Number> row(args.W, r);
  const VF scale = hn::Set(DF(), row.scale);
  const float* x = args.x.row_data(token);
  const int count = row.count;
  const std::byte* codes =
      row.codes + begin / row.length * count * static_cast<Index>(sizeof(Code));
  Array<VF, T * parts> acc;
  KRAIT_UNROLL
  for (int i = 0; i < T * parts; ++i) acc[i] = lanes[i / parts].part[i % parts];
  const auto multiply = [&](Index k, int p, VF sum) HWY_ATTR {
    const VF w = hn::Mul(scale, sum);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      VF& a = acc[t * parts + p];
      a = fma(w, load(x + t * args.x.stride + k + p * vector_lanes), a);
    }
  };
  const auto next_word = [&](int m) HWY_ATTR {
    Code code;
    std::memcpy(&code, codes, sizeof code);
    codes += sizeof code;
    return row.codebooks + m * row.book + (code & row.mask) * row.word;
  };
  if (row.length == 8) {
    for (Index k = begin; k < end; k += virtual_lanes) {
      Array<hn::Vec<D>, 2 * per_group> sums;
      KRAIT_UNROLL
      for (int group = 0; group < 2; ++group) {
        const Number* word = next_word(0);
        KRAIT_UNROLL
        for (int i = 0; i < per_group; ++i) {
          sums[group * per_group + i] = load_as(D(), word + i * 8 / per_group);
        }
        for (int m = 1; m < count; ++m) {
          word = next_word(m);
          KRAIT_UNROLL
          for (int i = 0; i < per_group; ++i) {
            auto& sum = sums[group * per_group + i];
            sum = hn::Add(sum, load_as(D(), word + i * 8 / per_group));
          }
        }
      }
#if HWY_TARGET == HWY_AVX3
      multiply(k, 0, put_together(sums[0], sums[1]));
#else
      KRAIT_UNROLL
      for (int p = 0; p < parts; ++p) multiply(k, p, sums[p]);
#endif
    }
  } else {
    for (Index k = begin; k < end; k += row.length) {
      const Number* words[static_cast<std::size_t>(most_books)];
      for (int m = 0; m < count; ++m) words[m] = next_word(m);
      for (Index at = 0; at < row.length; at += virtual_lanes) {
        KRAIT_UNROLL
        for (int p = 0; p < parts; ++p) {
          const Index part = at + p * vector_lanes;
          VF sum = load(words[0] + part);
          for (int m = 1; m < count; ++m) sum = hn::Add(sum, load(words[m] + part));
          multiply(k + at, p, sum);
        }
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < T * parts; ++i) lanes[i / parts].part[i % parts] = acc[i];
}

// `rows` rows, at most `group_rows` and a multiple of R, for T tokens. M > 0: groups of 8 inputs
// and that many codebooks; else of any size.
template <int M, class Code, class Number, int R, int T>
void multiply_rows(const MatmulAqlmArgs& args, Index first, Index rows, Index token) {
  const Index n = args.W.cols;
  Array<Lanes, R * T> lanes[static_cast<std::size_t>(group_rows / R)];
  for (Index i = 0; i < rows / R; ++i) {
    for (Lanes& chains : lanes[i]) chains = zero_lanes();
  }
  Index k = 0;
  if constexpr (M > 0) {
    const Index whole = n / step * step;
    while (k < whole) {
      const Index end = HWY_MIN(whole, k + stretch<T>);
      for (Index r = 0; r < rows; r += R) {
        continue_rows<M, Code, Number, R, T>(args, first + r, token, k, end, lanes[r / R]);
      }
      k = end;
    }
  } else if (has_even_groups(args.W.scheme)) {
    static_assert(R == 1);
    const Index whole = n / virtual_lanes * virtual_lanes;
    while (k < whole) {
      const Index end = HWY_MIN(whole, k + stretch<T>);
      for (Index r = 0; r < rows; ++r) {
        continue_row<Code, Number, T>(args, first + r, token, k, end, lanes[r]);
      }
      k = end;
    }
  }
  const Index at_once = decoded_at_once(args.W.scheme.in_group);
  HWY_ALIGN float weights[static_cast<std::size_t>(R * most_decoded)];
  for (; k < n; k += at_once) {
    const Index count = HWY_MIN(at_once, n - k);
    for (Index r = 0; r < rows; r += R) {
      for (int i = 0; i < R; ++i) {
        decode_part(Row<Code, Number>(args.W, first + r + i), k, k + count,
                    weights + i * most_decoded);
      }
      accumulate_weights<R, T>(weights, args.x.row_data(token) + k, args.x.stride, count,
                               lanes[r / R]);
    }
  }
  for (Index r = 0; r < rows; ++r) {
    for (int t = 0; t < T; ++t) {
      const float sum = reduce(lanes[r / R][r % R * T + t]);
      args.y(token + t, first + r) = args.bias != nullptr ? sum + args.bias[first + r] : sum;
    }
  }
}

template <int M, class Code, class Number, int T>
void multiply_tokens(const MatmulAqlmArgs& args, Index token, Index tokens) {
  if constexpr (T > 0) {
    if (tokens < T) return multiply_tokens<M, Code, Number, T - 1>(args, token, tokens);
    constexpr int R = M > 0 ? tile_rows<T> : 1;
    const Index whole = args.outputs.begin + args.outputs.size() / R * R;
    for (Index row = args.outputs.begin; row < whole; row += group_rows) {
      multiply_rows<M, Code, Number, R, T>(args, row, HWY_MIN(group_rows, whole - row), token);
    }
    for (Index row = whole; row < args.outputs.end; row += group_rows) {
      multiply_rows<0, Code, Number, 1, T>(args, row, args.outputs.end - row, token);
    }
  }
}

template <int M, class Code, class Number>
void multiply(const MatmulAqlmArgs& args) {
  // Tiles of nearly equal width.
  const Index tokens = args.x.rows;
  const Index tiles = (tokens + most_tokens - 1) / most_tokens;
  for (Index i = 0; i < tiles; ++i) {
    const Index begin = tokens * i / tiles;
    multiply_tokens<M, Code, Number, most_tokens>(args, begin, tokens * (i + 1) / tiles - begin);
  }
}

// A row of `cols` weights. M as in `multiply_rows`.
template <int M, class Code, class Number>
HWY_INLINE void decode_row(const Row<Code, Number>& row, Index cols, float* out) {
  Index k = 0;
  if constexpr (M > 0) {
    const VF scale = hn::Set(DF(), row.scale);
    const std::byte* codes = row.codes;
    for (; k + step <= cols; k += step) {
      Array<VF, step_parts> weights;
      decode_step<M>(row, codes, scale, weights);
      codes += step_groups * M * static_cast<Index>(sizeof(Code));
      KRAIT_UNROLL
      for (Index i = 0; i < step_parts; ++i) store(weights[i], out + k + i * vector_lanes);
    }
  }
  if (k < cols) decode_part(row, k, cols, out + k);
}

// Calls body(code, number, books) with values of the types of W's codes and codebooks, and a
// constant: the number of codebooks if there is code for it, else 0.
template <class Body>
HWY_INLINE void with_types(const AqlmWeights& W, Body body) {
  const bool is_fast = W.scheme.in_group == 8 && W.scheme.out_group == 1;
  const auto none = std::integral_constant<int, 0>();
  const auto one = std::integral_constant<int, 1>();
  const auto two = std::integral_constant<int, 2>();
  if (W.code_type == DType::i8) {
    if (W.codebook_type == DType::f16) return body(std::uint8_t(), f16(), none);
    if (is_fast && W.scheme.codebooks == 1) return body(std::uint8_t(), 0.0F, one);
    if (is_fast && W.scheme.codebooks == 2) return body(std::uint8_t(), 0.0F, two);
    return body(std::uint8_t(), 0.0F, none);
  }
  const bool is_one = is_fast && W.scheme.codebooks == 1;
  if (W.codebook_type == DType::f16) {
    return is_one ? body(std::uint16_t(), f16(), one) : body(std::uint16_t(), f16(), none);
  }
  return is_one ? body(std::uint16_t(), 0.0F, one) : body(std::uint16_t(), 0.0F, none);
}

}  // namespace

void decode_aqlm(const AqlmWeights& W, Range rows, float* out) noexcept {
  with_types(W, [&](auto code, auto number, auto books) HWY_ATTR {
    for (Index r = rows.begin; r < rows.end; ++r, out += W.cols) {
      decode_row<decltype(books)::value>(Row<decltype(code), decltype(number)>(W, r), W.cols, out);
    }
  });
}

void matmul_aqlm(const MatmulAqlmArgs& args) noexcept {
  with_types(args.W, [&](auto code, auto number, auto books) HWY_ATTR {
    multiply<decltype(books)::value, decltype(code), decltype(number)>(args);
  });
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void decode_aqlm(const AqlmWeights& W, Range rows, float* out) noexcept {
  KRAIT_KERNEL(decode_aqlm, ref::decode_aqlm)(W, rows, out);
}

void matmul_aqlm(const MatmulAqlmArgs& args) noexcept {
  KRAIT_KERNEL(matmul_aqlm, ref::matmul_aqlm)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
