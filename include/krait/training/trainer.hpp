#pragma once

/// \file
/// Trainer: AdamW over the gradients of many rows.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/training/model_gradient.hpp"

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

  Index rows() const noexcept { return batch * accumulate; }
  Index used_shards() const noexcept { return shards > 0 ? shards : std::min(rows(), Index{8}); }
};

/// Errors: bad_argument, naming the first bad value.
KRAIT_API Result<void> validate(const TrainOptions& options);

/// The learning rate of a step (from 0).
KRAIT_API double learning_rate(const TrainOptions& options, Index step);

/// Where the rows of a run begin in a text of `tokens` tokens.
class KRAIT_API RowOrder {
 public:
  RowOrder(const TrainOptions& options, Index tokens) : options_(options), tokens_(tokens) {}
  /// The first token of row `row` (counted through all steps).
  Index begin(Index row);

 private:
  TrainOptions options_;
  Index tokens_;
  Index epoch_ = -1;
  Index phase_ = 0;
  std::vector<Index> pieces_;
};

/// The norm of a gradient by the order of sums of the numeric contract.
KRAIT_API double gradient_norm(std::span<const float> gradients);

/// AdamW as PyTorch's (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2) for `count` floats:
/// decoupled weight decay, then the step with both moments corrected. `step` counts from 1.
struct AdamW {
  double learning_rate;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
};
KRAIT_API void adamw(const AdamW& options, Index step, Index count, const float* gradient,
                     float* first_moment, float* second_moment, float* value);

/// What a step found before it changed the weights.
struct TrainStep {
  Index step = 0;          ///< from 0
  double loss = 0.0;       ///< mean cross-entropy of a target, in nats
  double grad_norm = 0.0;  ///< before clipping
  double learning_rate = 0.0;
};

/// Weights in training, with the moments of their gradients. The same options, data and weights
/// give the same bits with any executor, and whether or not the run was interrupted.
class KRAIT_API Trainer {
 public:
  /// `values` [parameters.floats()] are the weights to begin with. The executor must outlive the
  /// trainer. Errors: bad_argument, bad_config, unsupported.
  static Result<Trainer> create(const ModelSpec& spec, const std::string& prefix,
                                const TrainOptions& options, AlignedBuffer<float> values,
                                Executor& executor);

  const Parameters& parameters() const noexcept { return gradient_.parameters(); }
  const TrainOptions& options() const noexcept { return options_; }
  /// Steps done.
  Index steps() const noexcept { return step_; }

  /// One step over the rows that its number gives. Errors: bad_argument (fewer than 2 tokens, or
  /// one outside the vocabulary), not_finite (names the step; the weights stay).
  Result<TrainStep> step(std::span<const Token> data);

  /// Everything that a step changes: the arrays, to be saved and put back.
  struct Arrays {
    std::span<float> values;
    std::span<float> first_moments;
    std::span<float> second_moments;
  };
  Arrays arrays() noexcept { return {values_.span(), first_.span(), second_.span()}; }
  /// Goes on behind so many steps, after the arrays have been put back.
  void set_steps(Index steps) noexcept { step_ = steps; }

 private:
  Trainer(ModelGradient gradient, const TrainOptions& options, AlignedBuffer<float> values,
          Executor& executor);
  Result<double> add_rows(std::span<const Token> data, Range rows, float* sum);
  Result<double> gradient(std::span<const Token> data);

  void update(const TrainStep& found, float factor);

  Executor* executor_;
  ModelGradient gradient_;
  TrainOptions options_;
  AlignedBuffer<float> values_, first_, second_;
  std::vector<AlignedBuffer<float>> sums_;  // of shards, those of finished subtrees first
  Index step_ = 0;
  RowOrder order_{{}, 0};
  Index tokens_ = 0;  // of the data that order_ is for
};

}  // namespace v0_1
}  // namespace krait
