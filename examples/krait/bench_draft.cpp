// bench --draft: decoding with drafts beside decoding without.

#include "bench_draft.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "krait/tools.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct Timed {
  GenerationResult generation;
  double seconds = 0.0;
};

// One run behind the prompt. What a drafter does for the prompt is no part of it.
Result<Timed> decode(const Sequence& prompt, const GenerationOptions& options, Runtime& runtime,
                     double& draft_prompt_seconds) {
  Sequence sequence = prompt;
  if (options.speculation) {
    const double begun = now();
    KRAIT_RETURN_IF_ERROR(options.speculation->begin(sequence, options));
    draft_prompt_seconds = now() - begun;
  }
  const double begun = now();
  const auto go_on = [](const GenerationEvent&) {
    return is_interrupted() ? Flow::stop : Flow::go_on;
  };
  KRAIT_ASSIGN_OR_RETURN(GenerationResult generation,
                         generate(*runtime.session, runtime.tokenizer(), sequence, options, go_on));
  if (is_interrupted()) return interruption();
  return Timed{std::move(generation), now() - begun};
}

Speed speed_of(std::vector<double> speeds) {
  std::sort(speeds.begin(), speeds.end());
  return {speeds.back(), speeds[speeds.size() / 2]};
}

Result<void> print_table(const DraftReport& report) {
  std::string text =
      fmt::format("{}, {} threads, {}: {} tokens behind {}\n{:<22} {:>12} {:>12}\n",
                  shown(report.model), report.threads, to_string(active_isa()),
                  report.generation.tokens.size(), report.prompt_tokens, "", "median", "best");
  const auto add = [&](const char* what, const Speed& speed) {
    text += fmt::format("{:<22} {:>12.1f} {:>12.1f}  tokens/s\n", what, speed.median, speed.best);
  };
  add("plain", report.plain);
  add("drafted", report.drafted);
  text += fmt::format("{:.2f} times as fast; {} passes, {} of {} guesses accepted\n",
                      report.drafted.median / report.plain.median, report.generation.target_passes,
                      report.generation.accepted, report.generation.drafted);
  for (const DraftStatistics::Level& level : report.statistics.levels) {
    text += fmt::format("{:<22} {} of {} accepted\n", shown(level.name), level.count.accepted,
                        level.count.drafted);
  }
  return print_all(text);
}

}  // namespace

Result<void> bench_draft(const CommonOptions& common, const DraftFlags& draft,
                         const std::string& file, std::optional<Index> most, Index repeat) {
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(common, draft.session()));
  KRAIT_ASSIGN_OR_RETURN(
      const std::vector<Token> tokens,
      read_tokens({.argument = {}, .file = file}, "--text", runtime.language_model));
  if (tokens.size() < 2) {
    return Error{ErrorCode::bad_argument,
                 "[bench] --text: expected a text of at least 2 tokens, "
                 "found " +
                     std::to_string(tokens.size())};
  }
  const std::size_t half = tokens.size() / 2;
  Sequence prompt(runtime.model(), std::span(tokens).first(half));
  KRAIT_RETURN_IF_ERROR(prefill(*runtime.session, prompt, ProgressLine("prompt", "tokens")));
  const Index rest = std::ssize(tokens) - static_cast<Index>(half);
  const GenerationOptions plain{.max_tokens = std::min(rest, most.value_or(rest)),
                                .sampler = {.greedy = true}};
  GenerationOptions drafted = plain;
  DraftReport report{.model = common.model,
                     .threads = runtime.threads->width(),
                     .prompt_tokens = static_cast<Index>(half),
                     .repeat = repeat};
  std::vector<double> plain_speeds;
  std::vector<double> drafted_speeds;
  KRAIT_ASSIGN_OR_RETURN(const std::shared_ptr<Speculation> drafter,
                         draft.load_drafter(runtime, common));
  for (Index i = 0; i < repeat; ++i) {
    KRAIT_ASSIGN_OR_RETURN(const Timed without,
                           decode(prompt, plain, runtime, report.draft_prompt_seconds));
    drafted.speculation = std::make_shared<Speculation>(*drafter);  // which has learned nothing
    KRAIT_ASSIGN_OR_RETURN(Timed with,
                           decode(prompt, drafted, runtime, report.draft_prompt_seconds));
    if (with.generation.tokens != without.generation.tokens) {
      return Error{ErrorCode::bad_argument,
                   "[bench] --draft: expected the text of the plain run, found another"};
    }
    const auto count = static_cast<double>(with.generation.tokens.size());
    plain_speeds.push_back(count / without.seconds);
    drafted_speeds.push_back(count / with.seconds);
    report.generation = std::move(with.generation);
    report.statistics = drafted.speculation->statistics();
  }
  report.plain = speed_of(plain_speeds);
  report.drafted = speed_of(drafted_speeds);
  return common.json ? print_json(to_json(report)) : print_table(report);
}

}  // namespace krait::cli
