#pragma once

/// \file
/// Measures of a model's quality.

#include <span>

#include "krait/models/session.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// How far a model's predictions are from those of a reference, over the positions of a text.
struct KlDivergence {
  Index positions = 0;
  double mean = 0.0;      ///< nats: mean of D(P_reference ‖ P_model)
  double largest = 0.0;   ///< nats, at the worst position
  double same_top = 0.0;  ///< part of the positions where both find the same token most probable
};

/// Kullback-Leibler divergence D(P‖Q) = Σ p (ln p − ln q) of the model's distributions Q of the
/// next token from the reference's P, after each of `tokens` (Kullback and Leibler 1951). Padding
/// rows of the heads take no probability. Computed in double; the result does not depend on the
/// executor.
///
/// `progress` counts tokens. Errors: bad_argument (no tokens, other vocabularies, a token beyond
/// them), cancelled.
Result<KlDivergence> kl_divergence(Session& reference, Session& model, Executor& executor,
                                   std::span<const Token> tokens, Progress progress = {});

/// How well a model predicts a text: what its tokens cost, each given all before it.
struct Perplexity {
  Index tokens = 0;   ///< scored: all of the text but the first
  Index bytes = 0;    ///< that the scored tokens stand for
  double nats = 0.0;  ///< −Σ ln p(token)

  double nats_per_token() const noexcept { return nats / static_cast<double>(tokens); }
  /// e^(nats per token).
  double value() const noexcept;
  /// What a compressor built on the model would need; comparable between tokenizers.
  double bits_per_byte() const noexcept;
};

/// Runs a text from an empty state, which is carried through the whole of it, and scores every
/// token but the first; `tokenizer` tells how many bytes each stands for. The result does not
/// depend on the session's executor, chunk or batch; more rows per pass
/// (`SessionOptions::max_batch`) make it faster.
///
/// `progress` counts scored tokens. Errors: bad_argument (fewer than 2 tokens, a token beyond the
/// vocabulary), not_finite, no_memory, cancelled.
Result<Perplexity> perplexity(Session& session, const Tokenizer& tokenizer,
                              std::span<const Token> tokens, Progress progress = {});

/// A model beside the one that it was made from, over one text.
struct ModelComparison {
  Perplexity reference;
  Perplexity model;
  KlDivergence kl;  ///< of the model from the reference
};

/// Runs a text through both, twice: for what its tokens cost and for the divergence. Both take the
/// tokenizer's tokens.
///
/// `progress` counts tokens of all runs. Errors: those of `perplexity` and `kl_divergence`.
Result<ModelComparison> compare_models(const Model& reference, const Model& model,
                                       const Tokenizer& tokenizer, std::span<const Token> tokens,
                                       Executor& executor, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
