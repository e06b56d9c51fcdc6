// The codes of a group, found together.
//
// With everything else fixed, the error of row i is quadratic in v, the sum of the group's
// codewords: (v − v*) H_jj (v − v*)ᵀ, where v* = v_old + p_j H_jj⁻¹ / s and p = (W − Ŵ) H. With
// H_jj = L Lᵀ that is the squared distance of vL from t = v_old L + p_j L⁻ᵀ / s: the search looks
// for the sum of rotated codewords C_m L that is nearest to t, one codebook after another, with
// several hypotheses. Searches that replace one code at a time stay where k-means began.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "krait/core/rng.hpp"
#include "tools/aqlm/fit.hpp"
#include "tools/aqlm/transposed_codebook.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// The order in which a sweep visits the groups.
std::vector<Index> shuffled(Index n, std::uint64_t seed, std::uint64_t sweep) {
  std::vector<Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Index{0});
  for (Index i = n - 1; i > 0; --i) {
    const RandomCounter at{.seed = seed,
                           .sequence = static_cast<std::uint32_t>(sweep),
                           .position = static_cast<std::uint64_t>(i),
                           .draw = 2};
    const auto k = static_cast<Index>(random_uniform(at) * static_cast<double>(i + 1));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(std::min(k, i))]);
  }
  return order;
}

// What the search of one group needs that all rows share.
struct GroupTables {
  Index group = 0;                            // j
  std::vector<float> L;                       // [g, g], lower: L Lᵀ = H_jj
  std::vector<TransposedCodebook> codebooks;  // [M], C_m L
};

// The Cholesky factor of H_jj, in double; a diagonal that rounding made negative is raised.
void factor(const Metric& H, Index first, Index g, std::vector<float>& L) {
  std::vector<double> l(static_cast<std::size_t>(g * g));
  const auto at = [&](Index i, Index k) -> double& {
    return l[static_cast<std::size_t>(i * g + k)];
  };
  for (Index i = 0; i < g; ++i) {
    for (Index k = 0; k <= i; ++k) {
      double sum = static_cast<double>(H.at(first + i, first + k));
      for (Index n = 0; n < k; ++n) sum -= at(i, n) * at(k, n);
      if (i == k) {
        const double least = 1e-6 * static_cast<double>(H.diagonal(first + i));
        at(i, i) = std::sqrt(std::max(sum, least));
      } else {
        at(i, k) = sum / at(k, k);
      }
    }
  }
  L.assign(l.begin(), l.end());
}

void make_tables(const Fit& fit, Index group, GroupTables& tables) {
  const Index g = fit.scheme.in_group;
  const Index K = fit.scheme.codewords();
  tables.group = group;
  factor(*fit.H, group * g, g, tables.L);
  tables.codebooks.resize(static_cast<std::size_t>(fit.scheme.codebooks));
  std::vector<float> rotated(static_cast<std::size_t>(g));
  for (Index m = 0; m < fit.scheme.codebooks; ++m) {
    TransposedCodebook& codebook = tables.codebooks[static_cast<std::size_t>(m)];
    codebook.resize(K, g);
    for (Index k = 0; k < K; ++k) {
      const float* codeword = fit.codeword(m, k);
      for (Index d = 0; d < g; ++d) {
        float sum = 0.0F;
        for (Index n = d; n < g; ++n)
          sum += codeword[n] * tables.L[static_cast<std::size_t>(n * g + d)];
        rotated[static_cast<std::size_t>(d)] = sum;
      }
      codebook.set(k, rotated.data());
    }
  }
}

float squared_norm(std::span<const float> values) {
  float sum = 0.0F;
  for (const float value : values) sum += value * value;
  return sum;
}

// The beam search for one vector. Memory that is used for one after another.
class Search {
 public:
  Search(const AqlmScheme& scheme, Index beam)
      : M_(scheme.codebooks),
        g_(scheme.in_group),
        beam_(beam),
        residuals_(2 * beam * scheme.in_group),
        costs_(static_cast<std::size_t>(beam)),
        codes_(static_cast<std::size_t>(2 * beam * scheme.codebooks)),
        choices_(static_cast<std::size_t>(beam)) {}

  // The squared distance of `target` from the codewords' sum that these codes name.
  float cost_of(const GroupTables& tables, std::span<const float> target,
                const std::uint16_t* codes) {
    float* rest = residuals_.data();
    std::copy(target.begin(), target.end(), rest);
    for (Index m = 0; m < M_; ++m) subtract(tables, m, codes[m], rest);
    return squared_norm({rest, static_cast<std::size_t>(g_)});
  }

  // The best codes found for `target`, valid until the next call, and their squared distance.
  const std::uint16_t* run(const GroupTables& tables, std::span<const float> target, float& cost) {
    Index count = 1;
    std::copy(target.begin(), target.end(), residuals(0, 0));
    costs_[0] = squared_norm(target);
    for (Index m = 0; m < M_; ++m) {
      const int now = static_cast<int>(m % 2);
      const TransposedCodebook& codebook = tables.codebooks[static_cast<std::size_t>(m)];
      const Index found = kernels::search_codewords({.residuals = {residuals(now, 0), count, g_},
                                                     .costs = costs_.data(),
                                                     .codewords = codebook.view(),
                                                     .norms = codebook.norms(),
                                                     .keep = beam_},
                                                    choices_.data());
      for (Index b = 0; b < found; ++b) {
        const kernels::CodewordChoice& choice = choices_[static_cast<std::size_t>(b)];
        const float* from = residuals(now, choice.hypothesis);
        float* to = residuals(1 - now, b);
        std::copy(from, from + g_, to);
        subtract(tables, m, choice.code, to);
        const std::uint16_t* old = codes(now, choice.hypothesis);
        std::copy(old, old + m, codes(1 - now, b));
        codes(1 - now, b)[m] = static_cast<std::uint16_t>(choice.code);
      }
      count = found;
      // Of the residual itself: the sums of the search round where they cancel.
      for (Index b = 0; b < count; ++b) {
        costs_[static_cast<std::size_t>(b)] =
            squared_norm({residuals(1 - now, b), static_cast<std::size_t>(g_)});
      }
    }
    const auto best = std::min_element(costs_.begin(), costs_.begin() + count);
    cost = *best;
    return codes(static_cast<int>(M_ % 2), best - costs_.begin());
  }

 private:
  float* residuals(int side, Index hypothesis) {
    return residuals_.data() + (side * beam_ + hypothesis) * g_;
  }
  std::uint16_t* codes(int side, Index hypothesis) {
    return codes_.data() + (side * beam_ + hypothesis) * M_;
  }
  void subtract(const GroupTables& tables, Index m, Index code, float* rest) const {
    const TransposedCodebook& codebook = tables.codebooks[static_cast<std::size_t>(m)];
    for (Index d = 0; d < g_; ++d) rest[d] -= codebook.at(code, d);
  }

  Index M_;
  Index g_;
  Index beam_;
  AlignedBuffer<float> residuals_;  // [2, beam, g]
  std::vector<float> costs_;
  std::vector<std::uint16_t> codes_;  // [2, beam, M]
  std::vector<kernels::CodewordChoice> choices_;
};

// Several groups whose part of p is computed at once, and updated among themselves.
struct Block {
  std::vector<GroupTables> tables;
  std::vector<Index> inputs;  // of all its groups, in their order
  std::vector<float> H;       // [inputs, inputs]
};

// Looks for better codes of group `b` of the block in one row; p [inputs of the block] is
// (W − Ŵ) H there.
void improve_group(Fit& fit, const Block& block, std::size_t b, Index row, float* p, Search& search,
                   std::vector<float>& vectors) {
  const Index g = fit.scheme.in_group;
  const Index M = fit.scheme.codebooks;
  const GroupTables& tables = block.tables[b];
  const float scale = fit.scales[static_cast<std::size_t>(row)];
  if (scale == 0.0F) return;
  std::uint16_t* codes = fit.codes_of(row, tables.group);
  const std::span<float> target(vectors.data(), static_cast<std::size_t>(g));
  const std::span<float> change(vectors.data() + g, static_cast<std::size_t>(g));
  // q Lᵀ = p_j / s, and t = v_old L + q.
  const float* p_group = p + static_cast<Index>(b) * g;
  for (Index d = 0; d < g; ++d) {
    float sum = p_group[d] / scale;
    for (Index n = 0; n < d; ++n) {
      sum -= target[static_cast<std::size_t>(n)] * tables.L[static_cast<std::size_t>(d * g + n)];
    }
    target[static_cast<std::size_t>(d)] = sum / tables.L[static_cast<std::size_t>(d * g + d)];
  }
  for (Index m = 0; m < M; ++m) {
    for (Index d = 0; d < g; ++d) {
      target[static_cast<std::size_t>(d)] +=
          tables.codebooks[static_cast<std::size_t>(m)].at(codes[m], d);
    }
  }
  const float old_cost = search.cost_of(tables, target, codes);
  float cost = 0.0F;
  const std::uint16_t* found = search.run(tables, target, cost);
  if (!(cost < old_cost)) return;
  std::fill(change.begin(), change.end(), 0.0F);
  for (Index m = 0; m < M; ++m) {
    const float* before = fit.codeword(m, codes[m]);
    const float* after = fit.codeword(m, found[m]);
    for (Index d = 0; d < g; ++d) change[static_cast<std::size_t>(d)] += after[d] - before[d];
    codes[m] = found[m];
  }
  float* e = fit.E().row_data(row) + tables.group * g;
  const auto width = static_cast<Index>(block.inputs.size());
  for (Index d = 0; d < g; ++d) {
    const float step = scale * change[static_cast<std::size_t>(d)];
    e[d] -= step;
    const float* h = block.H.data() + (static_cast<Index>(b) * g + d) * width;
    for (Index k = 0; k < width; ++k) p[k] -= step * h[k];
  }
}

// How many groups go into a block: as many as keep its tables in the cache.
Index groups_per_block(const AqlmScheme& scheme) {
  constexpr Index most_bytes = 512 * 1024;
  constexpr Index most_inputs = 128;
  const Index bytes = scheme.codebooks * round_up(scheme.codewords(), 16) * (scheme.in_group + 1) *
                      static_cast<Index>(sizeof(float));
  return std::clamp<Index>(most_bytes / bytes, 1,
                           std::max<Index>(1, most_inputs / scheme.in_group));
}

void fill_block(const Fit& fit, std::span<const Index> groups, Block& block) {
  const Index g = fit.scheme.in_group;
  block.inputs.clear();
  block.tables.resize(groups.size());
  for (const Index j : groups) {
    for (Index d = 0; d < g; ++d) block.inputs.push_back(j * g + d);
  }
  block.H.clear();
  for (const Index i : block.inputs) {
    for (const Index k : block.inputs) block.H.push_back(fit.H->at(i, k));
  }
  parallel_for(*fit.executor, std::ssize(groups), 1, [&](Range range) {
    for (Index b = range.begin; b < range.end; ++b) {
      const auto at = static_cast<std::size_t>(b);
      make_tables(fit, groups[at], block.tables[at]);
    }
  });
}

}  // namespace

void improve_codes(Fit& fit, Index beam, std::uint64_t seed, std::uint64_t sweep) {
  const std::vector<Index> order = shuffled(fit.groups(), seed, sweep);
  const Index per_block = groups_per_block(fit.scheme);
  AlignedBuffer<float> memory(fit.out() * per_block * fit.scheme.in_group);
  Block block;
  for (Index first = 0; first < fit.groups(); first += per_block) {
    const Index count = std::min(per_block, fit.groups() - first);
    fill_block(
        fit,
        std::span(order).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
        block);
    const MatrixView<float> P(memory.data(), fit.out(), std::ssize(block.inputs));
    fit.H->apply(*fit.executor, fit.E(), block.inputs, P);
    parallel_for(*fit.executor, fit.out(), 8, [&](Range rows) {
      Search search(fit.scheme, beam);
      std::vector<float> vectors(static_cast<std::size_t>(2 * fit.scheme.in_group));
      for (std::size_t b = 0; b < block.tables.size(); ++b) {
        for (Index row = rows.begin; row < rows.end; ++row) {
          improve_group(fit, block, b, row, P.row_data(row), search, vectors);
        }
      }
    });
  }
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
