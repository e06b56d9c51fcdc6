#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "command.hpp"
#include "krait/training.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct Options {
  std::string model;
  std::string config;
  std::vector<std::string> data;
  TrainFiles files;
  std::string dtype = "f32";
  std::string schedule = "constant";
  std::string order = "shuffled";
  TrainOptions train;
  std::optional<LoraOptions> lora;
  std::optional<std::uint64_t> seed;
  int threads = 0;
  bool json = false;
  bool is_sft = false;
};

// Where the run is, on one line that is rewritten on a terminal and printed now and then elsewhere.
class TrainLine {
 public:
  ~TrainLine() {
    if (is_shown_ && is_terminal_) std::fputs("\r\033[K", stderr);
  }
  Flow operator()(const TrainProgress& progress) {
    const double time = now();
    if (time - last_ > (is_terminal_ ? 0.2 : 10.0)) {
      last_ = time;
      is_shown_ = true;
      const Index done = progress.step.step + 1;
      const double left = (time - begun_) / static_cast<double>(done - first_) *
                          static_cast<double>(progress.steps - done);
      std::fprintf(stderr, "%strain step %lld of %lld, loss %.4f, %.0f tokens/s, %.0f s left%s",
                   is_terminal_ ? "\r" : "", static_cast<long long>(done),
                   static_cast<long long>(progress.steps), progress.step.loss,
                   progress.tokens_per_second, left, is_terminal_ ? "\033[K" : "\n");
      std::fflush(stderr);
    }
    if (first_ < 0) {
      first_ = progress.step.step;
      begun_ = time;
    }
    return is_interrupted() ? Flow::stop : Flow::go_on;
  }

 private:
  bool is_terminal_ = isatty(STDERR_FILENO) != 0;
  bool is_shown_ = false;
  Index first_ = -1;  // step that was done when the clock was started
  double begun_ = now();
  double last_ = now();
};

// What the model is trained on: text, or for `sft` examples.
Result<void> read_data(const Options& options, TrainTask& task) {
  KRAIT_ASSIGN_OR_RETURN(const ModelConfig config, read_config(task.checkpoint));
  KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, make_tokenizer(task.checkpoint, config));
  if (options.is_sft && !config.is_byte_level && config.stop_tokens.empty()) {
    return Error{ErrorCode::bad_config,
                 "[sft] eos: expected an end-of-text token in the configuration, found none (" +
                     options.model + ")"};
  }
  const Token end = config.is_byte_level || !options.is_sft ? 0 : config.stop_tokens.front();
  for (const std::string& path : options.data) {
    KRAIT_ASSIGN_OR_RETURN(const std::string text,
                           read_text({.argument = {}, .file = path}, "--data"));
    if (options.is_sft) {
      KRAIT_ASSIGN_OR_RETURN(std::vector<Row> examples,
                             read_examples(text, path, *tokenizer, end, options.train.length));
      std::ranges::move(examples, std::back_inserter(task.examples));
      continue;
    }
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> part,
                           tokenizer->encode(text, {.add_special = false}));
    task.text.insert(task.text.end(), part.begin(), part.end());
  }
  if (!options.is_sft && task.text.size() < 2) {
    return Error{ErrorCode::bad_argument, "[train] data: expected at least 2 tokens, found " +
                                              std::to_string(task.text.size()) + " (" +
                                              options.data.front() + ")"};
  }
  return {};
}

void check_usage(const Options& options) {
  if (options.is_sft && options.model.empty()) {
    throw WrongUsage("--model", "a checkpoint", "none");
  }
  if (options.model.empty() == options.config.empty()) {
    throw WrongUsage("--model", "either a checkpoint or --config",
                     options.model.empty() ? "none" : "both");
  }
  if (options.lora && options.model.empty()) {
    throw WrongUsage("--lora", "a checkpoint (-m) beside it", "--config");
  }
  if (options.data.empty())
    throw WrongUsage("--data", options.is_sft ? "a file of examples" : "a text file", "none");
  if (options.files.destination.empty()) {
    throw WrongUsage("--out", "the name of a new folder", "none");
  }
  if (options.train.steps == 0) throw WrongUsage("--steps", "a number of steps", "none");
  const auto at_most = [](std::string_view name, Index value, Index most, const char* what) {
    if (value <= most) return;
    throw WrongUsage(name, "at most " + std::to_string(most) + " (" + what + ")",
                     std::to_string(value));
  };
  at_most("--warmup", options.train.warmup, options.train.steps, "--steps");
  at_most("--shards", options.train.shards, options.train.rows(), "rows of a step");
}

Result<void> run(const Options& given) {
  check_usage(given);
  TrainOptions options = given.train;
  options.seed = given.seed.value_or(0);
  for (const Schedule schedule :
       {Schedule::constant, Schedule::linear, Schedule::cosine, Schedule::wsd}) {
    if (given.schedule == to_string(schedule)) options.schedule = schedule;
  }
  options.order = given.order == "sequential" ? DataOrder::sequential : DataOrder::shuffled;
  TrainFiles files = given.files;
  files.dtype = given.dtype == "bf16"  ? DType::bf16
                : given.dtype == "f16" ? DType::f16
                                       : DType::f32;
  KRAIT_ASSIGN_OR_RETURN(TrainTask task,
                         given.lora ? new_lora_task(given.model, *given.lora, options.seed)
                         : given.config.empty() ? open_train_task(given.model)
                                                : new_train_task(given.config, options.seed));
  KRAIT_RETURN_IF_ERROR(read_data(given, task));
  const std::unique_ptr<ThreadPool> threads = make_threads(given.threads);
  const double begun = now();
  Result<TrainSummary> summary = [&] {
    TrainLine line;
    return train(std::move(task), options, files, *threads,
                 [&](const TrainProgress& progress) { return line(progress); });
  }();
  if (!summary) return std::move(summary).error();
  const double seconds = now() - begun;
  if (given.json) return print_json(to_json(*summary, files.destination, seconds));
  std::string text = shown(files.destination) + ": " + std::to_string(summary->steps) + " steps";
  if (summary->was_finished) {
    text += ", done before";
  } else {
    char loss[64];
    std::snprintf(loss, sizeof loss, ", loss %.6f", summary->loss);
    text += loss;
  }
  return print_all(text + "\n");
}

void declare_optimizer(Command& command, Options& options) {
  TrainOptions& train = options.train;
  const auto check = [&train] {
    TrainOptions probe = train;  // whole numbers are checked elsewhere
    probe.steps = probe.batch = probe.length = probe.accumulate = 1;
    probe.shards = probe.warmup = 0;
    return validate(probe);
  };
  command.real("--lr", train.learning_rate, "Learning rate", check);
  command.choice("--schedule", options.schedule, {"constant", "linear", "cosine", "wsd"},
                 "Of the learning rate, after the warm-up; all but constant end at a tenth");
  command.number("--warmup", train.warmup, 0, Index{1} << 40,
                 "Steps over which the learning rate rises");
  command.real("--weight-decay", train.weight_decay, "Of matrices and the embedding; 0: none",
               check);
  command.real("--beta1", train.beta1, "AdamW: mean of gradients", check);
  command.real("--beta2", train.beta2, "AdamW: mean of their squares", check);
  command.real("--eps", train.eps, "AdamW: added to the root", check);
  command.real("--clip", train.clip, "Longest gradient; 0: any", check);
  command.real("--balance-loss", train.balance,
               "Coefficient of the loss that balances experts; 0: none", check);
  command.real("--z-loss", train.z_loss, "Coefficient of the routers' z-loss; 0: none", check);
}

// What `train` and `sft` share.
void declare_run(Command& command, Options& options) {
  TrainOptions& train = options.train;
  command.file("--out", options.files.destination, "Folder to make");
  command.number("--steps", train.steps, 1, Index{1} << 40, "Steps of the optimiser");
  command.number("--batch", train.batch, 1, 1 << 20, "Rows of a batch");
  command.number("--length", train.length, 1, 1 << 20,
                 options.is_sft ? "Most tokens of a row" : "Tokens of a row");
  command.number("--accumulate", train.accumulate, 1, 1 << 20, "Batches of a step");
  command.number("--shards", train.shards, 0, 4096,
                 "Parts in which the rows of a step are added; 0: 8, or as many as rows");
  command.choice("--order", options.order, {"shuffled", "sequential"}, "Of the rows");
  command.seed("--seed", options.seed,
               options.is_sft ? "Of the order and of a new adapter; 0 if not given"
                              : "Of order and initial weights; 0 if not given");
  const std::string lora = "--lora";
  command.custom(
      lora, "SPEC",
      "Train an adapter of low rank, which --out gets, over a model in any form: "
      "r=16,alpha=32,targets=in+out; targets are " +
          [] {
            std::string words;
            for (const std::string_view word : lora_targets()) {
              words += (words.empty() ? "" : ", ") + std::string(word);
            }
            return words;
          }(),
      [&options, lora](const std::string& text) {
        const Result<LoraOptions> parsed = parse_lora(text);
        if (!parsed) throw WrongUsage(lora, parsed.error());
        options.lora = *parsed;
      });
  declare_optimizer(command, options);
  command.number("--checkpoint-every", options.files.checkpoint_every, 1, Index{1} << 40,
                 "Steps after which unfinished work is saved, in the folder <out>.partial");
  command.flag("--resume", options.files.resume, "Go on with unfinished work, if there is any");
  command.file("--log", options.files.log, "File for one line of JSON per step");
  command.choice("--dtype", options.dtype, {"f32", "bf16", "f16"}, "Of the matrices in the result");
  add_threads(command, options.threads);
  command.flag("--json", options.json, "One JSON object: out, steps, loss, seconds");
}

constexpr const char* model_help =
    "Checkpoint to begin with: a directory, weight file, or the name of a bundled model";

void declare(Command& command, Options& options) {
  command.file("-m,--model", options.model, model_help);
  command.file("--config", options.config, "config.json of a new model, initialised from --seed");
  command.texts("--data", options.data, "Text file; may be repeated: they are joined");
  declare_run(command, options);
}

void declare_sft(Command& command, Options& options) {
  options.is_sft = true;
  command.file("-m,--model", options.model, model_help);
  command.texts("--data", options.data,
                "File of examples, one JSON object with prompt and response per line; may be "
                "repeated");
  declare_run(command, options);
}

}  // namespace

void add_train(CommandLine& line) {
  line.add("train", "Trains a model on text",
           "krait train --config config.json --data book.txt --out my-model --steps 1000 "
           "--schedule cosine --warmup 100 --resume",
           declare, run);
}

void add_sft(CommandLine& line) {
  line.add("sft", "Trains a model on examples of prompts and responses",
           "krait sft -m krait-bytes-2m --data examples.jsonl --out my-model --steps 200 --lr 1e-4",
           declare_sft, run);
}

}  // namespace krait::cli
