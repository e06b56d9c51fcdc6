#include "krait/training/train.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "io/lies_in.hpp"
#include "io/partial_folder.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/training/initial_weights.hpp"
#include "loading/checkpoint_texts.hpp"
#include "training/run_files.hpp"
#include "training/trained_model.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_text_bytes = std::size_t{256} << 20U;

// That what a run makes can be put where it is meant to go. Writes nothing.
Result<void> check_files(const TrainFiles& files) {
  if (files.checkpoint_every < 1) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] checkpoint-every: expected at least 1, found {}",
                             files.checkpoint_every)};
  }
  if (files.dtype != DType::f32 && files.dtype != DType::bf16 && files.dtype != DType::f16) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] dtype: expected f32, bf16 or f16, found {}",
                             to_string(files.dtype))};
  }
  if (files.log.empty()) return {};
  std::error_code ignored;
  const fs::path folder = fs::path(files.log).parent_path();
  if (!folder.empty() && !fs::is_directory(folder, ignored)) {
    return Error{
        ErrorCode::not_found,
        fmt::format("[training] log: expected a folder for it, found none ({})", files.log)};
  }
  for (const std::string& file : {files.log, files.log + ".svg"}) {
    for (const std::string& place : {files.destination, partial_folder(files.destination)}) {
      if (!lies_in(file, place)) continue;
      return Error{ErrorCode::bad_argument,
                   fmt::format("[training] log: expected a file beside the result, found the "
                               "result's place ({})",
                               file)};
    }
    if (!fs::is_directory(file, ignored)) continue;
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] log: expected a file, found a folder ({})", file)};
  }
  return {};
}

// That the result does not lie in what it is made of. A configuration alone may lie beside it.
Result<void> check_outside(const TrainTask& task, const std::string& destination) {
  std::error_code ignored;
  const std::string& source = task.checkpoint.path;
  if (task.checkpoint.weights.size() == 0 || !fs::is_directory(source, ignored) ||
      !lies_in(destination, source)) {
    return {};
  }
  return Error{ErrorCode::bad_argument,
               fmt::format("[training] destination: expected a place outside the source, found one "
                           "in it ({})",
                           destination)};
}

bool is_dense(std::string_view form) {
  return form == to_string(DType::f32) || form == to_string(DType::bf16) ||
         form == to_string(DType::f16);
}

// All but the values.
TrainTask task_of(CheckpointPlan planned) {
  ModelSpec spec = training::trained_spec(planned);
  return {.checkpoint = std::move(planned.checkpoint),
          .spec = std::move(spec),
          .prefix = planned.config.prefix,
          .values = {},
          .lora = nullptr,
          .text = {},
          .examples = {}};
}

// That every matrix is floats, which can be moved.
Result<void> check_dense(const CheckpointPlan& planned) {
  for (const TensorUse& use : planned.plan.tensors) {
    if (use.role != TensorRole::matrix || is_dense(use.form)) continue;
    return Error{ErrorCode::dtype_mismatch,
                 fmt::format("[training] {}: expected a matrix of floats, found {}, which --lora "
                             "leaves as it is and trains an adapter beside",
                             use.name, use.form)};
  }
  return {};
}

}  // namespace

Result<TrainTask> open_train_task(const std::string& path, TaskValues values) {
  KRAIT_ASSIGN_OR_RETURN(CheckpointPlan planned, plan_checkpoint(path));
  KRAIT_RETURN_IF_ERROR(check_dense(planned));
  TrainTask task = task_of(std::move(planned));
  if (values == TaskValues::left_out) return task;
  KRAIT_ASSIGN_OR_RETURN(const Parameters parameters, Parameters::of(task.spec, task.prefix));
  task.values = AlignedBuffer<float>(parameters.floats());
  KRAIT_ASSIGN_OR_RETURN(
      const WeightStore weights,
      training::trained_weights(task.spec, task.prefix, task.checkpoint.weights));
  KRAIT_RETURN_IF_ERROR(parameters.read(weights, task.values.span()));
  return task;
}

Result<TrainTask> new_lora_task(const std::string& path, const LoraOptions& options,
                                std::uint64_t seed, TaskValues values) {
  KRAIT_ASSIGN_OR_RETURN(CheckpointPlan planned, plan_checkpoint(path));
  TrainTask task = task_of(std::move(planned));
  KRAIT_ASSIGN_OR_RETURN(task.lora,
                         Lora::create(task.spec, task.prefix, task.checkpoint.weights, options));
  if (values == TaskValues::left_out) return task;
  task.values = AlignedBuffer<float>(task.lora->parameters().floats());
  task.lora->initial_values(seed, task.values.span());
  return task;
}

Result<TrainTask> new_train_task(const std::string& config_path, std::uint64_t seed,
                                 TaskValues values) {
  TrainTask task;
  std::error_code ignored;
  fs::path path = config_path;
  if (fs::is_directory(path, ignored)) path /= "config.json";
  task.checkpoint.path = path.parent_path().empty() ? "." : path.parent_path().string();
  task.checkpoint.config_file = path.filename().string();
  KRAIT_ASSIGN_OR_RETURN(task.checkpoint.config, read_text_file(path.string(), most_text_bytes));
  KRAIT_RETURN_IF_ERROR(read_texts_beside(task.checkpoint.path, task.checkpoint));
  KRAIT_ASSIGN_OR_RETURN(ModelConfig config, read_config(task.checkpoint));
  task.checkpoint.config_file = "config.json";
  task.spec = std::move(config.spec);
  task.prefix = config.prefix;
  if (values == TaskValues::left_out) return task;
  KRAIT_ASSIGN_OR_RETURN(const Parameters parameters, Parameters::of(task.spec, task.prefix));
  task.values = AlignedBuffer<float>(parameters.floats());
  initial_weights(task.spec, parameters, seed, task.values.span());
  return task;
}

namespace {

// Gives the pairs their reference, or puts back what an interrupted run had found.
Result<void> find_reference(TrainTask& task, const training::Checkpoints& checkpoints,
                            const training::Identity& identity, bool resume, Executor& executor,
                            FunctionRef<Flow(const TrainProgress&)> progress, Index steps) {
  PreferenceTask& preference = *task.preference;
  const auto has_reference = [](const PreferencePair& pair) {
    return !pair.chosen_reference.empty() && !pair.rejected_reference.empty();
  };
  bool is_there = std::ranges::all_of(preference.pairs, has_reference);
  if (!is_there && resume) {
    KRAIT_ASSIGN_OR_RETURN(is_there, checkpoints.load_reference(preference.pairs, identity));
  }
  if (is_there && std::ranges::all_of(task.held_out_pairs, has_reference)) return {};
  const std::optional<ReferenceModel>& other = preference.reference;
  KRAIT_ASSIGN_OR_RETURN(
      ModelGradient model,
      ModelGradient::create(other ? other->spec : task.spec, other ? other->prefix : task.prefix,
                            executor, other ? nullptr : task.lora));
  KRAIT_RETURN_IF_ERROR(model.bind((other ? other->values : task.values).data()));
  const auto report = [&](Index done, Index all) {
    return progress({.steps = steps, .references = done, .pairs = all});
  };
  if (!is_there) {
    KRAIT_RETURN_IF_ERROR(set_reference(model, preference.pairs, report));
    KRAIT_RETURN_IF_ERROR(checkpoints.save_reference(preference.pairs, identity));
  }
  KRAIT_RETURN_IF_ERROR(set_reference(model, task.held_out_pairs, report));
  preference.reference.reset();
  return {};
}

// Behind the trainer's last step.
Result<std::optional<double>> held_out_loss(const TrainTask& task, Trainer& trainer) {
  std::optional<double> loss;
  if (!task.held_out.empty()) {
    KRAIT_ASSIGN_OR_RETURN(loss, trainer.loss(task.held_out));
  } else if (task.preference && !task.held_out_pairs.empty()) {
    KRAIT_ASSIGN_OR_RETURN(loss, trainer.loss(task.held_out_pairs, task.preference->options));
  }
  if (!loss || std::isfinite(*loss)) return loss;
  return Error{ErrorCode::not_finite,
               fmt::format("[training] step {}: expected a finite held-out loss, found {}",
                           trainer.steps() - 1, std::abs(*loss))};
}

}  // namespace

Result<TrainSummary> train(TrainTask task, const TrainOptions& options, const TrainFiles& files,
                           Executor& executor, FunctionRef<Flow(const TrainProgress&)> progress) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  KRAIT_RETURN_IF_ERROR(check_files(files));
  KRAIT_RETURN_IF_ERROR(check_outside(task, files.destination));
  if (task.preference) {
    KRAIT_RETURN_IF_ERROR(validate(task.preference->options));
    if (task.preference->pairs.empty()) {
      return Error{ErrorCode::bad_argument, "[training] data: expected pairs, found none"};
    }
    if (const std::optional<Replay>& replay = task.preference->replay; replay) {
      KRAIT_RETURN_IF_ERROR(validate_replay(replay->weight));
      if (replay->examples.empty()) {
        return Error{ErrorCode::bad_argument, "[training] replay: expected examples, found none"};
      }
    }
  } else if (task.examples.empty() && task.text.size() < 2) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[training] data: expected at least 2 tokens, found {}", task.text.size())};
  }
  if (task.teacher) {
    const Index vocab = task.spec.embedding.vocab;
    if (task.teacher->model.vocab() != vocab) {
      return Error{
          ErrorCode::bad_argument,
          fmt::format("[training] teacher: expected a model with {} tokens, found one with "
                      "{}",
                      vocab, task.teacher->model.vocab())};
    }
    KRAIT_RETURN_IF_ERROR(validate(task.teacher->distillation));
  }
  const training::Identity identity = training::identity_of(task, options, files);
  const training::Checkpoints checkpoints(files.destination);
  if (files.resume) {
    KRAIT_ASSIGN_OR_RETURN(const bool finished, training::is_finished(files.destination, identity));
    if (finished) {
      checkpoints.remove();
      return TrainSummary{.steps = options.steps, .was_finished = true};
    }
  }
  if (task.lora == nullptr) KRAIT_RETURN_IF_ERROR(check_texts(task.checkpoint));
  KRAIT_RETURN_IF_ERROR(AtomicDirectory::create(files.destination));  // and not kept
  if (task.preference) {
    KRAIT_RETURN_IF_ERROR(find_reference(task, checkpoints, identity, files.resume, executor,
                                         progress, options.steps));
  }
  KRAIT_ASSIGN_OR_RETURN(Trainer trainer,
                         Trainer::create(task.spec, task.prefix, options, std::move(task.values),
                                         executor, task.lora));
  if (files.resume && checkpoints.exist()) {
    KRAIT_RETURN_IF_ERROR(checkpoints.load(trainer, identity));
  }
  KRAIT_ASSIGN_OR_RETURN(training::Log log, training::Log::open(files.log, trainer.steps()));
  TextRows text(options, task.text);
  ExampleRows examples(options, task.examples);
  RowSource& rows = task.examples.empty() ? static_cast<RowSource&>(text) : examples;
  const std::span<const PreferencePair> all_pairs =
      task.preference ? task.preference->pairs : std::span<const PreferencePair>();
  PairRows pairs(options, all_pairs);
  const Replay* replayed =
      task.preference && task.preference->replay ? &*task.preference->replay : nullptr;
  ExampleRows replayed_rows(
      options, replayed != nullptr ? std::span(replayed->examples) : std::span<const Row>());
  ReplayRows replay;
  if (replayed != nullptr) replay = {.rows = &replayed_rows, .weight = replayed->weight};
  std::optional<TeacherLaws> teacher;
  if (task.teacher) teacher.emplace(task.teacher->model, executor);
  TrainSummary summary{.steps = options.steps, .was_finished = trainer.steps() == options.steps};
  using Clock = std::chrono::steady_clock;
  while (trainer.steps() < options.steps) {
    const auto begun = Clock::now();
    KRAIT_ASSIGN_OR_RETURN(const TrainStep step,
                           task.preference ? trainer.step(pairs, task.preference->options, replay)
                           : teacher ? trainer.step(rows, *teacher, task.teacher->distillation)
                                     : trainer.step(rows));
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    TrainProgress done{
        .step = step,
        .steps = options.steps,
        .tokens_per_second = static_cast<double>(step.tokens) / std::max(seconds, 1e-9)};
    summary.loss = step.loss;
    summary.pairs = step.pairs;
    const bool is_last = trainer.steps() == options.steps;
    const bool is_due = is_last || trainer.steps() % files.checkpoint_every == 0;
    if (is_due) {
      KRAIT_ASSIGN_OR_RETURN(done.held_out_loss, held_out_loss(task, trainer));
    }
    KRAIT_RETURN_IF_ERROR(log.write(done));
    const bool stops = progress(done) == Flow::stop;
    // Behind the last step, too, in case that the result cannot be written.
    if (is_due || stops) {
      KRAIT_RETURN_IF_ERROR(checkpoints.save(trainer, identity));
      KRAIT_RETURN_IF_ERROR(log.draw());
    }
    if (stops && !is_last) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[training] expected {} steps, found an end after {} (--resume goes "
                               "on)",
                               options.steps, trainer.steps())};
    }
  }
  KRAIT_RETURN_IF_ERROR(training::write_result(task, files, trainer, identity));
  checkpoints.remove();
  return summary;
}

}  // namespace v0_1
}  // namespace krait
