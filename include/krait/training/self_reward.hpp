#pragma once

/// \file
/// The self-rewarding loop (Yuan et al. 2024, arXiv:2401.10020): a model answers prompts, judges
/// its answers, and is trained on pairs of better and worse ones, again and again.

#include <optional>
#include <string>
#include <string_view>

#include "krait/training/preference.hpp"
#include "krait/training/reward_stages.hpp"
#include "krait/training/train_options.hpp"

namespace krait {
inline namespace v0_1 {

/// What decides a run.
struct SelfRewardConfig {
  std::string model;  ///< the first one: as for `open_model`
  Index iterations = 1;
  std::uint64_t seed = 0;
  std::string prompts;              ///< file of lines with `prompt`
  Index prompts_per_iteration = 0;  ///< the next lines, from the beginning behind the end; 0: all
  CandidateOptions candidates = {};
  JudgeBy judge = JudgeBy::expected;
  std::string judge_prompt;  ///< the template's text
  Index judge_samples = 3;
  PairOptions pairs = {};
  bool anchor_rejected = false;  ///< rejected answers are those of the first model
  Index epochs = 1;              ///< of training on the pairs of an iteration
  TrainOptions train = {};       ///< its steps, length and seed are the loop's
  PreferenceOptions preference = {};
  struct ReplayFile {
    std::string file;  ///< lines with `prompt` and `response`
    double weight = 1.0;
  };
  std::optional<ReplayFile> replay = {};  ///< see Replay
  struct Evaluation {
    std::string prompts;  ///< file of lines with `prompt` and `verify`
    std::string text;     ///< file whose perplexity is measured; empty: none
    CandidateOptions candidates = {};
  };
  std::optional<Evaluation> evaluate = {};
  /// All values with their names, those not given too: by these a run is known again.
  std::vector<std::pair<std::string, std::string>> values = {};
};

/// Reads a configuration, a JSON file; paths in it are relative to its folder. Errors: bad_format
/// (a key that is not known, a value of another kind), bad_argument.
KRAIT_API Result<SelfRewardConfig> read_self_reward_config(const std::string& path);

struct SelfRewardProgress {
  Index iteration = 0;  ///< from 1; 0: what is measured of the first model
  std::string_view stage;
  Index done = 0;
  Index total = 0;
};

/// What is measured of a model.
struct ModelReport {
  struct Verifiable {
    double mean = 0.0;
    double low = 0.0;  ///< 95 % interval, by the normal law
    double high = 0.0;
    Index n = 0;  ///< answers
  };
  std::optional<Verifiable> verifiable = {};
  std::optional<double> length = {};  ///< tokens of an answer, mean
  /// Of the pairs of the best and the worst answers, by their rules, to the first iteration's
  /// first 200 prompts: the part that the model's judgement orders rightly, a tie as a half.
  std::optional<double> judge_accuracy = {};
  std::optional<double> perplexity = {};  ///< of the held-out text, per token
};

/// Of an iteration and the model that it made.
struct IterationReport {
  PairCounts pairs;
  double margin = 0.0;           ///< mean of β·Δ over the pairs (see PreferenceLoss)
  double reward_accuracy = 0.0;  ///< part of the pairs with Δ > 0
  double chosen_length = 0.0;    ///< tokens with the end, mean
  double rejected_length = 0.0;
  std::optional<double> kl = {};  ///< to the model before, nats per token of its answers, sampled
  ModelReport model;
};

struct SelfRewardReport {
  ModelReport first;  ///< of the model that the loop began with
  std::vector<IterationReport> iterations;
};

/// The report as a table of Markdown.
KRAIT_API std::string to_table(const SelfRewardReport& report);

/// Runs the loop in a folder, which is made: iteration-<t> has `prompts.jsonl`, `candidates.jsonl`,
/// `scored.jsonl`, `pairs.jsonl`, `model`, the training's log `dpo.jsonl` and `report.json`; the
/// folder itself `report.json`, `report.md` and `report.svg`. Interrupted at any moment, the same
/// call goes on, and all files have the bytes of an uninterrupted run. Errors: bad_argument for a
/// folder of another run (names what differs); cancelled; io_failed; those of the stages and of
/// training.
KRAIT_API Result<SelfRewardReport> self_reward(
    const SelfRewardConfig& config, const std::string& folder, Executor& executor,
    FunctionRef<Flow(const SelfRewardProgress&)> progress);

}  // namespace v0_1
}  // namespace krait
