#pragma once

/// \file
/// What tests of blocks share: weights that a plain loop in double can read, and a run.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "krait/core/cache_pages.hpp"
#include "krait/core/scratch.hpp"
#include "krait/modules/block.hpp"
#include "krait/weights/scope.hpp"
#include "tests/support/support.hpp"

namespace krait::test {

inline double silu(double x) { return x / (1.0 + std::exp(-x)); }

/// Random weights under their names, in f32.
class BlockWeights {
 public:
  void add(const std::string& name, const Shape& shape, float scale) {
    auto values =
        std::make_shared<std::vector<float>>(random_floats(shape.size(), store_.size() + 1, scale));
    const TensorView view{values->data(), DType::f32, shape};
    store_.add(name, view, values);
  }

  const WeightStore& store() const { return store_; }

  /// Element i; 0 where there is no such tensor.
  double at(const std::string& name, Index i) const {
    const WeightStore::Entry* entry = store_.find(name);
    return entry == nullptr ? 0.0 : double{entry->tensor.as<float>()[static_cast<std::size_t>(i)]};
  }

  /// y = W x + b with the i-th matrix of a stack, of which each has `out` rows.
  std::vector<double> linear(const std::string& name, const std::vector<double>& x, Index out,
                             Index i = 0) const {
    const auto in = static_cast<Index>(x.size());
    std::vector<double> y(static_cast<std::size_t>(out));
    for (Index r = 0; r < out; ++r) {
      double sum = at(name + ".bias", r);
      for (Index k = 0; k < in; ++k) {
        sum += at(name + ".weight", (i * out + r) * in + k) * x[static_cast<std::size_t>(k)];
      }
      y[static_cast<std::size_t>(r)] = sum;
    }
    return y;
  }

 private:
  WeightStore store_;
};

/// The block's output for `x` [tokens, d_model], as one sequence in runs of `chunk` tokens.
inline std::vector<float> run_block(const Block& block, const Bookings& bookings,
                                    std::vector<float> x, Index chunk, Executor& executor) {
  const Index d_model = bookings.d_model();
  const Index tokens = static_cast<Index>(x.size()) / d_model;
  Scratch scratch(bookings.scratch_layout(), chunk);
  AlignedBuffer<float> workspace(bookings.workspace_floats() * chunk);
  AlignedBuffer<float> state(bookings.state_floats());
  CachePages cache(bookings.cache_floats());
  cache.reserve(tokens).value();
  Index task_floats = 0;
  for (const Bookings::TaskMemory& size : bookings.task_memories()) {
    task_floats = std::max(task_floats, round_up(size(chunk, tokens), Index{16}));
  }
  AlignedBuffer<float> tasks(task_floats * executor.width());
  for (Index first = 0; first < tokens; first += chunk) {
    const Index count = std::min(chunk, tokens - first);
    const SequenceRows rows{.first = 0,
                            .count = count,
                            .position = first,
                            .state = state.data(),
                            .pages = cache.pages().data()};
    BlockContext ctx{.x = {x.data() + first * d_model, count, d_model},
                     .sequences = {&rows, 1},
                     .executor = executor,
                     .memory = scratch,
                     .workspace = workspace.span(),
                     .tasks = tasks.span(),
                     .task_floats = task_floats};
    block.forward(ctx);
  }
  return x;
}

/// Row t of [tokens, d_model].
inline std::vector<double> row_of(const std::vector<float>& x, Index t, Index d_model) {
  return {x.begin() + t * d_model, x.begin() + (t + 1) * d_model};
}

}  // namespace krait::test
