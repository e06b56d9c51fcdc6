#pragma once

/// \file
/// Trainer: AdamW over the gradients of many rows.

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/function_ref.hpp"
#include "krait/models/session.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/training/preference.hpp"
#include "krait/training/rows.hpp"
#include "krait/training/train_options.hpp"

namespace krait {
inline namespace v0_1 {

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

/// Muon (Jordan et al. 2024) for a matrix [rows, cols]: momentum as Nesterov's, five steps of
/// Newton-Schulz by which the update's singular values come near 1, decoupled weight decay. The
/// step counts 0.2·√max(rows, cols) times, so that its elements are as large as AdamW's and the
/// same learning rates fit (Liu et al. 2025, arXiv:2502.16982, eq. 4). Bits: numeric contract,
/// section 12.
struct Muon {
  double learning_rate;
  double momentum;
  double weight_decay;
};
KRAIT_API void muon(const Work& work, const Muon& options, Index rows, Index cols,
                    const float* gradient, float* momentum, float* value);

/// Matrices of which a parameter consists that Muon is for, one behind the other; 0: it is not.
KRAIT_API Index muon_matrices(const ModelSpec& spec, const Parameter& parameter);

/// What a step found before it changed the weights.
struct TrainStep {
  Index step = 0;          ///< from 0
  double loss = 0.0;       ///< mean cross-entropy of a target, in nats; of pairs, their mean loss
  double grad_norm = 0.0;  ///< before clipping
  double learning_rate = 0.0;
  Index tokens = 0;                          ///< inputs of all rows
  std::optional<PairStatistics> pairs = {};  ///< means, of a step over pairs
  /// Of a step with a teacher: mean KL divergence of a target, in nats, at the temperature.
  std::optional<double> divergence = {};
  /// Of a step over pairs with a replay: mean cross-entropy of its rows' targets, in nats.
  std::optional<double> replay = {};
};

/// Rows that count beside pairs.
struct ReplayRows {
  RowSource* rows = nullptr;  ///< null: none
  double weight = 1.0;        ///< of what a step over these rows alone would have as its loss
};

/// Errors: bad_argument for a weight of a replay that is not a finite number above 0.
KRAIT_API Result<void> validate_replay(double weight);

/// What a model says of the tokens of a row, as it is in inference.
class KRAIT_API TeacherLaws {
 public:
  /// The executor must outlive the object.
  TeacherLaws(const Model& model, Executor& executor);
  /// The probabilities behind each of the inputs, an empty sequence's first ones, of logits divided
  /// by the temperature: [inputs, vocab], until the next call. Errors: those of Session.
  Result<MatrixView<const float>> laws(std::span<const Token> inputs, double temperature);

 private:
  State state_;
  Session session_;
  AlignedBuffer<float> logits_;
};

/// Weights in training, with the moments of their gradients. The same options, data and weights
/// give the same bits with any executor, and whether or not the run was interrupted.
class KRAIT_API Trainer {
 public:
  /// `values` [parameters.floats()] are the weights to begin with, with `lora` the factors of that
  /// adapter. The executor must outlive the trainer. Errors: bad_argument, bad_config, unsupported.
  static Result<Trainer> create(const ModelSpec& spec, const std::string& prefix,
                                const TrainOptions& options, AlignedBuffer<float> values,
                                Executor& executor, std::shared_ptr<const Lora> lora = nullptr);

  const Parameters& parameters() const noexcept { return gradient_.parameters(); }
  const TrainOptions& options() const noexcept { return options_; }
  /// Steps done.
  Index steps() const noexcept { return step_; }

  /// One step over the rows that its number gives. Errors: bad_argument (a token outside the
  /// vocabulary), not_finite (names the step; the weights stay).
  Result<TrainStep> step(RowSource& rows);
  /// The same with a teacher. Errors: those of its session.
  Result<TrainStep> step(RowSource& rows, TeacherLaws& teacher, const Distillation& distillation);
  /// The same over pairs, the sum of whose gradients is divided by their number. With a replay,
  /// each pair is followed by the row of its number: added is `weight` times the mean over the
  /// targets of the step's rows.
  Result<TrainStep> step(PairRows& pairs, const PreferenceOptions& preference,
                         const ReplayRows& replay = {});

  /// The mean cross-entropy of the rows' targets with the present weights, in nats: the sum in
  /// ascending order. At least one row. Errors: bad_argument.
  Result<double> loss(std::span<const Row> rows);
  /// The mean loss of pairs that have their reference, as a step over these pairs has it.
  Result<double> loss(std::span<const PreferencePair> pairs, const PreferenceOptions& preference);

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
  void use_muon(const ModelSpec& spec);
  // Sums over some rows.
  struct Found {
    double loss = 0.0;
    double divergence = 0.0;
    bool has_teacher = false;
    Index parts = 0;  // by which the sums are divided
    Index tokens = 0;
    PairStatistics pairs = {};
  };
  // Adds the gradient of a row, counted through all steps, to the sum.
  using AddLeaf = FunctionRef<Result<void>(Index row, float* sum, Found& found)>;
  Result<Found> gradient(AddLeaf add);
  Result<TrainStep> step(AddLeaf add);
  Result<TrainStep> step(RowSource& rows, TeacherLaws* teacher, const Distillation& distillation);
  // A row, and what it is learned with.
  struct RowTask {
    const Row& row;
    double weight = 1.0;  // of each target, and of the routers' losses
    TeacherLaws* teacher = nullptr;
    Distillation distillation = {};
  };
  struct RowLoss {  // sums over the targets, each times the weight
    double cross_entropy = 0.0;
    double divergence = 0.0;
  };
  Result<RowLoss> add_row(const RowTask& task, float* sum);

  void update(const TrainStep& found, float factor);

  Executor* executor_;
  ModelGradient gradient_;
  TrainOptions options_;
  AlignedBuffer<float> values_, first_, second_;
  std::vector<Index> muon_;                 // matrices of each parameter; 0: AdamW
  Index muon_floats_ = 0;                   // of working memory
  std::vector<AlignedBuffer<float>> sums_;  // of shards, those of finished subtrees first
  Index step_ = 0;
};

}  // namespace v0_1
}  // namespace krait
