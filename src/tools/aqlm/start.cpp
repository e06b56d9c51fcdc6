#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

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

// Squared distances of vectors from the nearest codeword so far.
struct Distances {
  static constexpr Index block = 1024;

  std::vector<double> each;
  std::vector<double> sums;  // of each block

  double all() const { return std::accumulate(sums.begin(), sums.end(), 0.0); }
};

// The vector where the running sum of distances exceeds `part`.
Index vector_at(const Distances& distances, double part) {
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  const Index last = std::ssize(distances.each) - 1;
  Index i = 0;
  for (; i + Distances::block <= last; i += Distances::block) {
    const double sum = distances.sums[at(i / Distances::block)];
    if (part < sum) break;
    part -= sum;
  }
  for (; i < last && part >= distances.each[at(i)]; ++i) part -= distances.each[at(i)];
  return i;
}

// The distances with one more codeword.
void add_codeword(const Points& points, std::span<const float> codeword, const Distances& before,
                  Distances& after) {
  const Index n = points.vectors.rows;
  parallel_for(points.executor, std::ssize(before.sums), 4, [&](Range blocks) {
    for (Index b = blocks.begin; b < blocks.end; ++b) {
      double sum = 0.0;
      for (Index i = b * Distances::block; i < std::min(n, (b + 1) * Distances::block); ++i) {
        const std::span<const float> vector = points.vectors.row(i);
        double distance = 0.0;
        for (std::size_t d = 0; d < vector.size(); ++d) {
          const double difference =
              static_cast<double>(vector[d]) - static_cast<double>(codeword[d]);
          distance += difference * difference;
        }
        double& least = after.each[static_cast<std::size_t>(i)];
        least = std::min(before.each[static_cast<std::size_t>(i)], distance);
        sum += least;
      }
      after.sums[static_cast<std::size_t>(b)] = sum;
    }
  });
}

// Vectors drawn at random.
std::vector<float> drawn(const Points& points, Index n_codeword, const RandomCounter& random) {
  const Index n = points.vectors.rows;
  std::vector<float> codewords;
  for (Index k = 0; k < n_codeword; ++k) {
    RandomCounter at = random;
    at.position = static_cast<std::uint64_t>(k);
    const auto i = static_cast<Index>(random_uniform(at) * static_cast<double>(n));
    const auto vector = points.vectors.row(std::min(i, n - 1));
    codewords.insert(codewords.end(), vector.begin(), vector.end());
  }
  return codewords;
}

// Vectors drawn at random, each with odds of its squared distance from those before, of six draws
// the one that leaves the least: greedy k-means++ (Arthur and Vassilvitskii, "k-means++: The
// Advantages of Careful Seeding", 2007). Of vectors in clusters, hardly one is left out.
std::vector<float> spread(const Points& points, Index n_codeword, const RandomCounter& random) {
  constexpr int draws = 6;
  const Index n = points.vectors.rows;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Distances now{
      std::vector<double>(static_cast<std::size_t>(n), infinity),
      std::vector<double>(
          static_cast<std::size_t>(round_up(n, Distances::block) / Distances::block), infinity)};
  Distances tried = now;
  Distances best = now;
  std::vector<float> codewords;
  for (Index k = 0; k < n_codeword; ++k) {
    if (now.all() == 0.0) break;  // every vector is a codeword
    Index chosen = 0;
    for (int draw = 0; draw < (k == 0 ? 1 : draws); ++draw) {
      RandomCounter at = random;
      at.position = static_cast<std::uint64_t>(k * draws + draw);
      const double share = random_uniform(at);
      const Index i = k == 0 ? static_cast<Index>(share * static_cast<double>(n))
                             : vector_at(now, share * now.all());
      add_codeword(points, points.vectors.row(i), now, tried);
      if (draw > 0 && tried.all() >= best.all()) continue;
      chosen = i;
      std::swap(best, tried);
    }
    const std::span<const float> codeword = points.vectors.row(chosen);
    codewords.insert(codewords.end(), codeword.begin(), codeword.end());
    std::swap(now, best);
  }
  codewords.resize(static_cast<std::size_t>(n_codeword * points.vectors.cols));
  return codewords;
}

struct Clusters {
  std::vector<float> codewords;
  double rest = 0.0;  // the sum of squared distances of vectors from their codewords
};

// Lloyd's algorithm; a codeword that nobody chose stays.
Clusters lloyd(const Points& points, std::vector<float> codewords, Index rounds) {
  const Index n = points.vectors.rows;
  const Index group = points.vectors.cols;
  const Index n_codeword = std::ssize(codewords) / group;
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
  assign(points, TransposedCodebook(codewords, n_codeword, group), codes);
  double rest = 0.0;
  for (Index i = 0; i < n; ++i) {
    const Index first = Index{codes[static_cast<std::size_t>(i)]} * group;
    for (Index d = 0; d < group; ++d) {
      const double difference = static_cast<double>(points.vectors(i, d)) -
                                static_cast<double>(codewords[static_cast<std::size_t>(first + d)]);
      rest += difference * difference;
    }
  }
  return {std::move(codewords), rest};
}

// Whether it pays to look for a second beginning. Several small codebooks are moved together
// afterwards, and end no better (4x4g8: 0.2 % worse for white weights, for a bundled model now
// better, now worse). Of more than 4096 codewords, those drawn leave hardly a cluster out, and
// spreading takes longer than all that follows.
bool is_spread(const AqlmScheme& scheme) noexcept {
  return scheme.codewords() <= 4096 && (scheme.codebooks == 1 || scheme.codewords() > 16);
}

// Of the codewords that Lloyd's algorithm finds from one or two beginnings, those that leave less.
std::vector<float> kmeans(const Points& points, const AqlmScheme& scheme, Index rounds,
                          const RandomCounter& random) {
  const Index n_codeword = scheme.codewords();
  Clusters best = lloyd(points, drawn(points, n_codeword, random), rounds);
  if (!is_spread(scheme)) return std::move(best.codewords);
  // So many vectors are enough to spread over: 2^26 distances, unless these would be too few.
  const Index n = points.vectors.rows;
  const Index group = points.vectors.cols;
  const Index affordable = (Index{1} << 26) / n_codeword;
  const Index few = std::min(n, std::max(2 * n_codeword, std::min(16 * n_codeword, affordable)));
  AlignedBuffer<float> sampled(few * group);
  for (Index i = 0; i < few; ++i) {
    std::ranges::copy(points.vectors.row(n * i / few), sampled.data() + i * group);
  }
  Clusters other = lloyd(
      points, spread({{sampled.data(), few, group}, points.executor}, n_codeword, random), rounds);
  if (other.rest < best.rest) best = std::move(other);
  return std::move(best.codewords);
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
        kmeans({{sampled.data(), few, g}, *fit.executor}, fit.scheme, kmeans_rounds, random);
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
