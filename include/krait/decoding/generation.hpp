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
#include "krait/decoding/sampler.hpp"
#include "krait/decoding/sequence.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

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
};

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
  Index prompt_tokens = 0;      ///< tokens that were pending before the first was sampled
  double prompt_seconds = 0.0;  ///< time to the first logits, as `generate` measures it
  double decode_seconds = 0.0;  ///< time from there to the end
};

/// What a generation wants run.
struct GenerationStep {
  /// Consumed by the generation's state in this order; none once the text is finished. Valid until
  /// the next call that changes the generation.
  std::span<const Token> tokens;
  /// Whether the logits after the last of them are needed.
  bool wants_logits = false;
};

/// A text in the making: it says what to run next, takes the logits, and answers with a token. It
/// runs nothing itself, so that one pass over the weights can serve several:
///
///     KRAIT_ASSIGN_OR_RETURN(Generation generation,
///                            Generation::make(model, tokenizer, std::move(sequence), options));
///     while (!generation.is_finished()) {
///       const GenerationStep step = generation.next();
///       KRAIT_ASSIGN_OR_RETURN(const auto logits,
///                              session.prefill(step.tokens, generation.state()));
///       KRAIT_ASSIGN_OR_RETURN(const auto event, generation.accept(logits));
///       if (event) show(event->text);
///     }
///     show(generation.finish());
///
/// It owns the sequence, sampler, constraint, stop strings and unfinished characters, and they move
/// together: a copy, made at any time, goes on like the original and independent of it; assigning
/// an earlier copy rolls all of it back; behind a stop string all of it stands where the string
/// begins. A copy costs a copy of the state, three with stop strings, and the sampler's memory.
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

  /// The next tokens to run, at most `most` (≥ 1): a part of the prompt, or the token that was
  /// sampled last. May be asked again: what the state has consumed meanwhile is left out.
  GenerationStep next(Index most = all);

  /// What the tokens of a step are to be run on. Nothing else may change it.
  State& state() noexcept;

  /// After the tokens of a step, or the first of them, have been consumed: takes the logits after
  /// the last of them, of at least `vocab` elements, which only the last step of a prompt and those
  /// behind it need. The token that was sampled, if one became part of the text: not in the middle
  /// of a prompt, and not where the text ends with a stop token. Its text is valid until the next
  /// call. Errors: bad_argument (a finished text, a state that has not consumed tokens of the step,
  /// too few logits); nothing has changed then. After an exception (no memory, or of the
  /// constraint) only `release` makes sense.
  Result<std::optional<GenerationEvent>> accept(std::span<const float> logits);

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
