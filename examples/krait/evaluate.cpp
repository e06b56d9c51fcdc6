#include <cstdio>

#include "command.hpp"
#include "judge_flags.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct EvaluateFlags {
  CommonOptions common;
  std::string reference;
  TextSource text;
  std::optional<Index> limit;
  // Of --against.
  std::string against;
  std::string prompts;
  std::optional<Index> count;
  std::optional<Index> tokens;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<std::uint64_t> seed;
  std::string judge_model;
  JudgeFlags judge;
  std::string held_out;
};

Result<void> run_kl(const EvaluateFlags& options) {
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  // As it is stored: --dtype is for the model.
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel reference, load_language_model(options.reference));
  Session session(reference.model, *runtime.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const std::vector<Token> tokens,
      read_tokens(options.text, "--file", runtime.language_model, options.limit));
  ProgressLine progress("evaluate", "tokens");
  KRAIT_ASSIGN_OR_RETURN(const KlDivergence kl, kl_divergence(session, *runtime.session,
                                                              *runtime.threads, tokens, progress));
  if (options.common.json) {
    return print_json(to_json(kl, options.text.name(), options.reference));
  }
  char line[256];
  std::snprintf(line, sizeof line,
                "KL divergence %.6g nats per token (largest %.6g), the same most probable token at "
                "%.2f %% of %lld positions\n",
                kl.mean, kl.largest, 100.0 * kl.same_top, static_cast<long long>(kl.positions));
  return print_all(line);
}

// A line for each stage of each model.
class StageLine {
 public:
  Flow operator()(std::string_view stage, Index done, Index total) {
    if (stage != stage_) {
      stage_ = stage;
      line_.reset();
      line_.emplace(stage_, "lines");
    }
    return (*line_)(done, total);
  }

 private:
  std::string stage_;
  std::optional<ProgressLine> line_;
};

// By a model with --expected or --samples, else by the lines' rules.
Result<CompareOptions> compare_options(const EvaluateFlags& options) {
  CompareOptions compare;
  compare.candidates.count = options.count.value_or(1);
  compare.candidates.max_tokens = options.tokens.value_or(64);
  SamplerOptions& sampler = compare.candidates.sampler;
  sampler.temperature = options.temperature.value_or(1.0);
  sampler.top_p = options.top_p.value_or(1.0);
  sampler.seed = options.seed.value_or(0);
  KRAIT_ASSIGN_OR_RETURN(compare.judge, options.judge.resolve(JudgeBy::verify, sampler.seed));
  return compare;
}

// The text of --held-out; none without it.
Result<std::vector<Token>> read_held_out(const EvaluateFlags& options, const LanguageModel& model) {
  if (options.held_out.empty()) return std::vector<Token>();
  KRAIT_ASSIGN_OR_RETURN(
      std::vector<Token> tokens,
      read_tokens({.argument = {}, .file = options.held_out}, "--held-out", model));
  if (tokens.size() >= 2) return tokens;
  return Error{ErrorCode::bad_argument, "[evaluate] held-out: expected at least 2 tokens, found " +
                                            std::to_string(tokens.size()) + " (" +
                                            options.held_out + ")"};
}

Result<std::optional<Perplexity>> held_out(const LanguageModel& model, ThreadPool& threads,
                                           std::span<const Token> tokens) {
  if (tokens.empty()) return std::optional<Perplexity>();
  Session session(model.model, threads, {.max_batch = 16});
  ProgressLine progress("held-out", "tokens");
  KRAIT_ASSIGN_OR_RETURN(Perplexity found, perplexity(session, *model.tokenizer, tokens, progress));
  return std::optional(found);
}

Result<void> print_comparison(const EvaluateFlags& options, const AnswerComparison& found,
                              const CompareOptions& compare, const ComparedModel& model,
                              const ComparedModel& against) {
  const std::string by(to_string(compare.judge.by));
  if (options.common.json) return print_json(to_json(found, by, model, against));
  char buffer[256];
  std::string text;
  const auto rate = [&](const char* name, const Estimate& at) {
    std::snprintf(buffer, sizeof buffer, "%-10s %5.1f %%  (95 %%: %.1f to %.1f %%)\n", name,
                  100.0 * at.value, 100.0 * at.low, 100.0 * at.high);
    text += buffer;
  };
  rate("wins", found.wins);
  rate("ties", found.ties);
  rate("losses", found.losses);
  std::snprintf(buffer, sizeof buffer, "difference %+.3f  (95 %%: %+.3f to %+.3f)\n",
                found.difference.value, found.difference.low, found.difference.high);
  text += buffer;
  std::snprintf(buffer, sizeof buffer, "%lld answers to %lld prompts, scores by %s",
                static_cast<long long>(found.compared), static_cast<long long>(found.prompts),
                by.c_str());
  text += buffer;
  if (found.unparsable > 0) text += ", " + std::to_string(found.unparsable) + " without a score";
  text += "\n";
  const auto side = [&](const ComparedModel& of, const AnswerMeasures& measures) {
    std::snprintf(buffer, sizeof buffer, ": score %.3f, %.1f tokens", measures.score,
                  measures.length);
    text += shown(of.model) + buffer;
    if (of.held_out) {
      std::snprintf(buffer, sizeof buffer, ", perplexity %.4f", of.held_out->value());
      text += buffer;
    }
    text += "\n";
  };
  side(model, found.model);
  side(against, found.against);
  return print_all(text);
}

Result<void> run_against(const EvaluateFlags& options) {
  KRAIT_ASSIGN_OR_RETURN(const StageInput prompts, read_lines(options.prompts, "--prompts"));
  KRAIT_ASSIGN_OR_RETURN(const CompareOptions compare, compare_options(options));
  const std::unique_ptr<ThreadPool> threads = make_threads(options.common.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const LanguageModel model,
      load_language_model(options.common.model, load_options(options.common, threads.get())));
  // As they are stored: --dtype is for the model.
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel against, load_language_model(options.against));
  std::optional<LanguageModel> other_judge;
  if (!options.judge_model.empty()) {
    KRAIT_ASSIGN_OR_RETURN(other_judge, load_language_model(options.judge_model));
  }
  // First what may be wrong with the input.
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> our_text, read_held_out(options, model));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> their_text, read_held_out(options, against));
  Result<AnswerComparison> found = [&] {
    StageLine line;
    return compare_answers(model, against, other_judge ? &*other_judge : &model, *threads, prompts,
                           compare, line);
  }();
  if (!found) return std::move(found).error();
  ComparedModel ours{.model = options.common.model};
  ComparedModel theirs{.model = options.against};
  KRAIT_ASSIGN_OR_RETURN(ours.held_out, held_out(model, *threads, our_text));
  KRAIT_ASSIGN_OR_RETURN(theirs.held_out, held_out(against, *threads, their_text));
  return print_comparison(options, *found, compare, ours, theirs);
}

void check_usage(const EvaluateFlags& options) {
  const bool is_kl = options.against.empty();
  if (is_kl == options.reference.empty()) {
    throw WrongUsage("--kl", "a reference model, or --against with another",
                     is_kl ? "none" : "both");
  }
  struct Given {
    const char* name;
    bool given;
    bool is_of_kl;
  };
  for (const Given& flag : {Given{"--file", !options.text.file.empty(), true},
                            {"--limit", options.limit.has_value(), true},
                            {"--prompts", !options.prompts.empty(), false},
                            {"--count", options.count.has_value(), false},
                            {"--tokens", options.tokens.has_value(), false},
                            {"--temperature", options.temperature.has_value(), false},
                            {"--top-p", options.top_p.has_value(), false},
                            {"--seed", options.seed.has_value(), false},
                            {"--judge", !options.judge_model.empty(), false},
                            {"--template", !options.judge.template_file.empty(), false},
                            {"--expected", options.judge.expected, false},
                            {"--samples", options.judge.samples.has_value(), false},
                            {"--held-out", !options.held_out.empty(), false}}) {
    if (flag.given && flag.is_of_kl != is_kl) {
      throw WrongUsage(flag.name, flag.is_of_kl ? "--kl beside it" : "--against beside it",
                       flag.is_of_kl ? "--against" : "--kl");
    }
  }
  if (is_kl) return;
  if (options.prompts.empty()) throw WrongUsage("--prompts", "a file of prompts", "none");
  options.judge.check();
  if (!options.judge.is_given()) {
    for (const auto& [name, value] : {std::pair{"--judge", &options.judge_model},
                                      {"--template", &options.judge.template_file}}) {
      if (!value->empty()) throw WrongUsage(name, "--expected or --samples beside it", "none");
    }
  }
}

Result<void> run(const EvaluateFlags& options) {
  check_usage(options);
  return options.against.empty() ? run_kl(options) : run_against(options);
}

void declare(Command& command, EvaluateFlags& options) {
  command.file("--kl", options.reference,
               "Reference model, run as it is stored: mean KL divergence from it");
  command.file("--file", options.text.file,
               "Text file; '-', or none where text is piped in: standard input");
  command.number("--limit", options.limit, 1, Index{1} << 60, "Only the first N bytes");
  command.file("--against", options.against,
               "In place of --kl: another model, run as it is stored, whose answers to --prompts "
               "are compared");
  command.file("--prompts", options.prompts,
               "Lines of JSON with prompt, and, without a judge, verify");
  command.number("--count", options.count, 1, 1 << 20,
                 "Answers to a prompt, by the same seeds for both; 1 if not given");
  command.number("-n,--tokens", options.tokens, 1, Index{1} << 31,
                 "Tokens of an answer, at most; 64 if not given");
  const auto check = [](double SamplerOptions::*member) {
    return [member](double value) {
      SamplerOptions sampler;
      sampler.*member = value;
      return validate(sampler, 256);
    };
  };
  command.real("--temperature", options.temperature, "Of the answers; 1 if not given",
               check(&SamplerOptions::temperature));
  command.real("--top-p", options.top_p, "Of the answers; 1 if not given",
               check(&SamplerOptions::top_p));
  command.seed("--seed", options.seed, "Of answers and judgements; 0 if not given");
  options.judge.add(command);
  command.file("--judge", options.judge_model,
               "Model that judges by --expected or --samples; that of -m if not given. Without "
               "either of them verify's rules are the score");
  command.file("--held-out", options.held_out, "Text whose perplexity is measured, too");
  add_common(command, options.common,
             "One JSON object: kl, kl_largest, same_top; with --against wins, ties, losses, "
             "difference, model, against");
}

}  // namespace

void add_evaluate(CommandLine& line) {
  line.add<EvaluateFlags>("evaluate",
                          "Measures how far a model's predictions are from another's, or whose "
                          "answers are better",
                          "krait evaluate --kl krait-bytes-moe --dtype q4 --file book.txt", declare,
                          run);
}

}  // namespace krait::cli
