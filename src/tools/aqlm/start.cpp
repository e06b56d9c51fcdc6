#include <algorithm>
#include <cmath>
#include <numeric>

#include "krait/core/rng.hpp"
#include "tools/aqlm/fit.hpp"
#include "tools/aqlm/transposed_codebook.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// What codewords are the size of. Both they and the scales are stored in f16: the rows' median is
// in the middle of its range for the weights of most models, but not where most rows are next to
// nothing, or all weights are large or tiny.
double codeword_size(std::vector<double> sizes) {
  constexpr double largest_scale = 0x1p12;
  constexpr double smallest = 0x1p-12;
  constexpr double largest = 0x1p10;
  std::erase_if(sizes, [](double size) { return !(size > 0.0); });
  if (sizes.empty()) return 1.0;
  std::sort(sizes.begin(), sizes.end());
  const double median = sizes[sizes.size() / 2];
  return std::clamp(std::max(median, sizes.back() / largest_scale), smallest, largest);
}

// The root mean square of each row, over the size of codewords.
std::vector<float> scales_of(MatrixView<const float> W) {
  std::vector<double> sizes;
  for (Index i = 0; i < W.rows; ++i) {
    double sum = 0.0;
    for (const float w : W.row(i)) sum += static_cast<double>(w) * static_cast<double>(w);
    sizes.push_back(std::sqrt(sum / static_cast<double>(W.cols)));
  }
  const double unit = codeword_size(sizes);
  std::vector<float> scales;
  for (const double size : sizes) scales.push_back(static_cast<float>(size / unit));
  return scales;
}

// Vectors of a group's length, and the codes that stand for them.
struct Points {
  MatrixView<const float> vectors;
  Executor& executor;
};

// The nearest codeword of every vector; `codes` [vectors].
void assign(const Points& points, const TransposedCodebook& codebook,
            std::vector<std::uint16_t>& codes) {
  codes.resize(static_cast<std::size_t>(points.vectors.rows));
  parallel_for(points.executor, points.vectors.rows, 64, [&](Range range) {
    for (Index i = range.begin; i < range.end; ++i) {
      const float cost = 0.0F;  // the same for all codes
      kernels::CodewordChoice best;
      kernels::search_codewords({.residuals = points.vectors.rows_from(i, 1),
                                 .costs = &cost,
                                 .codewords = codebook.view(),
                                 .norms = codebook.norms()},
                                &best);
      codes[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>(best.code);
    }
  });
}

// Lloyd's algorithm from vectors drawn at random; a codeword that nobody chose stays.
std::vector<float> kmeans(const Points& points, Index n_codeword, Index rounds,
                          const RandomCounter& random) {
  const Index n = points.vectors.rows;
  const Index group = points.vectors.cols;
  std::vector<float> codewords;
  for (Index k = 0; k < n_codeword; ++k) {
    RandomCounter at = random;
    at.position = static_cast<std::uint64_t>(k);
    const auto drawn = static_cast<Index>(random_uniform(at) * static_cast<double>(n));
    const auto vector = points.vectors.row(std::min(drawn, n - 1));
    codewords.insert(codewords.end(), vector.begin(), vector.end());
  }
  std::vector<std::uint16_t> codes;
  std::vector<std::uint16_t> last_codes;
  for (Index round = 0; round < rounds; ++round) {
    assign(points, TransposedCodebook(codewords, n_codeword, group), codes);
    if (codes == last_codes) break;
    last_codes = codes;
    std::vector<double> sums(codewords.size());
    std::vector<Index> counts(static_cast<std::size_t>(n_codeword));
    for (Index i = 0; i < n; ++i) {
      const std::uint16_t code = codes[static_cast<std::size_t>(i)];
      ++counts[code];
      for (Index d = 0; d < group; ++d) {
        sums[static_cast<std::size_t>(code * group + d)] +=
            static_cast<double>(points.vectors(i, d));
      }
    }
    for (std::size_t i = 0; i < codewords.size(); ++i) {
      const Index count = counts[i / static_cast<std::size_t>(group)];
      if (count > 0) codewords[i] = static_cast<float>(sums[i] / static_cast<double>(count));
    }
  }
  return codewords;
}

}  // namespace

void start(Fit& fit, Index kmeans_rounds, std::uint64_t seed) {
  const Index M = fit.scheme.codebooks;
  const Index K = fit.scheme.codewords();
  const Index g = fit.scheme.in_group;
  const Index n = fit.out() * fit.groups();
  fit.scales = scales_of(fit.W);
  fit.codes.assign(static_cast<std::size_t>(n * M), 0);
  fit.codebooks.clear();

  AlignedBuffer<float> memory(fit.out() * fit.in());
  const MatrixView<float> rest(memory.data(), n, g);  // of W over its scales
  for (Index i = 0; i < fit.out(); ++i) {
    const float scale = fit.scales[static_cast<std::size_t>(i)];
    for (Index k = 0; k < fit.in(); ++k) {
      memory[i * fit.in() + k] = scale > 0.0F ? fit.W(i, k) / scale : 0.0F;
    }
  }
  // So many vectors are enough to place the codewords.
  const Index few = std::min(n, std::max<Index>(65536, 64 * K));
  AlignedBuffer<float> sampled(few * g);
  std::vector<std::uint16_t> codes;
  for (Index m = 0; m < M; ++m) {
    for (Index i = 0; i < few; ++i) {
      const auto vector = rest.row(n * i / few);
      std::copy(vector.begin(), vector.end(), sampled.data() + i * g);
    }
    const RandomCounter random{.seed = seed, .sequence = static_cast<std::uint32_t>(m), .draw = 1};
    const std::vector<float> codewords =
        kmeans({{sampled.data(), few, g}, *fit.executor}, K, kmeans_rounds, random);
    assign({rest, *fit.executor}, TransposedCodebook(codewords, K, g), codes);
    for (Index i = 0; i < n; ++i) {
      const std::uint16_t code = codes[static_cast<std::size_t>(i)];
      fit.codes[static_cast<std::size_t>(i * M + m)] = code;
      for (Index d = 0; d < g; ++d) rest(i, d) -= codewords[static_cast<std::size_t>(code * g + d)];
    }
    fit.codebooks.insert(fit.codebooks.end(), codewords.begin(), codewords.end());
  }
  fit.error = AlignedBuffer<float>(fit.out() * fit.in());
  update_error(fit);
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
