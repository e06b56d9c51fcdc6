#pragma once

/// \file
/// What commands print with --json: every result that the program writes is spelled here, so that
/// names and units are seen beside each other. They are a promise to scripts.

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "krait/krait.hpp"
#include "krait/tools.hpp"

namespace krait::cli {

/// `generate`: one sample.
nlohmann::json to_json(const GenerationResult& generation, const SamplerOptions& sampler);

/// `logits`: a token that may come next.
struct Candidate {
  Token token;
  float logit;
  float log_prob;
};
nlohmann::json to_json(std::span<const Candidate> candidates);

/// `inspect`.
nlohmann::json to_json(const CheckpointPlan& planned);
/// `inspect --router-stats`: its layers.
nlohmann::json to_json(const std::vector<ExpertUse>& layers);

/// `perplexity`.
struct ScoredText {
  std::string file;
  std::size_t tokens = 0;  // the first, which is not scored, too
  Perplexity perplexity;
  double seconds = 0.0;
};
nlohmann::json to_json(const ScoredText& text);

/// `evaluate --kl`.
nlohmann::json to_json(const KlDivergence& kl, const std::string& file,
                       const std::string& reference);

/// `aqlm`.
nlohmann::json to_json(const AqlmReport& report, const std::string& scheme, double seconds);

/// `quantize`.
nlohmann::json to_json(const QuantizeSummary& summary, const std::string& source,
                       const std::string& destination, const std::string& form);

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
nlohmann::json to_json(const BenchReport& report);

}  // namespace krait::cli
