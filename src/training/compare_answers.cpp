#include "krait/training/compare_answers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using training::JsonLine;

constexpr double two_sided = 1.96;  // of the normal law, on both sides of 95 %

StageInput input_from(const std::vector<std::string>& lines, const std::string& name) {
  StageInput input{.text = {}, .name = name};
  for (const std::string& line : lines) input.text += line + "\n";
  return input;
}

// Nothing of an interrupted comparison is kept.
Error told_as_interrupted(const Error& error) {
  if (error.code != ErrorCode::cancelled) return error;
  return {ErrorCode::cancelled, "[evaluate] answers: expected all, found an interruption"};
}

Result<void> check(const LanguageModel& model, const LanguageModel& against,
                   const StageInput& prompts, const CompareOptions& options) {
  if (model.model.vocab() != against.model.vocab()) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[evaluate] against: expected a model with {} tokens, found one with {}",
                    model.model.vocab(), against.model.vocab())};
  }
  KRAIT_RETURN_IF_ERROR(validate(options.candidates.sampler, model.model.vocab()));
  KRAIT_RETURN_IF_ERROR(validate(options.judge));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines, training::lines_of(prompts, "prompts"));
  return training::check_prompts(*model.tokenizer, lines, options.judge.by == JudgeBy::verify);
}

struct Comparer {
  const LanguageModel* judge;
  Executor& executor;
  const StageInput& prompts;
  const CompareOptions& options;
  CompareProgress progress;

  // The lines with the model's answers and their scores.
  Result<std::vector<Metadata>> score(const LanguageModel& model) const {
    const auto shown = [this](std::string_view stage) {
      return [this, stage](Index done, Index total) { return progress(stage, done, total); };
    };
    const auto answering = shown("candidates");
    KRAIT_ASSIGN_OR_RETURN(
        const std::vector<std::string> answers,
        training::candidates(model, executor, prompts, options.candidates, "", answering));
    const StageInput answered = input_from(answers, prompts.name);
    const auto judging = shown("judge");
    KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> lines,
                           training::scores(judge, executor, answered, options.judge, "", judging));
    const StageInput scored = input_from(lines, prompts.name);
    KRAIT_ASSIGN_OR_RETURN(std::vector<JsonLine> read,
                           training::lines_of(scored, "scored answers"));
    std::vector<Metadata> result;
    for (JsonLine& line : read) result.push_back(std::move(line.json));
    return result;
  }
};

}  // namespace

Estimate part_of(double happened, Index trials) {
  const auto n = static_cast<double>(trials);
  const double p = happened / n;
  constexpr double z2 = two_sided * two_sided;
  const double centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
  const double half =
      two_sided / (1.0 + z2 / n) * std::sqrt(p * (1.0 - p) / n + z2 / (4.0 * n * n));
  return {.value = p, .low = std::max(0.0, centre - half), .high = std::min(1.0, centre + half)};
}

Estimate mean_of(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0.0;
  for (const double value : values) sum += value;
  const double mean = sum / n;
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double half = n > 1.0 ? two_sided * std::sqrt(squares / (n - 1.0) / n) : 0.0;
  return {.value = mean, .low = mean - half, .high = mean + half};
}

Result<AnswerComparison> compare_answers(const LanguageModel& model, const LanguageModel& against,
                                         const LanguageModel* judge, Executor& executor,
                                         const StageInput& prompts, const CompareOptions& options,
                                         CompareProgress progress) {
  check_contract(options.judge.by != JudgeBy::random, "[evaluate] judge: expected no chance");
  KRAIT_RETURN_IF_ERROR(check(model, against, prompts, options));
  const Comparer comparer{judge, executor, prompts, options, progress};
  const Result<std::vector<Metadata>> ours = comparer.score(model);
  if (!ours) return told_as_interrupted(ours.error());
  const Result<std::vector<Metadata>> theirs = comparer.score(against);
  if (!theirs) return told_as_interrupted(theirs.error());

  AnswerComparison found;
  double wins = 0.0;  // of each prompt its part
  double ties = 0.0;
  double losses = 0.0;
  double answers = 0.0;
  std::vector<double> differences;  // of each prompt the mean
  for (std::size_t i = 0; i < ours->size(); ++i) {
    const Metadata& a = (*ours)[i];
    const Metadata& b = (*theirs)[i];
    double won = 0.0;
    double tied = 0.0;
    double lost = 0.0;
    double difference = 0.0;
    double compared = 0.0;
    for (std::size_t k = 0; k < a["responses"].size(); ++k) {
      found.model.length += static_cast<double>(a["responses"][k]["tokens"].size());
      found.against.length += static_cast<double>(b["responses"][k]["tokens"].size());
      answers += 1.0;
      const std::optional<double> x = a["mean"][k].number();
      const std::optional<double> y = b["mean"][k].number();
      if (!x || !y) {
        ++found.unparsable;
        continue;
      }
      found.model.score += *x;
      found.against.score += *y;
      difference += *x - *y;
      won += *x > *y ? 1.0 : 0.0;
      tied += *x == *y ? 1.0 : 0.0;
      lost += *x < *y ? 1.0 : 0.0;
      compared += 1.0;
    }
    if (compared == 0.0) continue;
    ++found.prompts;
    found.compared += static_cast<Index>(compared);
    wins += won / compared;
    ties += tied / compared;
    losses += lost / compared;
    differences.push_back(difference / compared);
  }
  if (found.compared == 0) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[evaluate] scores: expected one at least of both models' answers to a "
                    "prompt, found none ({})",
                    prompts.name)};
  }
  const auto compared = static_cast<double>(found.compared);
  for (AnswerMeasures* side : {&found.model, &found.against}) {
    side->score /= compared;
    side->length /= answers;
  }
  found.wins = part_of(wins, found.prompts);
  found.ties = part_of(ties, found.prompts);
  found.losses = part_of(losses, found.prompts);
  found.difference = mean_of(differences);
  return found;
}

}  // namespace v0_1
}  // namespace krait
