#include "training/muon.hpp"

#include <algorithm>
#include <cmath>

#include "krait/core/float_environment.hpp"
#include "training/products.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr int newton_schulz_steps = 5;
constexpr float newton_schulz_a = 3.4445F;
constexpr float newton_schulz_b = -4.7750F;
constexpr float newton_schulz_c = 2.0315F;
constexpr double least_norm = 1e-7;
constexpr Index muon_piece = 4096;
constexpr ItemCost muon_cost = ItemCost::of(16, 8);

// X [r, c], r at most c, becomes about the nearest matrix whose rows are orthonormal.
void orthogonalise(const Work& work, MatrixView<float> X) {
  const Workspace::Frame frame(work.memory);
  const auto G = work.memory.matrix(X.rows, X.rows);
  const auto P = work.memory.matrix(X.rows, X.rows);
  const auto PX = work.memory.matrix(X.rows, X.cols);
  for (int i = 0; i < newton_schulz_steps; ++i) {
    training::multiply(work, X.data, X.rows, X.cols, X, nullptr, G);  // X Xᵀ
    training::multiply(work, G.data, X.rows, X.rows, G, nullptr, P);  // G Gᵀ, and G is symmetric
    parallel_for(work.executor, G.rows * G.cols, muon_piece, muon_cost, [&](Range range) {
      for (Index k = range.begin; k < range.end; ++k) {
        P.data[k] = newton_schulz_b * G.data[k] + newton_schulz_c * P.data[k];
      }
    });
    training::multiply_transposed(work, X, P, PX);
    parallel_for(work.executor, X.rows * X.cols, muon_piece, muon_cost, [&](Range range) {
      for (Index k = range.begin; k < range.end; ++k) {
        X.data[k] = newton_schulz_a * X.data[k] + PX.data[k];
      }
    });
  }
}

}  // namespace

namespace training {

Index muon_memory(Index rows, Index cols) {
  Room room(BackwardSize{});
  const Index r = std::min(rows, cols);
  const Index c = std::max(rows, cols);
  room.matrix(rows, cols);
  room.matrix(r, c);
  room.matrix(r, r);
  room.matrix(r, r);
  room.matrix(r, c);
  room.multiply(c, r);
  room.multiply(r, r);
  room.multiply_transposed(r, c, r);
  return room.most();
}

}  // namespace training

void muon(const Work& work, const Muon& options, Index rows, Index cols, const float* gradient,
          float* momentum, float* value) {
  const FloatEnvironment environment;
  const Workspace::Frame frame(work.memory);
  const auto kept = static_cast<float>(options.momentum);
  const auto rest = static_cast<float>(1.0 - options.momentum);
  const auto update = work.memory.matrix(rows, cols);
  parallel_for(work.executor, rows * cols, muon_piece, muon_cost, [&](Range range) {
    for (Index i = range.begin; i < range.end; ++i) {
      const float g = gradient[i];
      const float m = momentum[i] + (g - momentum[i]) * rest;
      momentum[i] = m;
      update.data[i] = g + (m - g) * kept;  // Nesterov's
    }
  });
  const double norm = gradient_norm({update.data, static_cast<std::size_t>(rows * cols)});
  const auto scale = static_cast<float>(1.0 / std::max(norm, least_norm));
  const bool is_tall = rows > cols;
  const auto X = work.memory.matrix(std::min(rows, cols), std::max(rows, cols));
  if (is_tall) {
    training::transpose(work, update, X);
  } else {
    training::copy_rows(work, update, X);
  }
  parallel_for(work.executor, rows * cols, muon_piece, muon_cost, [&](Range range) {
    for (Index i = range.begin; i < range.end; ++i) X.data[i] *= scale;
  });
  orthogonalise(work, X);
  if (is_tall) {
    training::transpose(work, X, update);
  } else {
    training::copy_rows(work, X, update);
  }
  const auto keep = static_cast<float>(1.0 - options.learning_rate * options.weight_decay);
  const auto size = static_cast<float>(options.learning_rate * 0.2 *
                                       std::sqrt(static_cast<double>(std::max(rows, cols))));
  parallel_for(work.executor, rows * cols, muon_piece, muon_cost, [&](Range range) {
    for (Index i = range.begin; i < range.end; ++i) {
      value[i] = value[i] * keep - size * update.data[i];
    }
  });
}

}  // namespace v0_1
}  // namespace krait
