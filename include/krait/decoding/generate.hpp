#pragma once

/// \file
/// generate: text from a model.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/flow.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/decoding/sequence.hpp"
#include "krait/models/session.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// What `generate` does.
struct GenerationOptions {
  Index max_tokens = 128;  ///< at most so many; 0 only consumes the prompt
  SamplerOptions sampler = {};
  std::vector<Token> stop_tokens = {};  ///< sampling one of these ends the text before it
  /// The text ends before the first of these, wherever it begins and ends among the tokens. Special
  /// tokens count as what they are written like, although they are not shown.
  std::vector<std::string> stop_strings = {};
  /// When a text is cut (max_tokens, cancelled): what may begin a stop string waits for the
  /// generation that goes on. If false, it is shown, and no stop string takes it back.
  bool hold_back = true;
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
  /// Sampled tokens; a stop token is not among them, those of a stop string are.
  std::vector<Token> tokens;
  std::string text;  ///< as passed to the callback
  FinishReason reason = FinishReason::max_tokens;
  Index prompt_tokens = 0;      ///< tokens consumed before the first was sampled
  double prompt_seconds = 0.0;  ///< time to the first logits
  double decode_seconds = 0.0;  ///< time from there to the end
};

/// Continues `sequence` by sampling. Consumes its pending tokens, at least one of which there must
/// be; afterwards the end of the text is pending: its last token, or some more. A generation cut in
/// two gives the tokens and the text of one: a character that is incomplete at the end is shown by
/// the generation that completes it, and what may begin a stop string waits for the one that
/// decides it. Stop strings are sought in what is sampled, not in the prompt. Invalid UTF-8 from
/// the model is shown as U+FFFD.
///
/// After a stop string the sequence holds what was shown: its tokens end where the stop string
/// begins. Of a token that was cut there, the part that was shown is encoded anew. The state is
/// then that of some dozens of tokens before, and those are pending. Only a generation with stop
/// strings keeps such states: two copies, renewed every 64 tokens.
///
/// The tokens depend on the model, the text, and the sampler's (seed, sequence), on nothing else:
/// not on threads, chunks, or the machine.
///
/// `progress` counts tokens of the prompt; callbacks run under the caller's own floating-point
/// mode. If one throws, the sequence has consumed what was reported and holds every token that was
/// sampled; it can be continued. Memory for the text, for `Generation`, and with stop strings for
/// the copies of the state is allocated by every call and released at its end.
///
/// Errors: bad_argument (options, an empty sequence), cancelled (by `progress`; the sequence has
/// then consumed what was reported. Where the prompt ends there is a token to show: a generation
/// stopped there ends with it, for the reason `cancelled`), and those of Session::step.
KRAIT_API Result<Generation> generate(Session& session, const Tokenizer& tokenizer,
                                      Sequence& sequence, const GenerationOptions& options = {},
                                      GenerationCallback callback = {}, Progress progress = {});

/// Consumes all pending tokens of the sequence but the last: what its forks have in common, done
/// once. Of a text that was held back, nothing: it may yet be taken back. Errors: cancelled, and
/// those of Session::prefill.
KRAIT_API Result<void> prefill(Session& session, Sequence& sequence, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
