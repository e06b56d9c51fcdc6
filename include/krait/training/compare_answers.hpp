#pragma once

/// \file
/// Two models' answers to the same prompts, scored and compared.

#include <string_view>

#include "krait/core/function_ref.hpp"
#include "krait/training/reward_stages.hpp"

namespace krait {
inline namespace v0_1 {

/// A mean or a part of several, and where it lies with 95 %.
struct Estimate {
  double value = 0.0;
  double low = 0.0;
  double high = 0.0;
};

/// The part of `trials` in which something happened, by the interval of Wilson (1927, "Probable
/// inference, the law of succession, and statistical inference", JASA 22). Trials that happened in
/// part (several answers to a prompt, which are no trials of their own) make it wider than it need
/// be, never narrower. At least one trial.
KRAIT_API Estimate part_of(double happened, Index trials);

/// The mean of values, at least one, by the normal law.
KRAIT_API Estimate mean_of(std::span<const double> values);

struct CompareOptions {
  /// Answer k of line i has the same seed for both models.
  CandidateOptions candidates = {};
  JudgeOptions judge = {};  ///< `random` is not for this
};

/// What the answers of one model came to; means over all that have a score.
struct AnswerMeasures {
  double score = 0.0;
  double length = 0.0;  ///< tokens with the end, over all answers
};

struct AnswerComparison {
  Index prompts = 0;     ///< of which an answer could be compared
  Index compared = 0;    ///< answers of the model, each with that of the same seed
  Index unparsable = 0;  ///< left out: one of the two has no score
  Estimate wins;         ///< of what was compared: the model's score is the higher one
  Estimate ties;
  Estimate losses;
  /// The model's score less the other's, by the means of the prompts.
  Estimate difference;
  AnswerMeasures model;
  AnswerMeasures against;
};

/// What is being done ("candidates", "judge"; of the model, then of the other), and how far.
using CompareProgress = FunctionRef<Flow(std::string_view stage, Index done, Index total)>;

/// Has both models answer the lines with `prompt`, and scores the answers: by a model, `judge`, or
/// by the lines' rules (JudgeBy::verify; `judge` may be null). Each answer is judged by itself, so
/// that it does not matter which model's is read first. Only the models, the prompts and the
/// options decide the result. Errors: bad_argument (models with different numbers of tokens, no
/// prompt, a line without rules where they are needed, no answer with a score), bad_format;
/// cancelled; those of sampling and judging.
KRAIT_API Result<AnswerComparison> compare_answers(const LanguageModel& model,
                                                   const LanguageModel& against,
                                                   const LanguageModel* judge, Executor& executor,
                                                   const StageInput& prompts,
                                                   const CompareOptions& options,
                                                   CompareProgress progress);

}  // namespace v0_1
}  // namespace krait
