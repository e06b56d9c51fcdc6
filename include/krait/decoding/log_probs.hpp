#pragma once

/// \file
/// Log-probabilities of tokens.

#include <span>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// Natural logarithm of a token's probability.
struct TokenLogProb {
  Token token = 0;
  float log_prob = 0.0F;
};

/// A token that was sampled, and what else was probable there. The probabilities are those of the
/// logits as the model gave them, or as guidance made them: before every step of the sampler and
/// every mask.
struct TokenLogProbs {
  Token token = 0;
  float log_prob = 0.0F;
  std::vector<TokenLogProb> top;  ///< the most probable, best first; ties by the lowest id
};

/// Of one row of logits: `token` and the `top` most probable, at most as many as there are logits.
/// Logits of NaN count as impossible. The numbers are those of `Session::score`.
KRAIT_API TokenLogProbs log_probs_of(std::span<const float> logits, Token token, Index top);

}  // namespace v0_1
}  // namespace krait
