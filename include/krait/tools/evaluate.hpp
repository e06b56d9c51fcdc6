#pragma once

/// \file
/// Measures of a model's quality.

#include <span>

#include "krait/models/session.hpp"

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

}  // namespace v0_1
}  // namespace krait
