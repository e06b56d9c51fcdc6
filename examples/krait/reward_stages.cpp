// The stages of self-rewarding training: prompts, candidates, judge, pairs.

#include "command.hpp"
#include "judge_flags.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct RewardStagesFlags {
  CommonOptions common;
  std::string input;
  std::string output;
  SamplerFlags sampler;
  CandidateOptions candidates;
  PromptOptions prompts;
  JudgeFlags judge;
  std::optional<std::uint64_t> seed;
  std::string anchors;
  PairOptions pairs;
};

Result<void> check_output(const RewardStagesFlags& options) {
  if (options.output.empty()) throw WrongUsage("--out", "the name of a file", "none");
  return check_destination(
      "--out", options.output,
      {options.common.model, options.input, options.judge.template_file, options.anchors});
}

Result<void> print_file(const RewardStagesFlags& options, double begun) {
  if (options.common.json) return print_json(file_to_json(options.output, now() - begun));
  return print_all(shown(options.output) + "\n");
}

void add_output(Command& command, RewardStagesFlags& options, const char* help) {
  command.file("--out", options.output, help);
}

Result<void> run_candidates(const RewardStagesFlags& options) {
  KRAIT_ASSIGN_OR_RETURN(const StageInput prompts, read_lines(options.input, "--prompts"));
  KRAIT_RETURN_IF_ERROR(check_output(options));
  const std::unique_ptr<ThreadPool> threads = make_threads(options.common.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const LanguageModel model,
      load_language_model(options.common.model, load_options(options.common, threads.get())));
  CandidateOptions candidates = options.candidates;
  candidates.sampler = options.sampler.resolve(model);
  const double begun = now();
  ProgressLine progress("candidates", "lines");
  KRAIT_RETURN_IF_ERROR(
      write_candidates(model, *threads, prompts, candidates, options.output, progress));
  return print_file(options, begun);
}

void declare_candidates(Command& command, RewardStagesFlags& options) {
  command.file("--prompts", options.input, "Lines of JSON with prompt");
  add_output(command, options, "File for the same lines with responses");
  command.number("--count", options.candidates.count, 1, 1 << 20,
                 "Answers to a prompt; answer k of line i depends on the seed, i and k alone");
  command.number("-n,--tokens", options.candidates.max_tokens, 1, Index{1} << 31,
                 "Tokens of an answer, at most");
  options.sampler.add(command, 0);  // so that the same command goes on with unfinished work
  add_common(command, options.common, "One JSON object: out, seconds");
}

Result<void> run_judge(const RewardStagesFlags& options) {
  options.judge.check();
  if (!options.judge.is_given()) throw WrongUsage("--expected", "either it or --samples", "none");
  KRAIT_ASSIGN_OR_RETURN(const StageInput candidates, read_lines(options.input, "--in"));
  KRAIT_RETURN_IF_ERROR(check_output(options));
  KRAIT_ASSIGN_OR_RETURN(const JudgeOptions judge,
                         options.judge.resolve(JudgeBy::expected, options.seed.value_or(0)));
  const std::unique_ptr<ThreadPool> threads = make_threads(options.common.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const LanguageModel model,
      load_language_model(options.common.model, load_options(options.common, threads.get())));
  const double begun = now();
  ProgressLine progress("judge", "lines");
  KRAIT_RETURN_IF_ERROR(
      write_scores(&model, *threads, candidates, judge, options.output, progress));
  return print_file(options, begun);
}

void declare_judge(Command& command, RewardStagesFlags& options) {
  command.file("--in", options.input, "Lines of JSON with prompt and responses");
  add_output(command, options, "File for the same lines with scores");
  options.judge.add(command);
  command.seed("--seed", options.seed, "Of what is drawn; 0 if not given");
  add_common(command, options.common, "One JSON object: out, seconds");
}

Result<void> run_pairs(const RewardStagesFlags& options) {
  KRAIT_ASSIGN_OR_RETURN(const StageInput scored, read_lines(options.input, "--in"));
  KRAIT_RETURN_IF_ERROR(check_output(options));
  std::optional<StageInput> anchors;
  if (!options.anchors.empty()) {
    KRAIT_ASSIGN_OR_RETURN(anchors, read_lines(options.anchors, "--anchor-rejected"));
  }
  KRAIT_ASSIGN_OR_RETURN(const PairCounts counts, write_pairs(scored, anchors ? &*anchors : nullptr,
                                                              options.pairs, options.output));
  if (options.common.json) return print_json(to_json(counts, options.output));
  const auto part = [](Index count, const char* what) {
    return std::to_string(count) + " " + what;
  };
  return print_all(
      shown(options.output) + ": " + part(counts.kept, "pairs, discarded ") +
      part(counts.discarded(), "(") + part(counts.tied, "tied, ") +
      part(counts.gap, "below the gap, ") + part(counts.equal_text, "of equal texts, ") +
      part(counts.length, "of lengths too different, ") + part(counts.unparsable, "unparsable)\n"));
}

void declare_pairs(Command& command, RewardStagesFlags& options) {
  command.file("--in", options.input, "Lines of JSON as `judge` writes them");
  add_output(command, options, "File for lines with prompt, chosen and rejected");
  const auto check = [&options] { return validate(options.pairs); };
  command.real("--min-gap", options.pairs.min_gap, "Least difference of the scores", check);
  command.real("--max-len-ratio", options.pairs.max_len_ratio,
               "Largest ratio of the answers' lengths in characters", check);
  command.file("--anchor-rejected", options.anchors,
               "Scored answers of the first model to the same prompts, of which the rejected "
               "answers are taken");
  command.flag("--json", options.common.json, "One JSON object: out, kept, discarded");
}

Result<void> run_prompts(const RewardStagesFlags& options) {
  KRAIT_ASSIGN_OR_RETURN(const StageInput seeds, read_lines(options.input, "--seed-data"));
  KRAIT_RETURN_IF_ERROR(check_output(options));
  const std::unique_ptr<ThreadPool> threads = make_threads(options.common.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const LanguageModel model,
      load_language_model(options.common.model, load_options(options.common, threads.get())));
  PromptOptions prompts = options.prompts;
  prompts.sampler = options.sampler.resolve(model);
  ProgressLine progress("prompts", "prompts");
  KRAIT_ASSIGN_OR_RETURN(const PromptCounts counts,
                         write_prompts(model, *threads, seeds, prompts, options.output, progress));
  if (options.common.json) return print_json(to_json(counts, options.output));
  return print_all(shown(options.output) + ": " + std::to_string(counts.kept) + " prompts\n");
}

void declare_prompts(Command& command, RewardStagesFlags& options) {
  command.file("--seed-data", options.input, "Lines of JSON with prompt, to begin with");
  add_output(command, options, "File for lines with new prompts");
  command.number("--count", options.prompts.count, 1, Index{1} << 31, "Prompts to make");
  command.number("--shots", options.prompts.shots, 1, 1000, "Given prompts that are shown");
  command.number("--made-shots", options.prompts.made_shots, 0, 1000,
                 "Prompts made before that are shown beside them");
  command.number("-n,--tokens", options.prompts.max_tokens, 1, 1 << 20,
                 "Tokens of a prompt, at most");
  command.number("--min-characters", options.prompts.min_length, 1, 1 << 20,
                 "Characters of a prompt, at least");
  command.real("--max-rouge", options.prompts.max_rouge,
               "Most similarity (ROUGE-L) to any other prompt",
               [&options] { return validate(options.prompts); });
  command.texts("--without", options.prompts.without,
                "Word that a prompt must not have; may be repeated");
  options.sampler.add(command, 0);  // so that the same command goes on with unfinished work
  add_common(command, options.common, "One JSON object: out, kept, discarded");
}

}  // namespace

void add_prompts(CommandLine& line) {
  line.add<RewardStagesFlags>(
      "prompts", "Makes prompts like given ones",
      "krait prompts -m my-model --seed-data seeds.jsonl --out prompts.jsonl --count 500 "
      "--temperature 0.6 --top-p 0.9",
      declare_prompts, run_prompts);
}

void add_candidates(CommandLine& line) {
  line.add<RewardStagesFlags>(
      "candidates", "Samples several answers to each prompt",
      "krait candidates -m my-model --prompts prompts.jsonl --out candidates.jsonl --count 4 "
      "--temperature 0.7 --top-p 0.9",
      declare_candidates, run_candidates);
}

void add_judge(CommandLine& line) {
  line.add<RewardStagesFlags>(
      "judge", "Has a model score answers",
      "krait judge -m my-model --in candidates.jsonl --out scored.jsonl --expected", declare_judge,
      run_judge);
}

void add_pairs(CommandLine& line) {
  line.add<RewardStagesFlags>(
      "pairs", "Makes pairs of the best and the worst answers",
      "krait pairs --in scored.jsonl --out pairs.jsonl --min-gap 0.5 --max-len-ratio 2",
      declare_pairs, run_pairs);
}

}  // namespace krait::cli
