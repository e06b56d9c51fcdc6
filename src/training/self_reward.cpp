#include "krait/training/self_reward.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "io/write_text_file.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/models/session.hpp"
#include "krait/training/compare_answers.hpp"
#include "krait/training/train.hpp"
#include "training/run_files.hpp"
#include "training/self_reward_report.hpp"
#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

using training::JsonLine;

constexpr std::size_t most_bytes = std::size_t{256} << 20U;
constexpr std::size_t frozen_lines = 200;
constexpr Index any_length = Index{1} << 40;

// What seeds are made for.
enum class Use : std::uint32_t { candidates = 1, judge, anchors, order, evaluation, frozen };

bool is_there(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

Result<StageInput> input_of(const std::string& path) {
  KRAIT_ASSIGN_OR_RETURN(std::string text, read_text_file(path, most_bytes));
  return StageInput{.text = std::move(text), .name = path};
}

Result<void> make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directory(path, error);
  if (!error || fs::is_directory(path)) return {};
  return Error{ErrorCode::io_failed,
               fmt::format("[self-reward] folder: expected to make it, found: {} ({})",
                           error.message(), path)};
}

// A model as it is trained, with what computes its log-probabilities.
struct Trainable {
  TrainTask task;
  std::unique_ptr<ModelGradient> gradient;

  static Result<Trainable> open(const std::string& path, Executor& executor) {
    Trainable model;
    KRAIT_ASSIGN_OR_RETURN(model.task, open_train_task(path));
    KRAIT_ASSIGN_OR_RETURN(ModelGradient gradient,
                           ModelGradient::create(model.task.spec, model.task.prefix, executor));
    model.gradient = std::make_unique<ModelGradient>(std::move(gradient));
    KRAIT_RETURN_IF_ERROR(model.gradient->bind(model.task.values.data()));
    return model;
  }
};

class Loop {
 public:
  Loop(const SelfRewardConfig& config, const std::string& folder, Executor& executor,
       FunctionRef<Flow(const SelfRewardProgress&)> progress)
      : config_(config), folder_(folder), executor_(&executor), progress_(progress) {}

  Result<SelfRewardReport> run() {
    {
      KRAIT_ASSIGN_OR_RETURN(const LanguageModel model, load_language_model(config_.model));
      KRAIT_ASSIGN_OR_RETURN(end_, end_of_answer(model.stop_tokens, *model.tokenizer));
      KRAIT_RETURN_IF_ERROR(check(model));
      KRAIT_RETURN_IF_ERROR(claim_folder(model));
    }
    SelfRewardReport report;
    for (Index t = 1; t <= config_.iterations; ++t) {
      KRAIT_ASSIGN_OR_RETURN(IterationReport found, iteration(t));
      report.iterations.push_back(std::move(found));
    }
    iteration_ = 0;
    KRAIT_ASSIGN_OR_RETURN(report.first, first_report());
    KRAIT_RETURN_IF_ERROR(write_text_file(folder_ + "/report.json", training::to_json(report)));
    KRAIT_RETURN_IF_ERROR(write_text_file(folder_ + "/report.md", to_table(report)));
    KRAIT_RETURN_IF_ERROR(write_text_file(folder_ + "/report.svg", training::picture(report)));
    return report;
  }

 private:
  // Reads the prompts, and looks at what stages would find wrong only behind work that is done, in
  // a folder that is another run's once it is mended.
  Result<void> check(const LanguageModel& model) {
    const Index vocab = model.model.vocab();
    KRAIT_RETURN_IF_ERROR(validate(config_.candidates.sampler, vocab));
    KRAIT_RETURN_IF_ERROR(validate(judge_options(config_.seed)));
    KRAIT_ASSIGN_OR_RETURN(const StageInput prompts, input_of(config_.prompts));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                           training::lines_of(prompts, "prompts"));
    KRAIT_RETURN_IF_ERROR(
        training::check_prompts(*model.tokenizer, lines, config_.judge == JudgeBy::verify));
    for (const JsonLine& line : lines) prompts_.emplace_back(line.text);
    if (config_.replay) {
      KRAIT_ASSIGN_OR_RETURN(const StageInput replay, input_of(config_.replay->file));
      KRAIT_ASSIGN_OR_RETURN(
          replayed_, read_examples(replay.text, replay.name, *model.tokenizer, end_, any_length));
    }
    if (!config_.evaluate) return {};
    KRAIT_RETURN_IF_ERROR(validate(config_.evaluate->candidates.sampler, vocab));
    KRAIT_ASSIGN_OR_RETURN(const StageInput asked, input_of(config_.evaluate->prompts));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> questions,
                           training::lines_of(asked, "prompts"));
    KRAIT_RETURN_IF_ERROR(training::check_prompts(*model.tokenizer, questions, false));
    if (config_.evaluate->text.empty()) return {};
    const Result<std::vector<Token>> tokens = evaluated_text(model);
    return tokens ? Result<void>() : Result<void>(tokens.error());
  }

  JudgeOptions judge_options(std::uint64_t seed) const {
    return {.by = config_.judge,
            .prompt = config_.judge_prompt,
            .samples = config_.judge_samples,
            .seed = seed};
  }

  // Makes the folder, or sees that it is this run's.
  Result<void> claim_folder(const LanguageModel& model) {
    training::Identity identity = config_.values;
    identity.emplace_back("model", model.model.fingerprint());
    const std::string file = folder_ + "/run.json";
    std::error_code ignored;
    if (is_there(folder_) && !fs::is_directory(folder_, ignored)) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[self-reward] out: expected a folder, found a file ({})", folder_)};
    }
    KRAIT_ASSIGN_OR_RETURN(const bool is_ours, training::has_identity(file, identity, folder_));
    if (is_ours) return {};
    if (is_there(folder_) && !fs::is_empty(folder_, ignored)) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[self-reward] out: expected a new folder or one of this run, found "
                               "another ({})",
                               folder_)};
    }
    KRAIT_RETURN_IF_ERROR(make_folder(folder_));
    return training::write_identity(file, identity);
  }

  std::string place(Index t) const { return fmt::format("{}/iteration-{}", folder_, t); }
  std::string model_before(Index t) const {
    return t == 1 ? config_.model : place(t - 1) + "/model";
  }
  std::uint64_t seed(Use use) const {
    return training::derived_seed(config_.seed, static_cast<std::uint32_t>(use),
                                  static_cast<std::uint64_t>(iteration_));
  }

  Flow report(std::string_view stage, Index done, Index total) {
    return progress_({.iteration = iteration_, .stage = stage, .done = done, .total = total});
  }

  Result<IterationReport> iteration(Index t) {
    iteration_ = t;
    const std::string at = place(t);
    if (is_there(at + "/report.json")) {
      KRAIT_ASSIGN_OR_RETURN(const StageInput json, input_of(at + "/report.json"));
      return training::read_iteration_report(json.text, json.name);
    }
    KRAIT_RETURN_IF_ERROR(make_folder(at));
    if (!is_there(at + "/scored.jsonl") || anchors_missing(at)) {
      KRAIT_ASSIGN_OR_RETURN(const LanguageModel model, load_language_model(model_before(t)));
      KRAIT_RETURN_IF_ERROR(write_scored(model, at));
    }
    IterationReport found;
    KRAIT_RETURN_IF_ERROR(train_on_pairs(t, found));
    KRAIT_RETURN_IF_ERROR(measure(at + "/model", at, found.model));
    if (config_.evaluate) {
      KRAIT_ASSIGN_OR_RETURN(found.kl, divergence(t));
    }
    KRAIT_RETURN_IF_ERROR(write_text_file(at + "/report.json", training::to_json(found, t)));
    return found;
  }

  bool anchors_missing(const std::string& at) const {
    return config_.anchor_rejected && iteration_ > 1 && !is_there(at + "/anchors_scored.jsonl");
  }

  // Prompts, candidates and scores of an iteration; with anchors those of the first model, too.
  Result<void> write_scored(const LanguageModel& model, const std::string& at) {
    if (!is_there(at + "/prompts.jsonl")) {
      const auto all = static_cast<Index>(prompts_.size());
      const Index count = config_.prompts_per_iteration > 0 ? config_.prompts_per_iteration : all;
      std::vector<std::string> lines;
      for (Index i = 0; i < count; ++i) {
        lines.push_back(prompts_[static_cast<std::size_t>(((iteration_ - 1) * count + i) % all)]);
      }
      KRAIT_RETURN_IF_ERROR(training::write_lines(at + "/prompts.jsonl", lines));
    }
    KRAIT_RETURN_IF_ERROR(answer(model, at + "/prompts.jsonl", at + "/candidates.jsonl",
                                 config_.candidates, Use::candidates));
    KRAIT_RETURN_IF_ERROR(judge(model, at + "/candidates.jsonl", at + "/scored.jsonl", Use::judge));
    if (!anchors_missing(at)) return {};
    KRAIT_ASSIGN_OR_RETURN(const LanguageModel first, load_language_model(config_.model));
    KRAIT_RETURN_IF_ERROR(answer(first, at + "/prompts.jsonl", at + "/anchors.jsonl",
                                 config_.candidates, Use::anchors));
    return judge(model, at + "/anchors.jsonl", at + "/anchors_scored.jsonl", Use::anchors);
  }

  Result<void> answer(const LanguageModel& model, const std::string& from, const std::string& to,
                      CandidateOptions options, Use use) {
    if (is_there(to)) return {};
    KRAIT_ASSIGN_OR_RETURN(const StageInput input, input_of(from));
    options.sampler.seed = seed(use);
    return write_candidates(model, *executor_, input, options, to, [&](Index done, Index total) {
      return report("candidates", done, total);
    });
  }

  Result<void> judge(const LanguageModel& model, const std::string& from, const std::string& to,
                     Use use) {
    if (is_there(to)) return {};
    KRAIT_ASSIGN_OR_RETURN(const StageInput input, input_of(from));
    return write_scores(&model, *executor_, input, judge_options(seed(use)), to,
                        [&](Index done, Index total) { return report("judge", done, total); });
  }

  // The pairs of an iteration with their references, the model that is trained on them, and what
  // it makes of them.
  Result<void> train_on_pairs(Index t, IterationReport& found) {
    const std::string at = place(t);
    KRAIT_ASSIGN_OR_RETURN(const StageInput scored, input_of(at + "/scored.jsonl"));
    std::optional<StageInput> anchors;
    if (config_.anchor_rejected && t > 1) {
      KRAIT_ASSIGN_OR_RETURN(anchors, input_of(at + "/anchors_scored.jsonl"));
    }
    KRAIT_ASSIGN_OR_RETURN(
        training::ChosenPairs chosen,
        training::choose_pairs(scored, anchors ? &*anchors : nullptr, config_.pairs, false));
    found.pairs = chosen.counts;
    KRAIT_ASSIGN_OR_RETURN(Trainable before, Trainable::open(model_before(t), *executor_));
    KRAIT_ASSIGN_OR_RETURN(std::vector<PreferencePair> pairs,
                           read_chosen(before.task, chosen.lines));
    KRAIT_RETURN_IF_ERROR(set_reference(*before.gradient, pairs, [&](Index done, Index total) {
      return report("reference", done, total);
    }));
    if (!is_there(at + "/pairs.jsonl")) {
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        chosen.lines[i].pop_back();  // the brace
        chosen.lines[i] +=
            fmt::format(", \"ref_logp_c\": {}, \"ref_logp_r\": {}}}",
                        sum(pairs[i].chosen_reference), sum(pairs[i].rejected_reference));
      }
      KRAIT_RETURN_IF_ERROR(training::write_lines(at + "/pairs.jsonl", chosen.lines));
    }
    if (!is_there(at + "/model")) {
      before.gradient.reset();
      KRAIT_RETURN_IF_ERROR(train_model(std::move(before.task), pairs, at));
    }
    training::Checkpoints(at + "/model").remove();  // of a call that was killed behind the result
    return measure_pairs(pairs, at + "/model", found);
  }

  static double sum(std::span<const float> values) {
    double sum = 0.0;
    for (const float value : values) sum += static_cast<double>(value);
    return sum;
  }

  Result<std::vector<PreferencePair>> read_chosen(const TrainTask& task,
                                                  std::span<const std::string> lines) const {
    KRAIT_ASSIGN_OR_RETURN(const ModelConfig config, read_config(task.checkpoint));
    KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, make_tokenizer(task.checkpoint, config));
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    return read_pairs(text, "pairs.jsonl", *tokenizer, end_, any_length);
  }

  Result<void> train_model(TrainTask task, const std::vector<PreferencePair>& pairs,
                           const std::string& at) {
    TrainOptions options = config_.train;
    const Index count = std::ssize(pairs) * config_.epochs;
    options.steps = (count + options.batch - 1) / options.batch;
    options.warmup = std::min(options.warmup, options.steps);
    options.seed = seed(Use::order);
    options.length = 1;
    for (const PreferencePair& pair : pairs) {
      options.length = std::max({options.length, std::ssize(pair.chosen.tokens) - 1,
                                 std::ssize(pair.rejected.tokens) - 1});
    }
    task.preference = PreferenceTask{.options = config_.preference, .pairs = pairs};
    if (config_.replay) {
      for (const Row& row : replayed_) {
        options.length = std::max(options.length, std::ssize(row.tokens) - 1);
      }
      task.preference->replay = Replay{.examples = replayed_, .weight = config_.replay->weight};
    }
    const TrainFiles files{.destination = at + "/model",
                           .log = at + "/dpo.jsonl",
                           .checkpoint_every = 100,
                           .resume = true};
    const auto shown = [&](const TrainProgress& progress) {
      return report("dpo", progress.step.step + 1, progress.steps);
    };
    const Result<TrainSummary> done = train(std::move(task), options, files, *executor_, shown);
    return done ? Result<void>() : Result<void>(done.error());
  }

  // What the trained model makes of the pairs.
  Result<void> measure_pairs(std::span<const PreferencePair> pairs, const std::string& path,
                             IterationReport& found) {
    KRAIT_ASSIGN_OR_RETURN(const Trainable after, Trainable::open(path, *executor_));
    Index done = 0;
    for (const PreferencePair& pair : pairs) {
      KRAIT_ASSIGN_OR_RETURN(const std::vector<float> chosen,
                             target_log_probabilities(*after.gradient, pair.chosen));
      KRAIT_ASSIGN_OR_RETURN(const std::vector<float> rejected,
                             target_log_probabilities(*after.gradient, pair.rejected));
      const double delta = (sum(chosen) - sum(pair.chosen_reference)) -
                           (sum(rejected) - sum(pair.rejected_reference));
      found.margin += config_.preference.beta * delta;
      found.reward_accuracy += delta > 0.0 ? 1.0 : 0.0;
      found.chosen_length += static_cast<double>(pair.chosen.targets());
      found.rejected_length += static_cast<double>(pair.rejected.targets());
      if (report("rewards", ++done, std::ssize(pairs)) == Flow::stop) {
        return training::cancelled("rewards", done, std::ssize(pairs));
      }
    }
    const auto count = static_cast<double>(pairs.size());
    for (double* value :
         {&found.margin, &found.reward_accuracy, &found.chosen_length, &found.rejected_length}) {
      *value /= count;
    }
    return {};
  }

  // What is measured of a model, with its files in a folder.
  Result<void> measure(const std::string& path, const std::string& at, ModelReport& found) {
    KRAIT_ASSIGN_OR_RETURN(const LanguageModel model, load_language_model(path));
    if (config_.evaluate) {
      KRAIT_RETURN_IF_ERROR(evaluate(model, at, found));
      if (!config_.evaluate->text.empty()) {
        KRAIT_ASSIGN_OR_RETURN(found.perplexity, perplexity_of(model));
      }
    }
    if (config_.judge != JudgeBy::expected && config_.judge != JudgeBy::samples) return {};
    KRAIT_ASSIGN_OR_RETURN(const StageInput candidates, input_of(place(1) + "/candidates.jsonl"));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                           training::lines_of(candidates, "candidates"));
    KRAIT_ASSIGN_OR_RETURN(const training::VerifyRules rules,
                           training::VerifyRules::read(lines.front()));
    if (rules.empty()) return {};
    StageInput frozen{.text = {}, .name = "frozen.jsonl"};
    for (std::size_t i = 0; i < std::min(frozen_lines, lines.size()); ++i) {
      frozen.text += std::string(lines[i].text) + "\n";
    }
    const std::string file = at + "/frozen.jsonl";
    if (!is_there(file)) {
      KRAIT_RETURN_IF_ERROR(
          write_scores(&model, *executor_, frozen, judge_options(seed(Use::frozen)), file,
                       [&](Index done, Index total) { return report("frozen", done, total); }));
    }
    KRAIT_ASSIGN_OR_RETURN(found.judge_accuracy, judge_accuracy(file));
    return {};
  }

  Result<void> evaluate(const LanguageModel& model, const std::string& at, ModelReport& found) {
    const std::string file = at + "/evaluation.jsonl";
    KRAIT_RETURN_IF_ERROR(answer(model, config_.evaluate->prompts, file,
                                 config_.evaluate->candidates, Use::evaluation));
    KRAIT_ASSIGN_OR_RETURN(const StageInput answers, input_of(file));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                           training::lines_of(answers, "answers"));
    std::vector<double> scores;
    double tokens = 0.0;
    double count = 0.0;
    for (const JsonLine& line : lines) {
      KRAIT_ASSIGN_OR_RETURN(const training::VerifyRules rules, training::VerifyRules::read(line));
      KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> texts, training::responses_of(line));
      for (std::size_t k = 0; k < texts.size(); ++k) {
        tokens += static_cast<double>(line.json["responses"][k]["tokens"].size());
        count += 1.0;
        if (rules.empty()) continue;
        KRAIT_ASSIGN_OR_RETURN(const double score, rules.score(texts[k]));
        scores.push_back(score);
      }
    }
    if (!scores.empty()) {
      const Estimate mean = mean_of(scores);
      found.verifiable = ModelReport::Verifiable{
          .mean = mean.value, .low = mean.low, .high = mean.high, .n = std::ssize(scores)};
    }
    found.length = tokens / count;
    return {};
  }

  // How much of what the model before would have said less the new one's answers are.
  Result<std::optional<double>> divergence(Index t) {
    KRAIT_ASSIGN_OR_RETURN(const StageInput answers, input_of(place(t) + "/evaluation.jsonl"));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                           training::lines_of(answers, "answers"));
    KRAIT_ASSIGN_OR_RETURN(const Trainable before, Trainable::open(model_before(t), *executor_));
    KRAIT_ASSIGN_OR_RETURN(const ModelConfig config, read_config(before.task.checkpoint));
    KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, make_tokenizer(before.task.checkpoint, config));
    double difference = 0.0;
    double count = 0.0;
    for (const JsonLine& line : lines) {
      KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> prompt,
                             training::read_prompt(line, *tokenizer));
      const Metadata& responses = line.json["responses"];
      for (std::size_t k = 0; k < responses.size(); ++k) {
        std::vector<Token> answer;
        for (std::size_t i = 0; i < responses[k]["tokens"].size(); ++i) {
          answer.push_back(static_cast<Token>(responses[k]["tokens"][i].whole().value_or(0)));
        }
        if (answer.empty()) continue;
        KRAIT_ASSIGN_OR_RETURN(
            const std::vector<float> log_p,
            target_log_probabilities(*before.gradient, training::join(prompt, answer)));
        difference += responses[k]["logp"].number().value_or(0.0) - sum(log_p);
        count += static_cast<double>(answer.size());
      }
      if (report("divergence", line.number, std::ssize(lines)) == Flow::stop) {
        return training::cancelled("divergence", line.number, std::ssize(lines));
      }
    }
    return count > 0.0 ? std::optional(difference / count) : std::nullopt;
  }

  Result<std::vector<Token>> evaluated_text(const LanguageModel& model) const {
    KRAIT_ASSIGN_OR_RETURN(const StageInput text, input_of(config_.evaluate->text));
    KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens,
                           model.tokenizer->encode(text.text, {.add_special = false}));
    if (tokens.size() < 2) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[self-reward] evaluate.text: expected at least 2 tokens, found {} "
                               "({})",
                               tokens.size(), text.name)};
    }
    return tokens;
  }

  Result<std::optional<double>> perplexity_of(const LanguageModel& model) {
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, evaluated_text(model));
    Session session(model.model, *executor_);
    State state = model.model.initial_state();
    std::vector<float> log_p(tokens.size() - 1);
    KRAIT_RETURN_IF_ERROR(session.score(tokens, state, log_p));
    const double mean = -sum(log_p) / static_cast<double>(log_p.size());
    if (std::isfinite(mean)) return std::optional(std::exp(mean));
    return Error{ErrorCode::not_finite,
                 fmt::format("[self-reward] evaluate.text: expected a finite perplexity, found {}",
                             std::abs(mean))};
  }

  // Of the best and the worst answer to each prompt, by their rules: how many the scores in the
  // file have in that order.
  static Result<std::optional<double>> judge_accuracy(const std::string& file) {
    KRAIT_ASSIGN_OR_RETURN(const StageInput scored, input_of(file));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                           training::lines_of(scored, "scored answers"));
    double right = 0.0;
    double count = 0.0;
    for (const JsonLine& line : lines) {
      KRAIT_ASSIGN_OR_RETURN(const training::VerifyRules rules, training::VerifyRules::read(line));
      KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> texts, training::responses_of(line));
      std::vector<double> truth;
      for (const std::string& text : texts) {
        KRAIT_ASSIGN_OR_RETURN(const double score, rules.score(text));
        truth.push_back(score);
      }
      const auto best = static_cast<std::size_t>(std::ranges::max_element(truth) - truth.begin());
      const auto worst = static_cast<std::size_t>(std::ranges::min_element(truth) - truth.begin());
      if (truth[best] == truth[worst]) continue;
      const std::optional<double> a = line.json["mean"][best].number();
      const std::optional<double> b = line.json["mean"][worst].number();
      count += 1.0;
      if (!a || !b || *a == *b) {
        right += 0.5;
      } else if (*a > *b) {
        right += 1.0;
      }
    }
    return count > 0.0 ? std::optional(right / count) : std::nullopt;
  }

  Result<ModelReport> first_report() {
    const std::string at = folder_ + "/first";
    const std::string file = at + "/report.json";
    if (is_there(file)) {
      KRAIT_ASSIGN_OR_RETURN(const StageInput json, input_of(file));
      return training::read_model_report(json.text, json.name);
    }
    KRAIT_RETURN_IF_ERROR(make_folder(at));
    ModelReport found;
    KRAIT_RETURN_IF_ERROR(measure(config_.model, at, found));
    KRAIT_RETURN_IF_ERROR(write_text_file(file, training::to_json(found)));
    return found;
  }

  SelfRewardConfig config_;
  std::string folder_;
  Executor* executor_;
  FunctionRef<Flow(const SelfRewardProgress&)> progress_;
  std::vector<std::string> prompts_;  // lines
  std::vector<Row> replayed_;
  Token end_ = 0;
  Index iteration_ = 0;
};

}  // namespace

Result<SelfRewardReport> self_reward(const SelfRewardConfig& config, const std::string& folder,
                                     Executor& executor,
                                     FunctionRef<Flow(const SelfRewardProgress&)> progress) {
  return Loop(config, folder, executor, progress).run();
}

}  // namespace v0_1
}  // namespace krait
