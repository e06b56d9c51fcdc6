#pragma once

/// \file
/// What decides a training run, beside the model and the data.

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// How the learning rate goes on after the warm-up. All but `constant` end at a tenth of it.
enum class Schedule {
  constant,
  linear,
  cosine,
  wsd,  ///< warm-up, stable, decay: falls linearly over the last fifth of the steps
};

/// Which tokens the rows of a step have. Every row starts from an empty state.
enum class DataOrder {
  /// All pieces of `length` tokens once in random order, then again, cut elsewhere.
  shuffled,
  /// Row b of step s (both from 0) begins at token (s·rows + b)·length.
  sequential,
};

/// What makes steps out of gradients.
enum class Optimizer {
  adamw,
  /// Muon for matrices; AdamW for embedding, head, convolutions, norms, biases, A_log, D.
  muon,
};

KRAIT_API std::string_view to_string(Optimizer optimizer) noexcept;
KRAIT_API std::string_view to_string(Schedule schedule) noexcept;
KRAIT_API std::string_view to_string(DataOrder order) noexcept;

/// What decides a run, beside the model and the data.
struct TrainOptions {
  Index steps = 0;       ///< at least 1
  Index batch = 8;       ///< rows
  Index length = 512;    ///< tokens of a row
  Index accumulate = 1;  ///< batches of a step; the bits of one that is so many times as large
  /// In how many parts the rows of a step are added (numeric contract, section 12); 0: 8, or as
  /// many as there are rows.
  Index shards = 0;
  DataOrder order = DataOrder::shuffled;
  std::uint64_t seed = 0;  ///< of the order
  double learning_rate = 1e-3;
  Schedule schedule = Schedule::constant;
  Index warmup = 0;           ///< steps over which the learning rate rises
  double weight_decay = 0.1;  ///< of matrices and the embedding (Parameter::decays)
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double clip = 1.0;      ///< longest gradient; 0: any
  double balance = 0.01;  ///< coefficient of the experts' balancing loss
  double z_loss = 0.0;    ///< coefficient of the routers' z-loss
  double capacity = 0.0;  ///< of an even share, how many tokens of a row an expert takes; 0: all
  Optimizer optimizer = Optimizer::adamw;
  double momentum = 0.95;  ///< of Muon

  Index rows() const noexcept { return batch * accumulate; }
  Index used_shards() const noexcept { return shards > 0 ? shards : std::min(rows(), Index{8}); }
};

/// Errors: bad_argument, naming the first bad value.
KRAIT_API Result<void> validate(const TrainOptions& options);

/// The learning rate of a step (from 0).
KRAIT_API double learning_rate(const TrainOptions& options, Index step);

}  // namespace v0_1
}  // namespace krait
