#pragma once

/// \file
/// beam_search: the most probable continuations of a text.

#include <string>
#include <vector>

#include "krait/core/flow.hpp"
#include "krait/decoding/generation.hpp"

namespace krait {
inline namespace v0_1 {

/// Names and meaning are those of transformers.
struct BeamOptions {
  /// When to stop once there are num_beams complete texts. `no`: when the best text that goes on
  /// would, at its present length, not be among them. `never`: the same at the length that would be
  /// best for it. `yes`: at once.
  enum class EarlyStopping { no, yes, never };

  Index num_beams = 4;          ///< texts that go on side by side, 1 to 1000
  double length_penalty = 1.0;  ///< p of the score, -20 to 20; above 0 prefers long texts
  EarlyStopping early_stopping = EarlyStopping::no;
  Index num_return_sequences = 1;  ///< at most num_beams
};

/// A text that beam search found.
struct Beam {
  GenerationResult result;  ///< without timings and log-probabilities
  double log_prob = 0.0;    ///< Σ log p of its tokens, a stop token included, as the steps left it
  double score = 0.0;       ///< log_prob / tokens^length_penalty
  Sequence sequence;        ///< as `generate` leaves it
};

/// Whether beam search can be done with these options: no stop strings, speculation or
/// log-probabilities, and of the sampler only steps that change logits ("penalties", "dry",
/// "logit_bias", "bad_words", "min_length", an application's own), none that is about a draw.
/// Errors: bad_argument, naming the first that cannot.
KRAIT_API Result<void> validate(const BeamOptions& beams, const GenerationOptions& options,
                                const Model& model);

/// The continuations of the best scores, best first: transformers' beam search. Each step runs the
/// beams in one pass over the weights, as many as the session has room for, takes the
/// log-probabilities of their logits, applies the sampler's steps, adds what each text has so far,
/// and goes on with the best num_beams of all; those that end with a stop token, at max_tokens or
/// where a constraint allows nothing more are complete if they are among the best num_beams. A beam
/// is a state and what goes with it; where several go on from one, the state is copied.
///
/// Needs one token of `sequence` to be pending, consumes a copy, and allocates in every step.
/// `progress` counts steps, of max_tokens. Errors: bad_argument (options, sequence), cancelled, and
/// those of Session::run.
KRAIT_API Result<std::vector<Beam>> beam_search(Session& session, const Tokenizer& tokenizer,
                                                const Sequence& sequence,
                                                const GenerationOptions& options,
                                                const BeamOptions& beams = {},
                                                Progress progress = {});

}  // namespace v0_1
}  // namespace krait
