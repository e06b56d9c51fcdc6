#pragma once

/// \file
/// Sampler: from logits to a token.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// The steps of the chain, in the order they are applied. Each sees the renormalised result of the
/// one before; names, order and meaning are those of Hugging Face's generate. The defaults leave
/// the model's distribution as it is.
struct SamplerOptions {
  /// Logits of tokens already in the text are divided by this where positive and multiplied where
  /// negative (Keskar et al. 2019, arXiv:1909.05858). Above 0; 1 is off.
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;   ///< subtracted once from tokens in the text; finite
  double frequency_penalty = 0.0;  ///< subtracted for every occurrence in the text; finite
  std::vector<std::pair<Token, double>> logit_bias = {};  ///< added; -infinity forbids a token
  double temperature = 1.0;  ///< logits are divided by it; 0 takes the most probable token, and so
                             ///< does a value so small that the quotients are no numbers
  Index top_k = 0;           ///< keep the k most probable, and those tied with the last; 0 is off
  double top_p = 1.0;        ///< keep the most probable that together reach p; in (0, 1], 1 is off
  double min_p = 0.0;      ///< keep those of at least this part of the best's probability; 0 is off
  double typical_p = 1.0;  ///< keep the most typical that together reach p (Meister et al. 2022,
                           ///< arXiv:2202.00666); in (0, 1], 1 is off
  bool greedy = false;     ///< the most probable token of the model; ignores everything above
  std::uint64_t seed = 0;
  std::uint32_t sequence = 0;  ///< which of several samples from the same seed
};

/// Whether every field is in its range; the error names the first that is not.
KRAIT_API Result<void> validate(const SamplerOptions& options, Index vocab);

/// Draws tokens. The token drawn is a pure function of the logits, the text observed, and (seed,
/// sequence, position), on every machine: sums in a fixed order, no call of the system's libm.
/// Allocates only when made. A value: copies go separate ways. Options of any size are safe: what
/// leaves the range of double becomes its largest number, and a token that is forbidden stays so.
class KRAIT_API Sampler {
 public:
  /// For logits whose first `vocab` entries belong to tokens.
  static Result<Sampler> make(const SamplerOptions& options, Index vocab);

  /// Counts tokens of the text (prompt and output) for the penalties.
  void observe(std::span<const Token> tokens) noexcept;

  /// The token to stand at `position` of the text, from the logits after all before it. Logits of
  /// NaN are taken as -infinity, and if all are that, one token is as good as another. Ties go to
  /// the lowest id.
  Token sample(std::span<const float> logits, Index position) noexcept;

  const SamplerOptions& options() const noexcept { return options_; }

 private:
  struct Candidate {
    double logit;   // after penalties, bias and temperature
    double weight;  // exp(logit - largest logit)
    Token token;
  };
  static bool before(const Candidate& a, const Candidate& b) noexcept {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  void adjust(std::span<const float> logits) noexcept;
  void divide(double temperature) noexcept;
  void sort_first(std::size_t count) noexcept;
  void keep_first(std::size_t count) noexcept;
  void weigh() noexcept;
  double total() const noexcept;
  void apply_top_k() noexcept;
  void apply_top_p() noexcept;
  void apply_min_p() noexcept;
  void apply_typical() noexcept;

  SamplerOptions options_;
  std::vector<Candidate> candidates_;  // [vocab]; the first `kept_` take part
  std::vector<std::uint32_t> counts_;  // [vocab] occurrences in the text; empty without penalties
  std::size_t kept_ = 0;
  std::size_t sorted_ = 0;  // the first so many are in descending order, all others are below them
};

}  // namespace v0_1
}  // namespace krait
