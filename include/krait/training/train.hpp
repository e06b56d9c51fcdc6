#pragma once

/// \file
/// A whole training run with its files: checkpoints, log, result.

#include <optional>
#include <string>
#include <vector>

#include "krait/core/flow.hpp"
#include "krait/loading/registry.hpp"
#include "krait/training/trainer.hpp"

namespace krait {
inline namespace v0_1 {

/// A model that answers are compared with.
struct ReferenceModel {
  ModelSpec spec;
  std::string prefix;
  AlignedBuffer<float> values;
};

/// Examples that are trained on beside pairs, as many a step.
struct Replay {
  std::vector<Row> examples;  ///< at least one
  double weight = 1.0;        ///< of the mean cross-entropy of a step's targets; above 0
};

/// Pairs of answers to be trained on.
struct PreferenceTask {
  PreferenceOptions options;
  std::vector<PreferencePair> pairs;             ///< at least one
  std::optional<ReferenceModel> reference = {};  ///< nothing: the model as it is before training
  std::optional<Replay> replay = {};
};

/// A model that is learned from, in whatever form it is.
struct TeacherTask {
  Model model;
  Distillation distillation;
};

/// What is trained.
struct TrainTask {
  Checkpoint checkpoint;  ///< configuration and tokenizer, which the result gets too
  ModelSpec spec;
  std::string prefix;  ///< what the tensors' names begin with
  /// The weights to begin with, in the order of `Parameters`; with an adapter, its factors.
  AlignedBuffer<float> values;
  std::shared_ptr<const Lora> lora;  ///< what is trained instead of the weights; null: the weights
  std::vector<Token> text;           ///< rows are cut out of it, unless there are examples
  std::vector<Row> examples;         ///< each is a row
  std::optional<PreferenceTask> preference = {};  ///< in place of text and examples
  std::optional<TeacherTask> teacher = {};        ///< for text and examples
  /// What is measured at checkpoints and the end, and not trained on: rows, or with a preference
  /// pairs.
  std::vector<Row> held_out = {};
  std::vector<PreferencePair> held_out_pairs = {};
};

/// Whether a task gets its values. Without them it cannot be trained, but `train_memory` tells what
/// that would need.
enum class TaskValues { made, left_out };

/// The weights of a checkpoint. `path` as for `open_model`. Errors: those of `plan_checkpoint`;
/// dtype_mismatch where a matrix is stored in a form that cannot be trained.
KRAIT_API Result<TrainTask> open_train_task(const std::string& path,
                                            TaskValues values = TaskValues::made);

/// Factors of low rank over the weights of a checkpoint in any form, initialised from `seed`.
/// Errors: those of `plan_checkpoint` and `Lora::create`.
KRAIT_API Result<TrainTask> new_lora_task(const std::string& path, const LoraOptions& options,
                                          std::uint64_t seed, TaskValues values = TaskValues::made);

/// New weights for a model as a configuration (config.json) describes it, from `seed`; a
/// tokenizer.json beside it is taken along.
KRAIT_API Result<TrainTask> new_train_task(const std::string& config_path, std::uint64_t seed,
                                           TaskValues values = TaskValues::made);

/// Where a run puts what it makes.
struct TrainFiles {
  /// Folder to make, a checkpoint or an adapter; unfinished work lies in `<destination>.partial`.
  std::string destination;
  /// One line of JSON per step; empty: none. `<log>.svg` gets a drawing of the losses, at
  /// checkpoints and in the end.
  std::string log = {};
  DType dtype = DType::f32;      ///< of the result's matrices: f32, bf16, f16
  Index checkpoint_every = 100;  ///< steps
  bool resume = false;           ///< go on with unfinished work, if there is any
};

/// Bytes that a run needs at its peak, beside the program and files that are mapped.
struct TrainMemory {
  Index weights = 0;    ///< in training, and what the model derives from them
  Index gradients = 0;  ///< sums of shards of a step (numeric contract, section 12)
  Index optimizer = 0;  ///< moments
  Index kept = 0;       ///< activations: of a row, in front of every block
  Index recomputed =
      0;              ///< activations of one block, or of the head's 128 tokens, and its products
  Index forward = 0;  ///< working memory and states of the pass of inference
  Index data = 0;     ///< tokens, and their order
  Index mapped = 0;   ///< weights under an adapter that are used in their file; not in the sum

  Index total() const noexcept {
    return weights + gradients + optimizer + kept + recomputed + forward + data;
  }
};

/// What `train` needs at its peak, for a task with data; its values may be left out, and nothing
/// large is allocated. `threads` is the executor's width. Counts experts as if one of them got all
/// tokens of a row, and, with an adapter, as if every matrix had one. A reference of its own, which
/// is gone before the first step, and what the result is rounded to are not in it. Errors: those of
/// the trainer.
KRAIT_API Result<TrainMemory> train_memory(const TrainTask& task, const TrainOptions& options,
                                           int threads);

/// After every step; before the first, after every pair that got its reference.
struct TrainProgress {
  TrainStep step = {};
  Index steps = 0;  ///< of the run
  double tokens_per_second = 0.0;
  std::optional<double> held_out_loss = {};  ///< behind the step, where it was measured
  Index references = 0;  ///< of `pairs` that have got their reference; 0 behind the first step
  Index pairs = 0;
};

struct TrainSummary {
  Index steps = 0;
  double loss = 0.0;                         ///< of the last step; 0 if none was done
  std::optional<PairStatistics> pairs = {};  ///< of the last step, if it was over pairs
  bool was_finished = false;                 ///< nothing was left to do
};

/// Trains and writes the result. Pairs get their reference first, once: it is kept with unfinished
/// work. Interrupted at any moment, by the callback (which has a checkpoint
/// written) or by force, the same call with `resume` goes on, and the result has the bytes of an
/// uninterrupted run. Errors, beside those of the trainer: bad_argument for a run that is not the
/// interrupted one (names what differs), places that cannot be written; io_failed; cancelled.
KRAIT_API Result<TrainSummary> train(TrainTask task, const TrainOptions& options,
                                     const TrainFiles& files, Executor& executor,
                                     FunctionRef<Flow(const TrainProgress&)> progress);

}  // namespace v0_1
}  // namespace krait
