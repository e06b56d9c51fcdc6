#pragma once

/// \file
/// What commands print with --json, one line of JSON each: every result that the program writes is
/// spelled here, so that names and units are seen beside each other. They are a promise to scripts.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "krait/krait.hpp"
#include "krait/tools.hpp"

namespace krait {
inline namespace v0_1 {
struct TrainSummary;  // krait/training/train.hpp
struct TrainMemory;
struct AnswerComparison;  // krait/training/compare_answers.hpp
struct PairCounts;        // krait/training/reward_stages.hpp
struct PromptCounts;
}  // namespace v0_1
}  // namespace krait

namespace krait::cli {

/// `generate`: one sample.
struct Sample {
  GenerationResult generation;
  std::uint64_t seed = 0;
  std::uint32_t sequence = 0;
  std::optional<DraftStatistics> drafts = {};  // where there was a drafter
  std::optional<double> score = {};            // by which it was chosen among several
  bool has_log_probs = false;
};
/// One sample as an object, several as its `samples`.
std::string to_json(std::span<const Sample> samples);

/// `logits`: a token that may come next.
struct Candidate {
  Token token;
  float logit;
  float log_prob;
};
/// `logits`: what may come after a token.
struct LogitsRow {
  Index position = 0;
  std::vector<Candidate> top;
};
/// With `all` every row, else the last.
std::string to_json(const std::vector<LogitsRow>& rows, bool all, Index tokens, Index vocab);

/// `tokenize`, and with --decode.
std::string to_json(std::span<const Token> tokens);
std::string text_to_json(const std::string& text);
/// `chat --print-prompt`.
std::string prompt_to_json(const std::string& prompt, std::span<const Token> tokens);
/// A JSON string.
std::string to_json(const std::string& text);

/// `inspect`.
std::string to_json(const CheckpointPlan& planned);
/// `inspect --router-stats`.
std::string to_json(const std::vector<ExpertUse>& layers, const std::string& path,
                    const std::string& file, std::size_t tokens);

/// `perplexity`.
struct ScoredText {
  std::string file;
  std::size_t tokens = 0;  // the first, which is not scored, too
  Perplexity perplexity;
  double seconds = 0.0;
};
std::string to_json(const ScoredText& text);

/// `drugs-report`.
std::string to_json(const std::vector<DrugPoint>& points, const DrugPlan& plan,
                    const std::string& file, std::size_t tokens);

/// `evaluate --kl`.
std::string to_json(const KlDivergence& kl, const std::string& file, const std::string& reference);

/// `evaluate --against`.
struct ComparedModel {
  std::string model;
  std::optional<Perplexity> held_out = {};
};
std::string to_json(const AnswerComparison& found, const std::string& by,
                    const ComparedModel& model, const ComparedModel& against);

/// `aqlm`.
std::string to_json(const AqlmReport& report, const std::string& scheme,
                    const std::optional<ModelComparison>& held_out, double seconds);

/// `laser`.
std::string to_json(const LaserSummary& summary);
/// `laser --search`.
std::string to_json(const LaserSearchReport& report);

/// `quantize`.
std::string to_json(const QuantizeSummary& summary, const std::string& source,
                    const std::string& destination, const std::string& form);

/// `convert`.
std::string to_json(const ConvertSummary& summary, const std::string& source,
                    const std::string& destination);

/// `train --memory` and its like.
std::string to_json(const TrainMemory& memory);
/// `train`, `sft`, `dpo`.
std::string to_json(const TrainSummary& summary, const std::string& destination, double seconds);

/// `pairs`.
std::string to_json(const PairCounts& counts, const std::string& destination);
/// `prompts`.
std::string to_json(const PromptCounts& counts, const std::string& destination);
/// `candidates`, `judge`, `self-reward`: what was written.
std::string file_to_json(const std::string& destination, double seconds);
/// `merge`.
std::string to_json(const MergeSummary& summary, const std::string& destination);

/// `bench`: tokens per second of the runs of one kind.
struct Speed {
  double best = 0.0;
  double median = 0.0;

  /// Of the median run, in which a step decodes a token for each of so many users.
  double step_microseconds(Index users) const { return 1e6 * static_cast<double>(users) / median; }
};

/// `bench`: what was run, and what it gave.
struct BenchReport {
  struct Batch {
    Index users;
    Speed speed;
  };
  /// Where the time of the fastest run went, per token.
  struct Profile {
    std::string what;
    double seconds = 0.0;
    std::vector<profile::Total> zones;
  };
  /// Verifying `tokens` tokens in one pass, and keeping all but one of them, as multiples of the
  /// time of decoding one.
  struct Verification {
    Index tokens;
    double steps;
    double keep_steps;
  };

  std::string model;
  int threads = 0;
  Index prompt_tokens = 0;
  Index decode_tokens = 0;
  Index repeat = 0;
  Speed prefill;
  Speed decode;
  std::vector<Batch> batches;
  std::vector<Profile> profiles;
  std::vector<Verification> verifications;
  TokenCost cost;
  long peak_rss_bytes = 0;
  double read_gb_s = 0.0;  // limits of the machine; 0 where they were not measured
  double gflop_s = 0.0;
};
std::string to_json(const BenchReport& report);

/// `bench --draft`.
struct DraftReport {
  std::string model = {};
  int threads = 0;
  Index prompt_tokens = 0;
  Index repeat = 0;
  Speed plain = {};
  Speed drafted = {};
  double draft_prompt_seconds = 0.0;  // of the drafters, no part of the speeds
  GenerationResult generation = {};   // of the last drafted run
  DraftStatistics statistics = {};
};
std::string to_json(const DraftReport& report);

}  // namespace krait::cli
