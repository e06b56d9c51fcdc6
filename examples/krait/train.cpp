#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "command.hpp"
#include "krait/training.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

enum class Kind { train, sft, dpo };

struct TrainFlags {
  Kind kind = Kind::train;
  std::string model;
  std::string config;
  std::vector<std::string> data;
  std::string held_out;
  TrainFiles files;
  std::string dtype = "f32";
  std::string schedule = "constant";
  std::string order = "shuffled";
  std::string optimizer = "adamw";
  TrainOptions train;
  std::optional<LoraOptions> lora;
  std::optional<std::uint64_t> seed;
  int threads = 0;
  bool json = false;
  bool memory = false;
  std::string teacher;
  Distillation distillation;
  std::string reference;
  std::string loss = "sigmoid";
  PreferenceOptions preference;
  std::string replay;
  double replay_weight = 1.0;
};

constexpr PreferenceLoss preference_losses[] = {PreferenceLoss::sigmoid, PreferenceLoss::ipo,
                                                PreferenceLoss::hinge, PreferenceLoss::robust,
                                                PreferenceLoss::sigmoid_norm};

// Where the run is, on one line that is rewritten on a terminal and printed now and then elsewhere.
class TrainLine {
 public:
  ~TrainLine() {
    if (is_shown_ && is_terminal_) std::fputs("\r\033[K", stderr);
  }
  Flow operator()(const TrainProgress& progress) {
    const double time = now();
    if (progress.pairs > 0) {
      if (is_terminal_ && time - last_ > 0.2) {
        last_ = time;
        is_shown_ = true;
        std::fprintf(stderr, "\rreference %lld of %lld pairs\033[K",
                     static_cast<long long>(progress.references),
                     static_cast<long long>(progress.pairs));
        std::fflush(stderr);
      }
      return is_interrupted() ? Flow::stop : Flow::go_on;
    }
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

// What the model is trained on: text, examples or pairs.
Result<void> read_data(const TrainFlags& options, TrainTask& task) {
  const bool has_answers = options.kind != Kind::train;
  KRAIT_ASSIGN_OR_RETURN(const ModelConfig config, read_config(task.checkpoint));
  KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, make_tokenizer(task.checkpoint, config));
  Token end = 0;
  if (has_answers) {
    KRAIT_ASSIGN_OR_RETURN(const TextMarks marks, read_text_marks(task.checkpoint, *tokenizer));
    const Result<Token> found = end_of_answer(marks.ends, *tokenizer);
    if (!found) {
      return Error{found.error().code, found.error().message + " (" + options.model + ")"};
    }
    end = *found;
  }
  if (options.kind == Kind::dpo) task.preference = PreferenceTask{.options = {}, .pairs = {}};
  struct Part {
    std::vector<Token> text;
    std::vector<Row> examples;
    std::vector<PreferencePair> pairs;
  };
  const auto read = [&](const std::string& path, const char* option) -> Result<Part> {
    KRAIT_ASSIGN_OR_RETURN(const std::string text,
                           read_text({.argument = {}, .file = path}, option));
    Part part;
    if (options.kind == Kind::sft) {
      KRAIT_ASSIGN_OR_RETURN(part.examples,
                             read_examples(text, path, *tokenizer, end, options.train.length));
    } else if (options.kind == Kind::dpo) {
      KRAIT_ASSIGN_OR_RETURN(part.pairs,
                             read_pairs(text, path, *tokenizer, end, options.train.length));
    } else {
      KRAIT_ASSIGN_OR_RETURN(part.text, tokenizer->encode(text, {.add_special = false}));
    }
    return part;
  };
  const auto check_length = [&](std::size_t tokens, const char* what,
                                const std::string& path) -> Result<void> {
    if (has_answers || tokens >= 2) return {};
    return Error{ErrorCode::bad_argument, std::string("[train] ") + what +
                                              ": expected at least 2 tokens, found " +
                                              std::to_string(tokens) + " (" + path + ")"};
  };
  for (const std::string& path : options.data) {
    KRAIT_ASSIGN_OR_RETURN(Part part, read(path, "--data"));
    task.text.insert(task.text.end(), part.text.begin(), part.text.end());
    std::ranges::move(part.examples, std::back_inserter(task.examples));
    if (task.preference) {
      std::ranges::move(part.pairs, std::back_inserter(task.preference->pairs));
    }
  }
  KRAIT_RETURN_IF_ERROR(check_length(task.text.size(), "data", options.data.front()));
  if (!options.replay.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const std::string text,
                           read_text({.argument = {}, .file = options.replay}, "--replay"));
    Replay replay{.examples = {}, .weight = options.replay_weight};
    KRAIT_ASSIGN_OR_RETURN(replay.examples, read_examples(text, options.replay, *tokenizer, end,
                                                          options.train.length));
    task.preference->replay = std::move(replay);
  }
  if (options.held_out.empty()) return {};
  KRAIT_ASSIGN_OR_RETURN(Part part, read(options.held_out, "--held-out"));
  KRAIT_RETURN_IF_ERROR(check_length(part.text.size(), "held-out", options.held_out));
  task.held_out =
      has_answers ? std::move(part.examples) : cut_rows(part.text, options.train.length);
  task.held_out_pairs = std::move(part.pairs);
  return {};
}

// From whom the model learns.
Result<void> read_teacher(const TrainFlags& options, TrainTask& task) {
  if (options.teacher.empty()) return {};
  KRAIT_ASSIGN_OR_RETURN(Model teacher, load_model(options.teacher));
  if (teacher.vocab() != task.spec.embedding.vocab) {
    return Error{ErrorCode::bad_argument,
                 "[train] teacher: expected a model with " +
                     std::to_string(task.spec.embedding.vocab) + " tokens, found one with " +
                     std::to_string(teacher.vocab()) + " (" + options.teacher + ")"};
  }
  task.teacher = TeacherTask{.model = std::move(teacher), .distillation = options.distillation};
  return {};
}

// How pairs are weighed.
PreferenceOptions preference_of(const TrainFlags& options) {
  PreferenceOptions preference = options.preference;
  for (const PreferenceLoss loss : preference_losses) {
    if (options.loss == to_string(loss)) preference.loss = loss;
  }
  return preference;
}

// The same, and with what they are compared.
Result<void> read_preference(const TrainFlags& options, TrainTask& task) {
  PreferenceTask& preference = *task.preference;
  preference.options = preference_of(options);
  if (options.reference.empty()) return {};
  KRAIT_ASSIGN_OR_RETURN(TrainTask other, open_train_task(options.reference));
  if (other.spec.embedding.vocab != task.spec.embedding.vocab) {
    return Error{ErrorCode::bad_argument,
                 "[dpo] ref: expected a model with " + std::to_string(task.spec.embedding.vocab) +
                     " tokens, found one with " + std::to_string(other.spec.embedding.vocab) +
                     " (" + options.reference + ")"};
  }
  preference.reference = ReferenceModel{.spec = std::move(other.spec),
                                        .prefix = std::move(other.prefix),
                                        .values = std::move(other.values)};
  return {};
}

void check_usage(const TrainFlags& options) {
  if (options.kind != Kind::train && options.model.empty()) {
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
    throw WrongUsage("--data",
                     options.kind == Kind::train ? "a text file"
                     : options.kind == Kind::sft ? "a file of examples"
                                                 : "a file of pairs",
                     "none");
  if (options.teacher.empty() != (options.distillation.alpha == 0.0)) {
    throw WrongUsage(options.teacher.empty() ? "--teacher" : "--distill",
                     options.teacher.empty() ? "a model beside --distill"
                                             : "what --teacher counts, above 0 and up to 1",
                     options.teacher.empty() ? "none" : "0");
  }
  if (options.teacher.empty() && options.distillation.temperature != 1.0) {
    throw WrongUsage("--temperature", "--teacher beside it", "none");
  }
  if (options.optimizer != "muon" && options.train.momentum != TrainOptions{}.momentum) {
    throw WrongUsage("--momentum", "--optimizer muon beside it", options.optimizer);
  }
  if (options.lora && options.optimizer == "muon") {
    throw WrongUsage("--optimizer", "adamw beside --lora", "muon");
  }
  if (options.kind == Kind::dpo) {
    if (const Result<void> checked = validate(preference_of(options)); !checked) {
      throw WrongUsage("--label-smoothing", checked.error());
    }
  }
  if (options.memory) return;
  if (options.files.destination.empty()) {
    throw WrongUsage("--out", "the name of a new folder", "none");
  }
  if (options.train.steps == 0) throw WrongUsage("--steps", "a number of steps", "none");
  const auto at_most = [](std::string_view name, Index value, Index most, const char* what) {
    if (value <= most) return;
    throw WrongUsage(name, "at most " + std::to_string(most) + " (" + what + ")",
                     std::to_string(value));
  };
  const bool is_constant = options.schedule == to_string(Schedule::constant);
  at_most("--warmup", options.train.warmup, options.train.steps - (is_constant ? 0 : 1),
          is_constant ? "--steps" : "--steps, less the schedule's end");
  at_most("--shards", options.train.shards, options.train.rows(), "rows of a step");
}

// What the run would need, as a table.
Result<void> print_memory(const TrainFlags& given, const TrainTask& task, TrainOptions options) {
  options.steps = std::max({Index{1}, options.steps, options.warmup});
  const std::unique_ptr<ThreadPool> threads = make_threads(given.threads);
  KRAIT_ASSIGN_OR_RETURN(const TrainMemory memory, train_memory(task, options, threads->width()));
  if (given.json) return print_json(to_json(memory));
  std::string text;
  const auto line = [&](const char* name, Index bytes, const char* of) {
    char buffer[128];
    std::snprintf(buffer, sizeof buffer, "%-11s %14lld bytes  %s\n", name,
                  static_cast<long long>(bytes), of);
    text += buffer;
  };
  line("weights", memory.weights, "and what is derived from them");
  line("gradients", memory.gradients, "sums of rows");
  line("optimizer", memory.optimizer, "moments of the gradients");
  line("activations", memory.kept, "kept: of a row, in front of every block");
  line("", memory.recomputed, "recomputed: of one block, or of the head");
  line("workspaces", memory.forward, "of the pass of inference, and states");
  line("data", memory.data, "tokens");
  line("total", memory.total(), "");
  if (memory.mapped > 0) line("mapped", memory.mapped, "weights that stay in their file");
  return print_all(text);
}

Result<void> run(const TrainFlags& given) {
  check_usage(given);
  TrainOptions options = given.train;
  options.seed = given.seed.value_or(0);
  for (const Schedule schedule :
       {Schedule::constant, Schedule::linear, Schedule::cosine, Schedule::wsd}) {
    if (given.schedule == to_string(schedule)) options.schedule = schedule;
  }
  options.optimizer = given.optimizer == "muon" ? Optimizer::muon : Optimizer::adamw;
  options.order = given.order == "sequential" ? DataOrder::sequential : DataOrder::shuffled;
  if (!given.files.log.empty()) {
    std::vector<std::string> inputs = given.data;
    inputs.insert(inputs.end(), {given.model, given.config, given.held_out, given.teacher,
                                 given.reference, given.replay});
    KRAIT_RETURN_IF_ERROR(check_not_read("--log", given.files.log, inputs));
    KRAIT_RETURN_IF_ERROR(check_not_read("--log", given.files.log + ".svg", inputs));
  }
  TrainFiles files = given.files;
  files.dtype = given.dtype == "bf16"  ? DType::bf16
                : given.dtype == "f16" ? DType::f16
                                       : DType::f32;
  const TaskValues values = given.memory ? TaskValues::left_out : TaskValues::made;
  KRAIT_ASSIGN_OR_RETURN(
      TrainTask task, given.lora ? new_lora_task(given.model, *given.lora, options.seed, values)
                      : given.config.empty() ? open_train_task(given.model, values)
                                             : new_train_task(given.config, options.seed, values));
  KRAIT_RETURN_IF_ERROR(read_data(given, task));
  KRAIT_RETURN_IF_ERROR(read_teacher(given, task));
  if (given.memory) return print_memory(given, task, options);
  if (given.kind == Kind::dpo) KRAIT_RETURN_IF_ERROR(read_preference(given, task));
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

void declare_optimizer(Command& command, TrainFlags& options) {
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
  command.choice("--optimizer", options.optimizer, {"adamw", "muon"},
                 "muon: Muon for matrices, AdamW for embedding, head and all else");
  command.real("--momentum", train.momentum, "Muon: mean of gradients", check);
  command.real("--weight-decay", train.weight_decay, "Of matrices and the embedding; 0: none",
               check);
  command.real("--beta1", train.beta1, "AdamW: mean of gradients", check);
  command.real("--beta2", train.beta2, "AdamW: mean of their squares", check);
  command.real("--eps", train.eps, "AdamW: added to the root", check);
  command.real("--clip", train.clip, "Longest gradient; 0: any", check);
  command.real("--balance-loss", train.balance,
               "Coefficient of the loss that balances experts; 0: none", check);
  command.real("--z-loss", train.z_loss, "Coefficient of the routers' z-loss; 0: none", check);
  command.real("--capacity", train.capacity,
               "Of an even share, how many tokens of a row an expert takes, such as 1.25; 0: all",
               check);
}

// What all three share.
void declare_run(Command& command, TrainFlags& options) {
  TrainOptions& train = options.train;
  command.file("--out", options.files.destination, "Folder to make");
  command.number("--steps", train.steps, 1, Index{1} << 40, "Steps of the optimiser");
  command.number("--batch", train.batch, 1, 1 << 20, "Rows of a batch");
  command.number("--length", train.length, 1, 1 << 20,
                 options.kind == Kind::train ? "Tokens of a row" : "Most tokens of a row");
  command.number("--accumulate", train.accumulate, 1, 1 << 20, "Batches of a step");
  command.number("--shards", train.shards, 0, 4096,
                 "Parts in which the rows of a step are added; 0: 8, or as many as rows");
  command.choice("--order", options.order, {"shuffled", "sequential"}, "Of the rows");
  command.seed("--seed", options.seed,
               options.kind == Kind::train ? "Of order and initial weights; 0 if not given"
                                           : "Of the order and of a new adapter; 0 if not given");
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
  command.file("--held-out", options.held_out,
               "File like those of --data that is not trained on, whose loss is measured at "
               "checkpoints and in the end, and logged");
  command.file("--log", options.files.log,
               "File for one line of JSON per step; <file>.svg gets a drawing of the losses");
  command.choice("--dtype", options.dtype, {"f32", "bf16", "f16"}, "Of the matrices in the result");
  add_threads(command, options.threads);
  command.flag("--memory", options.memory,
               "Print the bytes that the run would need, by their purpose, and do not train");
  command.flag("--json", options.json, "One JSON object: out, steps, loss, seconds");
}

void declare_teacher(Command& command, TrainFlags& options) {
  Distillation& distillation = options.distillation;
  const auto check = [&distillation] { return validate(distillation); };
  command.file("--teacher", options.teacher,
               "Model in any form that is learned from, with the same tokens");
  command.real("--distill", distillation.alpha,
               "What the divergence from the teacher counts, above 0 and up to 1; the rest is the "
               "cross-entropy's",
               check);
  command.real("--temperature", distillation.temperature,
               "By which the logits of both are divided for the divergence", check);
}

constexpr const char* model_help =
    "Checkpoint to begin with: a directory, weight file, or the name of a bundled model";

void declare(Command& command, TrainFlags& options) {
  command.file("-m,--model", options.model, model_help);
  command.file("--config", options.config, "config.json of a new model, initialised from --seed");
  command.texts("--data", options.data, "Text file; may be repeated: they are joined");
  declare_teacher(command, options);
  declare_run(command, options);
}

// FILE or FILE:WEIGHT.
void take_replay(const std::string& text, TrainFlags& options) {
  const std::size_t colon = text.rfind(':');
  options.replay = text.substr(0, colon);
  options.replay_weight = 1.0;
  if (options.replay.empty()) throw WrongUsage("--replay", "FILE or FILE:WEIGHT", in_quotes(text));
  if (colon == std::string::npos) return;
  options.replay_weight = parse_real(std::string_view(text).substr(colon + 1), "--replay");
  if (const Result<void> checked = validate_replay(options.replay_weight); !checked) {
    throw WrongUsage("--replay", checked.error());
  }
}

void declare_dpo(Command& command, TrainFlags& options) {
  options.kind = Kind::dpo;
  options.train.learning_rate = 1e-6;
  options.train.weight_decay = 0.0;
  options.train.balance = 0.001;
  PreferenceOptions& preference = options.preference;
  const auto check = [&preference] { return validate(preference); };
  command.file("-m,--model", options.model, model_help);
  command.texts("--data", options.data,
                "File of pairs, one JSON object with prompt, chosen and rejected per line; may be "
                "repeated");
  command.file("--ref", options.reference,
               "Checkpoint of the reference; the model as it begins if not given");
  command.choice("--loss", options.loss, {"sigmoid", "ipo", "hinge", "robust", "sigmoid_norm"},
                 "Of a pair");
  command.real("--beta", preference.beta, "How much the reference holds", check);
  command.real("--label-smoothing", preference.label_smoothing,
               "Part of pairs that may be the wrong way round (sigmoid, robust)", check);
  command.real("--sft", preference.sft,
               "Coefficient of the chosen answers' cross-entropy, which is added", check);
  command.custom("--replay", "FILE[:WEIGHT]",
                 "File of examples, one JSON object with prompt and response per line, of which a "
                 "step takes as many as pairs: WEIGHT (1 if not given) times their mean "
                 "cross-entropy is added",
                 [&options](const std::string& text) { take_replay(text, options); });
  command.real("--ld-alpha", preference.ld_alpha,
               "What tokens beyond the shorter answer's length count", check);
  declare_run(command, options);
}

void declare_sft(Command& command, TrainFlags& options) {
  options.kind = Kind::sft;
  command.file("-m,--model", options.model, model_help);
  command.texts("--data", options.data,
                "File of examples, one JSON object with prompt and response per line; may be "
                "repeated");
  declare_run(command, options);
}

}  // namespace

void add_train(CommandLine& line) {
  line.add<TrainFlags>(
      "train", "Trains a model on text",
      "krait train --config config.json --data book.txt --out my-model --steps 1000 "
      "--schedule cosine --warmup 100 --resume",
      declare, run);
}

void add_sft(CommandLine& line) {
  line.add<TrainFlags>(
      "sft", "Trains a model on examples of prompts and responses",
      "krait sft -m krait-bytes-2m --data examples.jsonl --out my-model --steps 200 --lr 1e-4",
      declare_sft, run);
}

void add_dpo(CommandLine& line) {
  line.add<TrainFlags>(
      "dpo", "Trains a model on pairs of a better and a worse answer",
      "krait dpo -m my-model --data pairs.jsonl --out better --steps 200 --beta 0.1 --lr 1e-6",
      declare_dpo, run);
}

}  // namespace krait::cli
