#pragma once

/// \file
/// Generation: a text that grows token by token, as an object.

#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/decoding/constraint.hpp"
#include "krait/decoding/draft.hpp"
#include "krait/decoding/drugs.hpp"
#include "krait/decoding/log_probs.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/decoding/sequence.hpp"
#include "krait/models/session.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

class Speculation;

/// What a generation does.
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
  /// Which tokens may be sampled, also when greedy. Cloned.
  std::shared_ptr<const Constraint> constraint = {};
  Acceptance acceptance = Acceptance::match;  ///< of what is proposed
  /// Noise inside the model, made for it by `Drugs::make`; its sequence is the sampler's. Passes of
  /// tokens that were sampled are noised; those of a prompt are not, so that the first token is
  /// what it would be without.
  std::shared_ptr<const Drugs> drugs = {};
  /// Proposes drafts, where `generate` runs the text. For one text at a time.
  std::shared_ptr<Speculation> speculation = {};
  /// How many of the most probable tokens to report beside each that was sampled; nothing: no
  /// log-probabilities at all.
  std::optional<Index> log_probs = {};
  /// Classifier-free guidance (guidance.hpp), where `generate` or `beam_search` runs the text: away
  /// from how `negative_prompt` would go on, or, where that is empty, the prompt's last token. 1 is
  /// off. The negative prompt is read anew by every call.
  double guidance_scale = 1.0;
  std::vector<Token> negative_prompt = {};
};

/// Whether every field is in its range; the sampler's are checked where it is made. Errors:
/// bad_argument, naming the first that is not.
KRAIT_API Result<void> validate(const GenerationOptions& options, const Model& model);

/// Why a text ended. `constraint`: no token is allowed behind it.
enum class FinishReason { max_tokens, stop_token, stop_string, cancelled, constraint };

/// "length", "stop_token", "stop_string", "cancelled", "constraint".
KRAIT_API std::string_view to_string(FinishReason reason) noexcept;

/// A token that became part of the text.
struct GenerationEvent {
  Token token = 0;        ///< just sampled
  std::string_view text;  ///< whole UTF-8 characters that became certain; may be empty
  Index count = 0;        ///< tokens sampled so far, this one included
};

/// What came out.
struct GenerationResult {
  /// Sampled tokens; a stop token is not among them, those of a stop string are.
  std::vector<Token> tokens;
  std::string text;  ///< as it was shown
  FinishReason reason = FinishReason::max_tokens;
  /// If they were asked for: of each of `tokens`, and behind them of the stop token that ended the
  /// text.
  std::vector<TokenLogProbs> log_probs;
  Index drafted = 0;   ///< tokens that were proposed and run
  Index accepted = 0;  ///< of these, those that became text
  /// Runs that a token was sampled from, which with `accepted` and `forced` is the number of all
  /// tokens, a stop token included.
  Index target_passes = 0;
  Index forced = 0;             ///< tokens that a constraint put there, of which none was sampled
  Index prompt_tokens = 0;      ///< tokens that were pending before the first was sampled
  double prompt_seconds = 0.0;  ///< time to the first logits, as `generate` measures it
  double decode_seconds = 0.0;  ///< time from there to the end
};

/// A text in the making: it says what to run next, takes the logits, and answers with tokens. It
/// runs nothing itself, so that one pass over the weights can serve several texts, each with its
/// own `RunItem`:
///
///     KRAIT_ASSIGN_OR_RETURN(Generation generation,
///                            Generation::make(model, tokenizer, std::move(sequence), options));
///     while (!generation.is_finished()) {
///       KRAIT_ASSIGN_OR_RETURN(const RunItem item, generation.next(session.options().chunk));
///       KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session.run({&item, 1}));
///       KRAIT_ASSIGN_OR_RETURN(const auto events, generation.accept(output.logits(0)));
///       for (const GenerationEvent& event : events) show(event.text);
///     }
///     show(generation.finish());
///
/// Several are run so by `advance_all` (generate.hpp).
///
/// Whoever can guess how the text goes on, for less than a step costs, proposes it. The next item
/// is then a tentative one, and after `accept` the session keeps what was right:
///
///     KRAIT_RETURN_IF_ERROR(generation.propose(draft));
///     … run and accept as above, then
///     if (item.tentative) {
///       KRAIT_RETURN_IF_ERROR(session.keep(generation.kept(), generation.state()));
///     }
///
/// It owns the sequence, sampler, constraint, stop strings and unfinished characters, and they move
/// together: a copy, made at any time, goes on like the original and independent of it; assigning
/// an earlier copy rolls all of it back; behind a stop string all of it stands where the string
/// begins. A copy costs a copy of the state, three with stop strings, and the sampler's memory.
/// (Between a tentative run and its `keep` a state is not what the text says, and a session keeps
/// once: then only one of the original and its copies can go on.)
///
/// `generate` says what the text, the tokens and the sequence are.
class KRAIT_API Generation {
 public:
  /// No limit to the tokens of a step.
  static constexpr Index all = std::numeric_limits<Index>::max();

  /// Begins behind the text of a sequence, of which at least one token must be pending. The
  /// sequence is taken only if this succeeds. The tokenizer must outlive the generation. Errors:
  /// bad_argument (options, sequence).
  static Result<Generation> make(const Model& model, const Tokenizer& tokenizer,
                                 Sequence&& sequence, const GenerationOptions& options = {});

  Generation(const Generation& other);
  Generation(Generation&& other) noexcept;
  Generation& operator=(const Generation& other);
  Generation& operator=(Generation&& other) noexcept;
  ~Generation();

  /// What to run next, of at most `most` tokens: a part of the prompt, for whose last token alone
  /// logits are wanted; or the token that was sampled last, and behind it what was proposed, as a
  /// tentative item that wants all logits (where `most` is 1, the token alone). No tokens once the
  /// text is finished. Valid until the next call that changes the generation. May be asked again:
  /// what the state has consumed meanwhile is left out. Errors: bad_argument (`most` below 1, a
  /// tentative run that was not accepted or not kept).
  Result<RunItem> next(Index most = all);

  /// What items run on. Nothing else may change it but `Session::keep`.
  State& state() noexcept;

  /// A guess how the text goes on behind the token that is to be run next. It takes the place of
  /// one before it, and holds for one step. What comes of it says `GenerationOptions::acceptance`:
  /// by `match` the same text with any guess and without, by `rejection` one of the same
  /// distribution, where `laws` are those that the tokens were drawn from (none: they were not
  /// drawn at random). Tokens beyond what the session can verify (`SessionOptions::max_verify`, one
  /// of which is the token before them) are an error of the run, which changes nothing. Errors:
  /// bad_argument (a finished text, a prompt of which more than its last token is to be run, no
  /// tokens, tokens out of range, laws that are none or by which a token of the draft cannot be
  /// drawn); nothing has changed then.
  Result<void> propose(std::span<const Token> draft, std::span<const TokenLaw> laws = {});

  /// Forgets what was proposed.
  void withdraw() noexcept;

  /// After an item, or the first tokens of it, has been run: takes its logits, rows of at least
  /// `vocab` elements, of which there must be one for every token of a tentative item; one (the
  /// last is taken) where the last token of a prompt or a sampled one was run; none is needed
  /// within a prompt. The tokens that became part of the text: none within a prompt and where the
  /// text ends with a stop token, one of a step, up to one more than were proposed, and behind it
  /// what a constraint forces. Their text is valid until the next call that changes the generation.
  /// Errors: bad_argument (a finished text, a state that has not consumed tokens of the item, too
  /// few logits); nothing has changed then. After an exception (no memory, or of the constraint)
  /// only `kept` and `release` make sense.
  Result<std::span<const GenerationEvent>> accept(MatrixView<const float> logits);

  /// The same with one row.
  Result<std::span<const GenerationEvent>> accept(std::span<const float> logits) {
    return accept(MatrixView<const float>(logits.data(), 1, std::ssize(logits)));
  }

  /// What the last `accept` returned; none once `next` was asked.
  std::span<const GenerationEvent> events() const noexcept;

  /// How many tokens of a tentative item are right: as many as were sampled from its logits, 0
  /// before they were accepted. To be given to `Session::keep` before anything else is done with
  /// the generation. If it never is, the state is lost: the generation cannot go on, and leaves a
  /// sequence that `validate` refuses (with stop strings, one that only has to be consumed again).
  Index kept() const noexcept;

  /// Whether the text has ended.
  bool is_finished() const noexcept;

  /// Ends the text where it stands, with the reason `cancelled`; one that ended with a stop token
  /// or a stop string keeps its reason.
  void cancel() noexcept;

  /// Closes the text, after `cancel` if it has not ended. What was held back and can be shown now;
  /// valid until the next call. The sequence is then as `generate` leaves it.
  std::string_view finish();

  /// Takes up a text that is closed, with more tokens behind it, and `max_tokens` more of its own
  /// at most; `result` begins anew. The constraint goes on, unless tokens were put behind the text
  /// or a stop token ended it: then it begins anew, too. Errors: bad_argument (a text that is not
  /// closed, tokens out of range, nothing pending); nothing has changed then.
  Result<void> resume(Index max_tokens, std::span<const Token> more = {});

  const GenerationResult& result() const& noexcept;
  GenerationResult result() && noexcept;

  /// The text so far. Until it is closed, what may be taken back is part of it.
  const Sequence& sequence() const noexcept;

  /// Gives the sequence back, whatever has happened; what was held back still waits. Of the
  /// generation nothing is left but to be assigned to.
  Sequence release() noexcept;

 private:
  class Impl;
  explicit Generation(std::unique_ptr<Impl> impl) noexcept;

  std::unique_ptr<Impl> impl_;
};

}  // namespace v0_1
}  // namespace krait
