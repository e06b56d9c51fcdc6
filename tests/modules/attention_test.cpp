// The attention block against the paper's formulas, written as plain loops in double.

#include "krait/modules/attention.hpp"

#include <gtest/gtest.h>

#include "krait/core/thread_pool.hpp"
#include "tests/modules/block_fixture.hpp"
#include "tests/support/eager_thread_pool.hpp"

namespace krait {
namespace {

constexpr Index d_model = 10;
constexpr Index tokens = 150;
constexpr Index page_tokens = kernels::attention_page_tokens;

test::BlockWeights weights_of(const AttentionSpec& unresolved) {
  const AttentionSpec spec = unresolved.resolved(d_model);
  const Index d_kv = spec.n_kv_head * spec.d_head;
  test::BlockWeights weights;
  const auto add = [&](const std::string& name, Index out, Index in, bool bias) {
    weights.add(name + ".weight", {out, in}, 0.7F);
    if (bias) weights.add(name + ".bias", {out}, 0.5F);
  };
  add("q_proj", spec.n_head * spec.d_head, d_model, spec.bias);
  add("k_proj", d_kv, d_model, spec.bias);
  add("v_proj", d_kv, d_model, spec.bias);
  add("o_proj", d_model, spec.n_head * spec.d_head, spec.out_bias);
  return weights;
}

void rotate(const AttentionSpec& spec, std::vector<double>& x, Index position) {
  if (!spec.rope) return;
  const Index pairs = spec.rope->dim / 2;
  for (std::size_t head = 0; head < x.size(); head += static_cast<std::size_t>(spec.d_head)) {
    for (Index i = 0; i < pairs; ++i) {
      const double exponent = -static_cast<double>(i) / static_cast<double>(pairs);
      const double angle =
          static_cast<double>(position) * std::pow(spec.rope->theta, exponent) / spec.rope->factor;
      const bool interleaved = spec.rope->interleaved;
      double& a = x[head + static_cast<std::size_t>(interleaved ? 2 * i : i)];
      double& b = x[head + static_cast<std::size_t>(interleaved ? 2 * i + 1 : i + pairs)];
      const double rotated = a * std::cos(angle) - b * std::sin(angle);
      b = b * std::cos(angle) + a * std::sin(angle);
      a = rotated;
    }
  }
}

std::vector<std::vector<double>> oracle(const AttentionSpec& unresolved,
                                        const test::BlockWeights& weights,
                                        const std::vector<float>& x) {
  const AttentionSpec spec = unresolved.resolved(d_model);
  const Index d_kv = spec.n_kv_head * spec.d_head;
  std::vector<std::vector<double>> K;
  std::vector<std::vector<double>> V;
  std::vector<std::vector<double>> result;
  for (Index t = 0; t < tokens; ++t) {
    const auto row = test::row_of(x, t, d_model);
    auto q = weights.linear("q_proj", row, spec.n_head * spec.d_head);
    K.push_back(weights.linear("k_proj", row, d_kv));
    V.push_back(weights.linear("v_proj", row, d_kv));
    rotate(spec, q, t);
    rotate(spec, K.back(), t);
    std::vector<double> y(q.size());
    for (Index h = 0; h < spec.n_head; ++h) {
      const Index kv = h / (spec.n_head / spec.n_kv_head) * spec.d_head;
      double sum = 0.0;
      for (std::size_t j = 0; j < K.size(); ++j) {
        double score = 0.0;
        for (Index i = 0; i < spec.d_head; ++i) {
          score += q[static_cast<std::size_t>(h * spec.d_head + i)] *
                   K[j][static_cast<std::size_t>(kv + i)];
        }
        const double p = std::exp(score * double{spec.scale});
        sum += p;
        for (Index i = 0; i < spec.d_head; ++i) {
          y[static_cast<std::size_t>(h * spec.d_head + i)] +=
              p * V[j][static_cast<std::size_t>(kv + i)];
        }
      }
      for (Index i = 0; i < spec.d_head; ++i) {
        y[static_cast<std::size_t>(h * spec.d_head + i)] /= sum;
      }
    }
    result.push_back(weights.linear("o_proj", y, d_model));
  }
  return result;
}

// Pages of one sequence, far apart.
struct Cache {
  std::vector<AlignedBuffer<float>> pages;
  std::vector<float*> data;
  Index row;

  explicit Cache(Index row_) : row(row_) {
    for (Index j = 0; j < tokens; j += page_tokens) {
      pages.emplace_back(page_tokens * row);
      data.push_back(pages.back().data());
    }
  }
  CacheRows rows() { return {data, row}; }
};

// `sequences` copies of x, in runs of `chunk` tokens of each; all outputs.
std::vector<float> run(const AttentionSpec& spec, const test::BlockWeights& weights,
                       const std::vector<float>& x, Index chunk, Index sequences,
                       Executor& executor) {
  EXPECT_TRUE(spec.validate(d_model));
  Plan plan(d_model);
  WeightBinder binder(&weights.store(), {});
  const auto block = Attention::bind(spec, WeightScope(binder, ""), plan).value();
  const Index rows = chunk * sequences;
  Scratch scratch(plan.scratch_plan(), rows);
  AlignedBuffer<float> workspace(plan.workspace_floats() * rows);
  const Index per_task = block->scores(chunk, tokens);
  AlignedBuffer<float> memory(per_task * executor.width());
  std::vector<Cache> caches;
  std::vector<CacheRows> cache_rows;
  for (Index s = 0; s < sequences; ++s) {
    caches.emplace_back(spec.resolved(d_model).cache_row() + 6);
  }
  for (Cache& cache : caches) cache_rows.push_back(cache.rows());
  std::vector<float> result(static_cast<std::size_t>(sequences) * x.size());
  for (Index first = 0; first < tokens; first += chunk) {
    const Index count = std::min(chunk, tokens - first);
    std::vector<float> values;
    std::vector<SequenceRows> parts;
    for (Index s = 0; s < sequences; ++s) {
      values.insert(values.end(), x.begin() + first * d_model,
                    x.begin() + (first + count) * d_model);
      parts.push_back({.first = s * count, .count = count, .position = first});
    }
    BlockContext ctx{.x = {values.data(), sequences * count, d_model},
                     .sequences = parts,
                     .executor = executor,
                     .memory = scratch,
                     .workspace = workspace.span()};
    block->forward(ctx, cache_rows, memory.span(), per_task);
    for (Index s = 0; s < sequences; ++s) {
      std::copy_n(values.begin() + s * count * d_model, count * d_model,
                  result.begin() + (s * tokens + first) * d_model);
    }
  }
  return result;
}

std::vector<AttentionSpec> specs() {
  return {{.n_head = 2, .rope = RotarySpec{.dim = 4}},
          {.n_head = 6, .n_kv_head = 2, .d_head = 8, .bias = true},
          {.n_head = 3,
           .n_kv_head = 1,
           .d_head = 20,
           .scale = 0.3F,
           .rope = RotarySpec{.theta = 500.0, .dim = 12, .interleaved = true, .factor = 2.0},
           .out_bias = true},
          {.n_head = 1, .n_kv_head = 1, .d_head = 7, .rope = std::nullopt}};
}

TEST(Attention, IsTheFormula) {
  constexpr double absolute = 1e-5;  // values of about 1 behind two products
  SerialExecutor serial;
  const auto x = test::random_floats(tokens * d_model, 7);
  for (const AttentionSpec& spec : specs()) {
    SCOPED_TRACE(spec.to_string(d_model));
    const auto weights = weights_of(spec);
    const auto expected = oracle(spec, weights, x);
    const auto actual = run(spec, weights, x, tokens, 1, serial);
    for (Index t = 0; t < tokens; ++t) {
      for (Index i = 0; i < d_model; ++i) {
        ASSERT_NEAR(double{actual[static_cast<std::size_t>(t * d_model + i)]},
                    expected[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)], absolute);
      }
    }
  }
}

TEST(Attention, CutsCompanyAndThreadsChangeNoBit) {
  SerialExecutor serial;
  test::EagerThreadPool pool(3);
  const auto x = test::random_floats(tokens * d_model, 8);
  for (const AttentionSpec& spec : specs()) {
    SCOPED_TRACE(spec.to_string(d_model));
    const auto weights = weights_of(spec);
    const auto whole = run(spec, weights, x, tokens, 1, serial);
    for (const Index chunk : {1, 4, 70, 150}) {
      for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&pool)}) {
        const auto results = run(spec, weights, x, chunk, 3, *executor);
        for (std::size_t s = 0; s < 3; ++s) {
          const std::span<const float> part{results.data() + s * whole.size(), whole.size()};
          ASSERT_TRUE(test::same_bits<float>(whole, part)) << "chunk " << chunk;
        }
      }
    }
  }
}

TEST(Attention, RefusesSizesThatAreNone) {
  const auto message = [](const AttentionSpec& spec) {
    const auto result = spec.validate(d_model);
    return result ? std::string() : std::string(result.error().message);
  };
  EXPECT_EQ(message({.n_head = 5}), "");
  EXPECT_NE(message({}), "");
  EXPECT_EQ(message({.n_head = 3}), "[spec] n_head: expected a divisor of d_model (10), found 3");
  EXPECT_EQ(message({.n_head = 4, .n_kv_head = 3, .d_head = 8}),
            "[spec] n_kv_head: expected a divisor of n_head (4), found 3");
  EXPECT_NE(message({.n_head = 5, .scale = -1.0F}), "");
  EXPECT_NE(message({.n_head = 2, .d_head = 3}), "");  // odd, and rotated as a whole
  EXPECT_EQ(message({.n_head = 2, .rope = RotarySpec{.dim = 6}}),
            "[spec] rope dim: expected an even number of 2 to d_head (5), found 6");
  EXPECT_NE(message({.n_head = 2, .d_head = 4, .rope = RotarySpec{.theta = 0.0}}), "");
  EXPECT_NE(message({.n_head = 2, .d_head = 4, .rope = RotarySpec{.factor = -1.0}}), "");
}

}  // namespace
}  // namespace krait
