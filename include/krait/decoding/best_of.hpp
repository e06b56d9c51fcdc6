#pragma once

/// \file
/// best_of: the most probable of several samples.

#include <cstdint>

#include "krait/core/flow.hpp"
#include "krait/decoding/generation.hpp"

namespace krait {
inline namespace v0_1 {

/// By which log-probability samples are compared: of a token on average, or of the whole text. The
/// sum prefers short texts.
enum class BestBy { mean, sum };

/// The best of several samples.
struct Best {
  GenerationResult result;
  Sequence sequence;        ///< as `generate` leaves it
  std::uint32_t index = 0;  ///< its `SamplerOptions::sequence`
  double score = 0.0;       ///< by which it is the best
};

/// Samples `count` continuations of a text, those of `SamplerOptions::sequence` 0 to count - 1, and
/// returns the one of the largest log-probability (vLLM's best_of), the first of several. The
/// probabilities are those of `TokenLogProbs`, a stop token's included. The samples are run
/// together, as many at once as the session has room for; with guidance one after another.
///
/// `progress` counts tokens of all samples, out of the most there can be. Errors: bad_argument
/// (count below 1, options, speculation), cancelled, and those of `generate` and `advance_all`.
KRAIT_API Result<Best> best_of(Session& session, const Tokenizer& tokenizer,
                               const Sequence& sequence, const GenerationOptions& options,
                               Index count, BestBy by = BestBy::mean, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
