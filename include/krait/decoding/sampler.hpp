#pragma once

/// \file
/// Sampler: from logits to a token.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/decoding/candidates.hpp"
#include "krait/decoding/draft.hpp"
#include "krait/decoding/sampler_step.hpp"
#include "krait/decoding/token_mask.hpp"

namespace krait {
inline namespace v0_1 {

/// The steps of the chain, in the order they are applied. Each sees the renormalised result of the
/// one before; names, order and meaning are those of Hugging Face's generate, or of llama.cpp for
/// what only that has. The defaults leave
/// the model's distribution as it is.
struct SamplerOptions {
  /// Logits of tokens already in the text are divided by this where positive and multiplied where
  /// negative (Keskar et al. 2019, arXiv:1909.05858). Above 0; 1 is off. With the next two, the
  /// step "penalties".
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;   ///< subtracted once from tokens in the text; finite
  double frequency_penalty = 0.0;  ///< subtracted for every occurrence in the text; finite
  /// Where the last n tokens of the text, n ≥ dry_allowed_length, stand in its last
  /// dry_penalty_last_n tokens already, the token that followed them there loses
  /// dry_multiplier · dry_base^(n - dry_allowed_length) (DRY, p-e-w 2024; names and defaults are
  /// llama.cpp's). A multiplier of 0 is off. The step "dry".
  double dry_multiplier = 0.0;
  double dry_base = 1.75;         ///< at least 1
  Index dry_allowed_length = 2;   ///< at least 1
  Index dry_penalty_last_n = 64;  ///< at most 2^20
  /// Tokens that no repetition extends over: see `tokens_spelling`.
  std::vector<std::vector<Token>> dry_sequence_breakers = {};
  std::vector<std::pair<Token, double>> logit_bias = {};  ///< added; -infinity forbids a token
  /// Sequences of tokens that are not to be in what is drawn: the last of each is forbidden where
  /// the text ends with those before it (transformers' bad_words_ids).
  std::vector<std::vector<Token>> bad_words = {};
  Index min_length = 0;  ///< none of `eos_tokens` before the text has so many, prompt included
  std::vector<Token> eos_tokens = {};  ///< what `min_length` is about
  /// Keep logits of at least max - n σ, σ their standard deviation (Tang et al. 2024,
  /// arXiv:2411.07641; llama.cpp's top_n_sigma); 0 is off.
  double top_n_sigma = 0.0;
  double temperature = 1.0;  ///< logits are divided by it; 0 takes the most probable token, and so
                             ///< does a value so small that the quotients are no numbers
  /// Dynamic temperature, a part of the step "temperature": from max(0, temperature -
  /// dynatemp_range) to temperature + dynatemp_range, by (H / ln n)^dynatemp_exponent, H the
  /// entropy of n candidates (llama.cpp's names); a range of 0 is off.
  double dynatemp_range = 0.0;
  double dynatemp_exponent = 1.0;
  Index top_k = 0;         ///< keep the k most probable, and those tied with the last; 0 is off
  double top_p = 1.0;      ///< keep the most probable that together reach p; in (0, 1], 1 is off
  double min_p = 0.0;      ///< keep those of at least this part of the best's probability; 0 is off
  double typical_p = 1.0;  ///< keep the most typical that together reach p (Meister et al. 2022,
                           ///< arXiv:2202.00666); in (0, 1], 1 is off
  /// Keep p ≥ epsilon_cutoff; p ≥ min(η, √η exp(-entropy)) for η = eta_cutoff (Hewitt et al. 2022,
  /// arXiv:2210.15191; transformers' names); both in [0, 1), 0 is off.
  double epsilon_cutoff = 0.0;
  double eta_cutoff = 0.0;
  /// With this probability take out all of p ≥ xtc_threshold but the least probable of them (XTC,
  /// p-e-w 2024; llama.cpp's names); 0 is off.
  double xtc_probability = 0.0;
  double xtc_threshold = 0.1;
  /// 1 and 2 are the versions of mirostat, which keeps the surprise of the text near mirostat_tau
  /// bits a token, at the rate mirostat_eta (Basu et al. 2020, arXiv:2007.14966; llama.cpp's names
  /// and defaults); 0 is off. Not together with other steps that take tokens out. What it has
  /// learnt is the sampler's: copied with it, not in a state file.
  int mirostat = 0;
  double mirostat_tau = 5.0;  ///< 0 to 100
  double mirostat_eta = 0.1;  ///< 0 to 1
  /// An application's own steps, which are cloned. No two of a name.
  std::vector<std::shared_ptr<const SamplerStep>> steps = {};
  /// Another order of the steps, by name: "penalties", "dry", "logit_bias", "bad_words",
  /// "min_length", "top_n_sigma", "temperature", "top_k", "top_p", "min_p", "typical_p",
  /// "epsilon_cutoff", "eta_cutoff", "xtc", "mirostat", and the names of `steps`. It may leave out
  /// what is off, and nothing else. Empty: as above, the application's own at the end. Where
  /// "temperature" is 0, steps behind it have one token left to choose from.
  std::vector<std::string> order = {};
  bool greedy = false;  ///< the most probable token of the model; ignores everything above
  /// Draws the token of the largest log p + g, where each token has a number g of its own (Gumbel
  /// noise). The law is the same; but two samplers whose laws are alike mostly draw the same token,
  /// which is what a draft by another model needs (Daliri et al. 2024, arXiv:2408.07978).
  bool gumbel = false;
  std::uint64_t seed = 0;
  std::uint32_t sequence = 0;  ///< which of several samples from the same seed
};

/// Whether every field is in its range; the error names the first that is not.
KRAIT_API Result<void> validate(const SamplerOptions& options, Index vocab);

/// Draws tokens. The token drawn is a pure function of the logits, the mask, the text observed, and
/// (seed, sequence, position), on every machine: sums in a fixed order, no call of the system's
/// libm. Allocates only when made or copied. A value: copies go separate ways. Options of any size
/// are safe: what leaves the range of double becomes its largest number, and a token that is
/// forbidden stays so.
///
///     KRAIT_ASSIGN_OR_RETURN(
///         Sampler sampler,
///         Sampler::make({.temperature = 0.8, .top_k = 40, .seed = 7}, model.vocab()));
///     sampler.observe(prompt);
///     const Token token = sampler.sample(logits, state.position());
///     sampler.observe({&token, 1});
class KRAIT_API Sampler {
 public:
  /// For logits whose first `vocab` entries belong to tokens.
  static Result<Sampler> make(const SamplerOptions& options, Index vocab);

  Sampler() = default;  ///< only to be assigned to
  Sampler(const Sampler& other);
  Sampler(Sampler&& other) = default;
  Sampler& operator=(Sampler other) noexcept;

  /// Shows tokens of the text (prompt and output) to the steps.
  void observe(std::span<const Token> tokens) noexcept;

  /// The token to stand at `position` of the text, from the logits after all before it. Logits of
  /// NaN are taken as -infinity, and if all are that, one token is as good as another. Ties go to
  /// the lowest id.
  Token sample(std::span<const float> logits, Index position) noexcept;

  /// The same of the tokens that a mask allows, which come before every step, temperature 0 and
  /// greedy included: no other token is drawn, whatever the logits are. Nothing if it allows none.
  std::optional<Token> sample(std::span<const float> logits, Index position,
                              const TokenMask& allowed) noexcept;

  /// The best `count` of what the steps leave, best first, with their logits; fewer if there are no
  /// more, and none that is forbidden. Valid until the next call. What beam search chooses among.
  std::span<const Candidate> best(std::span<const float> logits, Index position, std::size_t count,
                                  const TokenMask& allowed) noexcept;

  /// The law that `sample` draws from. Allocates.
  TokenLaw law(std::span<const float> logits, Index position);
  /// The same under a mask, which must allow some token.
  TokenLaw law(std::span<const float> logits, Index position, const TokenMask& allowed);

  const SamplerOptions& options() const noexcept { return options_; }

 private:
  void apply_steps(Index position) noexcept;
  Token choose(Index position) noexcept;
  Token choose_by_gumbel(Index position) noexcept;
  TokenLaw current_law();

  SamplerOptions options_;
  Index vocab_ = 0;
  std::vector<std::unique_ptr<SamplerStep>> steps_;
  Candidates candidates_;
};

}  // namespace v0_1
}  // namespace krait
