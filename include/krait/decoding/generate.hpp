#pragma once

/// \file
/// generate: text from a model.

#include <span>

#include "krait/core/flow.hpp"
#include "krait/decoding/generation.hpp"
#include "krait/models/session.hpp"

namespace krait {
inline namespace v0_1 {

/// Sees every token; may end the text, in which case the reason is `cancelled`. Also called once
/// after the last token, with count and token unchanged, if text was held back until then.
using GenerationCallback = FunctionRef<Flow(const GenerationEvent&)>;

/// Continues `sequence` by sampling: a `Generation`, run to its end. Consumes its pending tokens,
/// at least one of which there must be; afterwards the end of the text is pending: its last token,
/// or some more. A generation cut in two gives the tokens and the text of one: a character that is
/// incomplete at the end is shown by the generation that completes it, and what may begin a stop
/// string waits for the one that decides it. Stop strings are sought in what is sampled, not in the
/// prompt. Invalid UTF-8 from the model is shown as U+FFFD.
///
/// After a stop string the sequence holds what was shown: its tokens end where the stop string
/// begins. Of a token that was cut there, the part that was shown is encoded anew. The state is
/// then that of some dozens of tokens before, and those are pending. Only a generation with stop
/// strings keeps such states: two copies, renewed every 64 tokens.
///
/// A constraint begins with the first token that is sampled. Where it allows none, the text ends,
/// for the reason `constraint`; that is no error.
///
/// The tokens depend on the model, the text, the constraint, and the sampler's (seed, sequence), on
/// nothing else: not on threads, chunks, or the machine.
///
/// `progress` counts tokens of the prompt; callbacks run under the caller's own floating-point
/// mode, and while they do the generation has the sequence: what the caller holds is empty. If one
/// throws, the sequence has consumed what was reported and holds every token that was sampled; it
/// can be continued. Memory for the text, for the result, and with stop strings for the copies of
/// the state is allocated by every call and released at its end.
///
/// Errors: bad_argument (options, an empty sequence), cancelled (by `progress`; the sequence has
/// then consumed what was reported. Where the prompt ends there is a token to show: a generation
/// stopped there ends with it, for the reason `cancelled`), and those of Session::run.
KRAIT_API Result<GenerationResult> generate(Session& session, const Tokenizer& tokenizer,
                                            Sequence& sequence,
                                            const GenerationOptions& options = {},
                                            GenerationCallback callback = {},
                                            Progress progress = {});

/// Runs the next step of every text that is not finished, in one pass over the weights: the last
/// token of each, with what was proposed behind it, and as much of prompts as then fits into the
/// session's chunk, those in front first, each at least one token. What became text is in
/// `Generation::events`, of which a text that had been finished has none.
///
///     while (!std::ranges::all_of(texts, &Generation::is_finished)) {
///       KRAIT_RETURN_IF_ERROR(advance_all(session, pointers_to_texts));
///       for (const Generation& text : texts) …text.events()…
///     }
///
/// Errors: bad_argument (a null pointer, a generation twice), and those of Session::run, such as
/// more texts or longer drafts than the session has room for: nothing has changed then, except by
/// not_finite, behind which the texts can only be released. An exception (of a constraint, or for
/// want of memory) comes after all others have had their step; the text whose it is can be
/// released.
KRAIT_API Result<void> advance_all(Session& session, std::span<Generation* const> texts);

/// Consumes all pending tokens of the sequence but the last: what its forks have in common, done
/// once. Of a text that was held back, nothing: it may yet be taken back. Errors: cancelled, and
/// those of Session::prefill.
KRAIT_API Result<void> prefill(Session& session, Sequence& sequence, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
