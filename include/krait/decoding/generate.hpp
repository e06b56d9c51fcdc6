#pragma once

/// \file
/// generate: text from a model.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/flow.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/models/sequence.hpp"
#include "krait/models/session.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait::inline v0_1 {

/// What `generate` does.
struct GenerationOptions {
  Index max_tokens = 128;  ///< at most so many; 0 only consumes the prompt
  SamplerOptions sampler = {};
  std::vector<Token> stop_tokens = {};         ///< sampling one of these ends the text before it
  std::vector<std::string> stop_strings = {};  ///< the text ends before the first of these
};

/// Why a text ended.
enum class FinishReason { max_tokens, stop_token, stop_string, cancelled };

/// "length", "stop_token", "stop_string", "cancelled".
KRAIT_API std::string_view to_string(FinishReason reason) noexcept;

/// One step of a generation, as the callback sees it.
struct GenerationEvent {
  Token token = 0;        ///< just sampled
  std::string_view text;  ///< whole UTF-8 characters that became certain; may be empty
  Index count = 0;        ///< tokens sampled so far, this one included
};

/// Sees every token; may end the text, in which case the reason is `cancelled`. Also called once
/// after the last token, with count and token unchanged, if text was held back until then.
using GenerationCallback = FunctionRef<Flow(const GenerationEvent&)>;

/// What came out.
struct Generation {
  std::vector<Token> tokens;  ///< sampled tokens; a stop token is not among them
  std::string text;           ///< as passed to the callback
  FinishReason reason = FinishReason::max_tokens;
  Index prompt_tokens = 0;      ///< tokens consumed before the first was sampled
  double prompt_seconds = 0.0;  ///< time to the first logits
  double decode_seconds = 0.0;  ///< time from there to the end
};

/// Continues `sequence` by sampling. Consumes its pending tokens, at least one of which there must
/// be; afterwards the last token of the text is pending, so that a generation cut in two gives the
/// tokens and the text of one: a character that is incomplete at the end is shown by the generation
/// that completes it. Invalid UTF-8 from the model is shown as U+FFFD.
///
/// The tokens depend on the model, the text, and the sampler's (seed, sequence), on nothing else:
/// not on threads, chunks, or the machine.
///
/// Errors: bad_argument (options, an empty sequence), cancelled (by `progress`, which counts
/// tokens of the prompt; the sequence has then consumed what was reported).
KRAIT_API Result<Generation> generate(Session& session, const Tokenizer& tokenizer,
                                      Sequence& sequence, const GenerationOptions& options = {},
                                      GenerationCallback callback = {}, Progress progress = {});

/// Consumes all pending tokens of the sequence but the last: what its forks have in common, done
/// once. Errors: cancelled.
KRAIT_API Result<void> prefill(Session& session, Sequence& sequence, Progress progress = {});

}  // namespace krait::inline v0_1
