#pragma once

/// \file
/// The stages of a self-rewarding iteration (Yuan et al. 2024, arXiv:2401.10020), each of which
/// reads lines of JSON and writes more: prompts, candidate answers, scores, pairs.

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/loading/language_model.hpp"

namespace krait {
inline namespace v0_1 {

/// Lines of JSON that a stage reads.
struct StageInput {
  std::string text;
  std::string name;  ///< for messages
};

/// The token that ends an answer: the first of `ends` (LanguageModel::stop_tokens,
/// TextMarks::ends), for bytes 0. Errors: bad_config where there is none.
KRAIT_API Result<Token> end_of_answer(std::span<const Token> ends, const Tokenizer& tokenizer);

struct CandidateOptions {
  Index count = 4;        ///< answers to a prompt
  Index max_tokens = 64;  ///< of an answer, with its end
  /// Its `sequence` is the number of the answer, its seed is made of `seed` and the line's number:
  /// answer k of line i (both from 0) depends on (seed, i, k) alone.
  SamplerOptions sampler = {};
};

/// From lines with `prompt` to the same lines with `responses`: `text`, `tokens` (the end, if it
/// came, included), `logp` (Σ ln p of the tokens, before every step of the sampler) and the
/// sampler's `seed`; `model` is the model's fingerprint, and `id` the number of a line without one.
///
/// A prompt is run once for all its answers, and the answers of several prompts are sampled
/// together. Like every stage, this one goes on behind the lines that an interrupted call with the
/// same arguments has left in <destination>.partial. `progress` counts lines. Errors: bad_format
/// and bad_argument, naming the line; cancelled; io_failed; those of sampling.
KRAIT_API Result<void> write_candidates(const LanguageModel& model, Executor& executor,
                                        const StageInput& prompts, const CandidateOptions& options,
                                        const std::string& destination, Progress progress = {});

/// Where an answer's score comes from.
enum class JudgeBy {
  expected,  ///< Σ k·p(k) over the digits 0 to 5 that the model may write next, renormalised
  samples,   ///< the mean of digits that it writes
  verify,    ///< Σ points·min(matches, most) over the prompt's own rules
  random,    ///< uniform in 0 to 5: a control
};

KRAIT_API std::string_view to_string(JudgeBy by) noexcept;

/// Krait's own template, version 1: up to five points, one after another. For models that follow
/// instructions.
KRAIT_API std::string_view judge_template() noexcept;

struct JudgeOptions {
  JudgeBy by = JudgeBy::expected;
  /// What the model reads, up to where the digit is due, with {prompt} and {response}.
  std::string prompt = {};
  Index samples = 3;
  std::uint64_t seed = 0;
};

/// Errors: bad_argument, such as a template without {response}.
KRAIT_API Result<void> validate(const JudgeOptions& options);

/// From lines with `prompt` and `responses` to the same lines with, for each answer, its `scores`
/// (a list), their `mean` (null where none could be read), `raw` (what was written; by `expected`
/// the six probabilities) and `n_parsed`; `judge` says by what. A sample is one token, and what is
/// not a digit from 0 to 5 is no score.
///
/// What the texts of a template have in common is run once: for all lines what stands in front of
/// the first prompt, for a line's answers what stands in front of them. `model` may be null by
/// `verify` and `random`. Errors: like those of `write_candidates`; bad_argument for a template
/// without {response}; unsupported where digits are no tokens.
KRAIT_API Result<void> write_scores(const LanguageModel* model, Executor& executor,
                                    const StageInput& candidates, const JudgeOptions& options,
                                    const std::string& destination, Progress progress = {});

struct PairOptions {
  double min_gap = 0.0;  ///< of the means; what is below is left out
  /// Of the answers' characters, the longer over the shorter; what is above is left out.
  double max_len_ratio = std::numeric_limits<double>::infinity();
};

/// Errors: bad_argument, naming the first bad value.
KRAIT_API Result<void> validate(const PairOptions& options);

/// Pairs that were made, and why others were not.
struct PairCounts {
  Index kept = 0;
  Index tied = 0;
  Index gap = 0;
  Index equal_text = 0;
  Index length = 0;
  Index unparsable = 0;  ///< fewer than two answers have a score, and some have none

  Index discarded() const noexcept { return tied + gap + equal_text + length + unparsable; }
};

/// From lines of `write_scores` to lines with `prompt`, `chosen`, `rejected` (the answers of the
/// highest and the lowest mean, of several the first), `score_c`, `score_r`, and the candidates'
/// log-probabilities `ref_logp_c`, `ref_logp_r`. With `anchors`, lines like the first with the same
/// prompts, the rejected answers are the lowest of those (Temporal Self-Rewarding, Wang et al.
/// 2025, arXiv:2508.06026). Errors: bad_format; bad_argument where no pair is left.
KRAIT_API Result<PairCounts> write_pairs(const StageInput& scored, const StageInput* anchors,
                                         const PairOptions& options,
                                         const std::string& destination);

struct PromptOptions {
  Index count = 100;       ///< prompts to make
  Index shots = 6;         ///< examples from the seed prompts, in front of each
  Index made_shots = 2;    ///< and from those that were made before, as far as there are some
  Index max_tokens = 64;   ///< of a prompt
  Index min_length = 1;    ///< characters
  double max_rouge = 0.7;  ///< most similarity (ROUGE-L, F-measure of words) to any other prompt
  std::vector<std::string> without = {};  ///< words that a prompt must not have
  SamplerOptions sampler = {};
};

/// Errors: bad_argument, naming the first bad value.
KRAIT_API Result<void> validate(const PromptOptions& options);

/// What came of the attempts.
struct PromptCounts {
  Index kept = 0;
  Index duplicate = 0;
  Index length = 0;
  Index similar = 0;
  Index words = 0;
};

/// New prompts from a list of given ones (self-instruct, Wang et al. 2022, arXiv:2212.10560): lines
/// with `id`, `prompt`, `seed` and `model`. At most 20 attempts a prompt are made. Errors:
/// bad_argument where they did not suffice.
KRAIT_API Result<PromptCounts> write_prompts(const LanguageModel& model, Executor& executor,
                                             const StageInput& seeds, const PromptOptions& options,
                                             const std::string& destination,
                                             Progress progress = {});

}  // namespace v0_1
}  // namespace krait
