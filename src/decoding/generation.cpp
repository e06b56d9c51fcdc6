#include "krait/decoding/generation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/bad_argument.hpp"
#include "decoding/clone_ptr.hpp"
#include "decoding/noise_plan.hpp"
#include "decoding/rewind.hpp"
#include "decoding/text_before.hpp"
#include "decoding/text_stream.hpp"
#include "krait/decoding/rejection.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error misuse(std::string_view what, std::string_view expected, std::string_view found) {
  return bad_argument("generate", what, expected, found);
}

Result<void> check_count(Index max_tokens) {
  if (max_tokens >= 0) return {};
  return misuse("tokens", "a number of at least 0", fmt::to_string(max_tokens));
}

Result<void> check_tokens(std::string_view what, std::span<const Token> tokens, Index rows) {
  for (const Token token : tokens) {
    if (token < 0 || token >= rows) {
      return misuse(what, fmt::format("token ids from 0 to {}", rows - 1), fmt::to_string(token));
    }
  }
  return {};
}

Result<void> check_laws(std::span<const Token> draft, std::span<const TokenLaw> laws, Index vocab) {
  if (laws.empty()) return {};
  if (laws.size() != draft.size()) {
    return misuse("laws", fmt::format("{}, or none", draft.size()), fmt::to_string(laws.size()));
  }
  for (std::size_t i = 0; i < laws.size(); ++i) {
    KRAIT_RETURN_IF_ERROR(validate(laws[i], vocab));
    if (laws[i](draft[i]) > 0.0) continue;
    return misuse("law", fmt::format("one by which token {} can be drawn", draft[i]),
                  "a probability of 0");
  }
  return {};
}

Result<void> check(const Model& model, const Sequence& sequence, const GenerationOptions& options) {
  KRAIT_RETURN_IF_ERROR(validate(sequence));
  if (sequence.pending < 1) return misuse("prompt", "at least one token", "none");
  KRAIT_RETURN_IF_ERROR(validate(options, model));
  if (options.guidance_scale != 1.0) {
    return misuse("guidance scale", "1, where generate does not run the text",
                  fmt::to_string(options.guidance_scale));
  }
  return check_tokens("prompt", sequence.pending_tokens(), model.vocab_padded());
}

}  // namespace

Constraint::~Constraint() = default;

class Generation::Impl {
 public:
  Impl(const Model& model, const Tokenizer& tokenizer, const GenerationOptions& options)
      : tokenizer_(&tokenizer),
        vocab_(model.vocab()),
        rows_(model.vocab_padded()),
        options_(options),
        has_stops_(!std::ranges::all_of(options.stop_strings, &std::string::empty)),
        stream_(tokenizer, options.stop_strings) {
    if (options_.constraint) mask_ = TokenMask(vocab_);
  }

  Result<void> begin(const Sequence& sequence, bool restarts_constraint);
  void own(Sequence&& sequence) noexcept { sequence_ = std::move(sequence); }

  Result<RunItem> next(Index most);
  Result<void> propose(std::span<const Token> draft, std::span<const TokenLaw> laws);
  void withdraw() noexcept { proposed_.clear(); }
  Result<void> accept(MatrixView<const float> logits);
  void cancel() noexcept;
  std::string_view finish();
  Result<void> resume(Index max_tokens, std::span<const Token> more);
  Sequence release() noexcept;

  State& state() noexcept { return sequence_.state; }
  std::span<const GenerationEvent> events() const noexcept { return events_; }
  // Of a copy, whose events speak of the text of the original.
  void point_events() noexcept;
  Index kept() const noexcept { return kept_; }
  bool is_finished() const noexcept { return is_finished_; }
  GenerationResult& result() noexcept { return result_; }
  const Sequence& sequence() const noexcept { return sequence_; }

 private:
  // Tokens of the text that the state has consumed, whoever ran it.
  std::size_t consumed() const noexcept {
    return static_cast<std::size_t>(sequence_.state.position() - origin_);
  }
  // Whether a tentative run has left the state behind tokens that are none of the text.
  bool is_astray() const noexcept {
    return awaits_keep_
               ? std::ssize(sequence_.tokens) - 1 - forced_ != static_cast<Index>(consumed())
               : std::ssize(sequence_.tokens) < static_cast<Index>(consumed());
  }
  void update_pending() noexcept {
    if (is_astray()) return;
    const Index pending = std::ssize(sequence_.tokens) - static_cast<Index>(consumed());
    if (pending >= 0 && pending <= std::ssize(sequence_.tokens)) sequence_.pending = pending;
  }
  // Tokens that are to be consumed now: of a text that is not to grow, all but the last. What is
  // held back must stay pending, so that it can be taken back.
  Index runnable(const Sequence& sequence) const noexcept {
    if (options_.max_tokens > 0) return sequence.pending;
    return sequence.unshown > 0 ? 0 : std::max<Index>(0, sequence.pending - 1);
  }
  void end(FinishReason reason) noexcept {
    is_finished_ = true;
    result_.reason = reason;
  }
  // Whether nothing can follow the text.
  bool is_complete() const noexcept {
    return is_finished_ && result_.reason != FinishReason::max_tokens &&
           result_.reason != FinishReason::cancelled;
  }
  Cut cut() const noexcept { return cut_before(*tokenizer_, sequence_.tokens, stream_.unshown()); }

  Token sample(std::span<const float> logits, Token guess, const TokenLaw* law);
  bool take(std::span<const float> logits, Token guess, const TokenLaw* law);
  void show(Token token, std::string_view text);
  void drop_events() noexcept;
  void settle() noexcept;
  bool is_stop(Token token) const;
  void append(Token token);
  void put(Token token);
  bool force();
  void ask_constraint();
  void hold() noexcept;
  void take_back();
  void count_noised(Index passes) noexcept {
    if (is_noised_ && noise_->drugs().plan().state == DrugState::shower) sequence_.noised += passes;
  }

  const Tokenizer* tokenizer_;
  Index vocab_;
  Index rows_;
  GenerationOptions options_;
  bool has_stops_;
  Sequence sequence_;
  Index origin_ = 0;    // the position of a state before tokens[0]
  Index accepted_ = 0;  // tokens of the text that the state had consumed when it was looked at last
  std::vector<Token> proposed_;  // the pending token and the draft behind it; empty without one
  std::vector<TokenLaw> laws_;   // of the draft; empty: all one_hot
  Index kept_ = 0;               // tokens of the step that stay
  Index forced_ = 0;             // tokens of the step that were put behind them
  bool owes_forced_ = false;     // the text was cut where it may go on in one way only
  bool awaits_keep_ = false;     // the state has consumed more of the step than stays
  Sampler sampler_;
  ClonePtr<Constraint> constraint_;
  std::size_t constrained_from_ = 0;  // the first token that the constraint is about
  TokenMask mask_;                    // of the next token, if there is a constraint
  TextStream stream_;
  std::optional<DrugHook> noise_;  // without doses none
  std::optional<Rewind> rewind_;   // without stop strings nothing is taken back
  std::string resumed_;            // what was held back before and goes in front of the first event
  std::string text_;               // of the last events
  std::vector<GenerationEvent> events_;
  std::vector<std::size_t> event_ends_;  // in text_
  GenerationResult result_;
  bool is_finished_ = false;
  bool is_noised_ = false;  // the step that was asked for last
  bool is_open_ = false;    // text was sampled that sequence_.unshown does not know of
  bool is_closed_ = false;
};

// All that follows from the text so far, which is not changed.
Result<void> Generation::Impl::begin(const Sequence& sequence, bool restarts_constraint) {
  KRAIT_ASSIGN_OR_RETURN(sampler_, Sampler::make(options_.sampler, vocab_));
  sampler_.observe(sequence.tokens);
  origin_ = sequence.state.position() - std::ssize(sequence.tokens) + sequence.pending;
  stream_ = TextStream(*tokenizer_, options_.stop_strings);
  resumed_ = stream_.resume(sequence.tokens, static_cast<std::size_t>(sequence.unshown));
  rewind_.reset();
  proposed_.clear();
  drop_events();
  kept_ = forced_ = 0;
  awaits_keep_ = false;
  accepted_ = std::ssize(sequence.tokens) - sequence.pending;
  if (has_stops_ && options_.max_tokens > 0) {
    rewind_.emplace(sequence, static_cast<std::size_t>(accepted_));
  }
  noise_.reset();
  is_noised_ = false;
  if (options_.drugs && !options_.drugs->is_sober()) {
    noise_.emplace(options_.drugs, options_.sampler.sequence);
  }
  result_ = {};
  result_.prompt_tokens = sequence.pending;
  is_finished_ = is_open_ = is_closed_ = false;
  if (options_.constraint) {
    constraint_ = options_.constraint->clone();
    if (restarts_constraint) constrained_from_ = sequence.tokens.size();
    for (std::size_t i = constrained_from_; i < sequence.tokens.size(); ++i) {
      constraint_->accept(sequence.tokens[i]);
    }
  }
  owes_forced_ = options_.constraint && constrained_from_ < sequence.tokens.size();
  if (options_.max_tokens > 0) {
    ask_constraint();
  } else if (runnable(sequence) == 0) {
    end(FinishReason::max_tokens);
  }
  return {};
}

Result<RunItem> Generation::Impl::next(Index most) {
  if (most < 1) return misuse("next", "at least 1 token", fmt::to_string(most));
  drop_events();
  if (is_finished_) {
    return RunItem{.tokens = {}, .state = &sequence_.state, .logits = RunItem::Logits::none};
  }
  if (is_astray()) {
    return misuse("state",
                  fmt::format("one that has consumed {} tokens, by accept and keep", accepted_),
                  fmt::to_string(consumed()));
  }
  update_pending();
  if (noise_ && sequence_.noised >= noise_->drugs().most_noised()) {
    make_clean(sequence_);
    accepted_ = static_cast<Index>(consumed());
  }
  if (awaits_keep_ && rewind_) rewind_->note(sequence_, consumed(), cut().tokens);
  awaits_keep_ = false;
  kept_ = 0;
  // Room for the tokens that come of it, before the state advances to where they are needed.
  std::vector<Token>& tokens = sequence_.tokens;
  const std::size_t room = tokens.size() + std::max<std::size_t>(1, proposed_.size());
  if (room > tokens.capacity()) tokens.reserve(2 * tokens.size() + room + 16);
  sequence_.sampled.reserve(sequence_.sampled.size() + 1);
  if (noise_) {
    const NoisedStep plan = plan_noise(sequence_, noise_->drugs(), most);
    is_noised_ = plan.is_noised;
    most = plan.most;
  }
  const bool has_draft = !proposed_.empty() && most > 1 && sequence_.pending == 1;
  const std::span<const Token> step =
      has_draft ? std::span<const Token>(proposed_)
                : sequence_.pending_tokens().first(static_cast<std::size_t>(runnable(sequence_)));
  const Index count = std::min(most, std::ssize(step));
  RunItem item{.tokens = step.first(static_cast<std::size_t>(count)), .state = &sequence_.state};
  if (is_noised_) {
    item.hook = &*noise_;
    item.clean = noise_->drugs().plan().state == DrugState::clean;
  }
  if (has_draft) {
    item.logits = RunItem::Logits::all;
    item.tentative = true;
  } else if (count < sequence_.pending) {
    item.logits = RunItem::Logits::none;
  }
  return item;
}

Result<void> Generation::Impl::propose(std::span<const Token> draft,
                                       std::span<const TokenLaw> laws) {
  if (is_finished_) return misuse("generation", "one that goes on", "one that is finished");
  if (draft.empty()) return misuse("draft", "at least one token", "none");
  KRAIT_RETURN_IF_ERROR(check_tokens("draft", draft, rows_));
  KRAIT_RETURN_IF_ERROR(check_laws(draft, laws, vocab_));
  const Index pending = std::ssize(sequence_.tokens) - static_cast<Index>(consumed());
  if (is_astray() || pending != 1) {
    return misuse("draft", "a text of which one token is to be run next",
                  is_astray() ? "one whose state waits for accept and keep"
                              : fmt::format("one of which {} are", pending));
  }
  std::vector<Token> proposed;
  proposed.reserve(1 + draft.size());
  proposed.push_back(sequence_.tokens.back());
  proposed.insert(proposed.end(), draft.begin(), draft.end());
  laws_.assign(laws.begin(), laws.end());
  proposed_.swap(proposed);
  return {};
}

Result<void> Generation::Impl::accept(MatrixView<const float> logits) {
  if (is_finished_) return misuse("generation", "one that goes on", "one that is finished");
  const Index known = std::ssize(sequence_.tokens);
  const Index now = sequence_.state.position() - origin_;
  const Index drafted = std::max<Index>(1, std::ssize(proposed_)) - 1;
  const Index most = options_.max_tokens > 0 ? known + drafted : known - 1;
  if (awaits_keep_ || now <= accepted_ || now > most) {
    return misuse("state",
                  fmt::format("one that has consumed 1 to {} tokens more", most - accepted_),
                  fmt::to_string(now - accepted_));
  }
  const Index rows = now < known ? 0 : now - known + 1;
  if (logits.rows < rows) {
    return misuse("logits", fmt::format("at least {} rows", rows), fmt::to_string(logits.rows));
  }
  if (rows > 0 && logits.cols < vocab_) {
    return misuse("logits", fmt::format("at least {}", vocab_), fmt::to_string(logits.cols));
  }
  drop_events();
  kept_ = forced_ = 0;
  if (rows == 0) {
    count_noised(now - accepted_);
    accepted_ = now;
    update_pending();
    if (runnable(sequence_) == 0) end(FinishReason::max_tokens);
    return {};
  }
  const Index before = accepted_;
  accepted_ = known;  // with the first of the rows
  awaits_keep_ = rows > 1;
  constexpr Token none = -1;
  for (Index row = 0; row < rows; ++row) {
    const auto at = static_cast<std::size_t>(row);
    const Token guess = row + 1 < rows ? proposed_[at + 1] : none;
    const TokenLaw* const law = at < laws_.size() && row + 1 < rows ? &laws_[at] : nullptr;
    if (!take(logits.row(logits.rows - rows + row), guess, law)) break;
    ++accepted_;
  }
  ++result_.target_passes;
  result_.drafted += rows - 1;
  result_.accepted += kept_ - 1;
  count_noised(known - before + kept_ - 1);
  awaits_keep_ = kept_ < rows;
  proposed_.clear();
  if (awaits_keep_) sequence_.pending = 1 + forced_;  // once it is kept
  update_pending();
  point_events();
  return {};
}

// Samples from the logits after all of the text. Whether the text goes on with what was guessed, so
// that the logits after the guess are those after the text.
bool Generation::Impl::take(std::span<const float> logits, Token guess, const TokenLaw* law) {
  if (std::exchange(owes_forced_, false) && force()) {
    ++kept_;
    --forced_;  // the first stands for what would have been sampled, also in the sums
    --result_.forced;
    return false;
  }
  const Token token = sample(logits, guess, law);
  if (options_.log_probs) {
    result_.log_probs.push_back(
        log_probs_of(logits.first(static_cast<std::size_t>(vocab_)), token, *options_.log_probs));
  }
  if (is_stop(token)) {
    // The text goes on from the token before, which has been consumed; so it is the stop token
    // that is pending, as a separator in front of whatever is appended.
    ++kept_;
    append(token);
    end(FinishReason::stop_token);
    return false;
  }
  ++kept_;
  put(token);
  if (!is_finished_ && force()) return false;
  return !is_finished_ && token == guess;
}

// A stop token may be the end of a stop string as well, which takes back what is before it.
bool Generation::Impl::is_stop(Token token) const {
  return std::ranges::find(options_.stop_tokens, token) != options_.stop_tokens.end() &&
         !stream_.completes_stop(token);
}

// The token becomes part of the text.
void Generation::Impl::put(Token token) {
  append(token);
  is_open_ = true;
  const std::string_view text = stream_.push(token);
  // Within a tentative step the state is ahead of the text; it is noted once it is kept.
  if (rewind_ && consumed() + 1 == sequence_.tokens.size()) {
    rewind_->note(sequence_, consumed(), cut().tokens);
  }
  sampler_.observe({&token, 1});
  result_.tokens.push_back(token);
  show(token, text);
  if (stream_.stopped()) return end(FinishReason::stop_string);
  if (constraint_) constraint_->accept(token);
  if (std::ssize(result_.tokens) == options_.max_tokens) return end(FinishReason::max_tokens);
  ask_constraint();
}

// What can go on in one way only does so: it is run in one pass with the token that was sampled.
// Log-probabilities need the logits of every token.
bool Generation::Impl::force() {
  if (!constraint_ || options_.log_probs) return false;
  for (const Token token : constraint_->forced()) {
    if (is_finished_ || is_stop(token)) break;
    ++forced_;  // the state is none of these tokens' concern
    put(token);
  }
  result_.forced += forced_;
  return forced_ > 0;
}

// From the logits after all of the text. By matching, the model's own draw comes next in any case.
Token Generation::Impl::sample(std::span<const float> logits, Token guess, const TokenLaw* law) {
  const Index position = origin_ + std::ssize(sequence_.tokens);
  if (options_.acceptance == Acceptance::rejection && guess >= 0) {
    KeyedOracle oracle(options_.sampler, position, 0);
    const TokenLaw p =
        constraint_ ? sampler_.law(logits, position, mask_) : sampler_.law(logits, position);
    const TokenLaw q = law != nullptr ? *law : TokenLaw::one_hot(guess);
    return review_guess(p, guess, q, 1.0, oracle).token;
  }
  if (!constraint_) return sampler_.sample(logits, position);
  return *sampler_.sample(logits, position, mask_);  // which allows some, or the text had ended
}

void Generation::Impl::append(Token token) {
  sequence_.push_sampled(token);
  update_pending();
}

void Generation::Impl::show(Token token, std::string_view text) {
  const std::size_t before = text_.size();
  text_ += std::exchange(resumed_, {});
  text_ += text;
  result_.text.append(text_, before);
  event_ends_.push_back(text_.size());
  events_.push_back({token, {}, std::ssize(result_.tokens)});
}

void Generation::Impl::point_events() noexcept {
  std::size_t first = 0;
  for (std::size_t i = 0; i < events_.size(); ++i) {
    events_[i].text = std::string_view(text_).substr(first, event_ends_[i] - first);
    first = event_ends_[i];
  }
}

void Generation::Impl::drop_events() noexcept {
  events_.clear();
  event_ends_.clear();
  text_.clear();
}

// Before the last token is run: where nothing can follow, that is not needed.
void Generation::Impl::ask_constraint() {
  if (!constraint_) return;
  mask_.allow_all();
  constraint_->restrict_to(mask_);
  if (!mask_.allows_any()) end(FinishReason::constraint);
}

void Generation::Impl::cancel() noexcept {
  if (!is_closed_ && !is_complete()) end(FinishReason::cancelled);
}

std::string_view Generation::Impl::finish() {
  if (is_closed_) return {};
  if (!is_finished_) cancel();
  settle();
  drop_events();
  // Where nothing was sampled, what waited before waits on.
  const bool is_shown = is_complete() || (is_open_ && !options_.hold_back);
  if (is_shown) {
    if (stream_.stopped()) take_back();
    sequence_.unshown = 0;
  } else if (is_open_) {
    hold();
  }
  is_open_ = false;
  is_closed_ = true;
  if (is_shown) {
    text_ = std::exchange(resumed_, {});
    text_ += stream_.finish(is_complete());
    result_.text += text_;
  }
  return text_;
}

// Before the text is closed. A state that was not kept is lost: one of before takes its place, or
// the sequence says so.
void Generation::Impl::settle() noexcept {
  proposed_.clear();
  if (is_astray()) {
    sequence_.pending = -1;
    if (!rewind_) return;
    rewind_->restore(sequence_);
  }
  awaits_keep_ = false;
  update_pending();
}

// The text goes on one day: what may begin a stop string waits, and can still be taken back.
void Generation::Impl::hold() noexcept {
  sequence_.unshown = static_cast<Index>(stream_.unshown());
  if (sequence_.unshown > 0 && consumed() >= cut().tokens) rewind_->restore(sequence_);
  update_pending();
}

// Leaves in the sequence what was shown, the last of it pending.
void Generation::Impl::take_back() {
  Cut kept = cut();
  std::vector<Token> part = tokens_of_part(*tokenizer_, kept.part);
  sequence_.tokens.reserve(kept.tokens + part.size());
  const auto is_beyond = [&] { return consumed() + (part.empty() ? 1 : 0) > kept.tokens; };
  if (is_beyond()) rewind_->restore(sequence_);
  if (is_beyond()) {  // consumed since it was held back, by a run that was cancelled
    kept.tokens = consumed() + 1;
    part.clear();
  }
  sequence_.tokens.resize(kept.tokens);
  for (const Token token : part) sequence_.push_sampled(token);
  sequence_.forget_marks();
  update_pending();
}

Result<void> Generation::Impl::resume(Index max_tokens, std::span<const Token> more) {
  if (!is_closed_) return misuse("generation", "one that is closed", "one that goes on");
  update_pending();
  KRAIT_RETURN_IF_ERROR(validate(sequence_));
  KRAIT_RETURN_IF_ERROR(check_count(max_tokens));
  KRAIT_RETURN_IF_ERROR(check_tokens("prompt", more, rows_));
  if (sequence_.pending < 1 && more.empty()) return misuse("prompt", "at least one token", "none");
  const bool is_new = !more.empty() || result_.reason == FinishReason::stop_token;
  sequence_.append(more);
  options_.max_tokens = max_tokens;
  return begin(sequence_, is_new);
}

// Left by an error or an exception, the text goes on one day, or, behind a stop, ends.
Sequence Generation::Impl::release() noexcept {
  settle();
  if (is_complete()) {
#if KRAIT_HAS_EXCEPTIONS
    try {
      finish();
    } catch (...) {  // no memory for the part of a token
    }
#else
    finish();
#endif
  }
  if (is_open_) hold();
  return std::move(sequence_);
}

Generation::Generation(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Generation::Generation(const Generation& other)
    : impl_(other.impl_ ? std::make_unique<Impl>(*other.impl_) : nullptr) {
  if (impl_) impl_->point_events();
}
Generation::Generation(Generation&& other) noexcept = default;
Generation& Generation::operator=(const Generation& other) {
  if (this != &other) *this = Generation(other);
  return *this;
}
Generation& Generation::operator=(Generation&& other) noexcept = default;
Generation::~Generation() = default;

Result<Generation> Generation::make(const Model& model, const Tokenizer& tokenizer,
                                    Sequence&& sequence, const GenerationOptions& options) {
  KRAIT_RETURN_IF_ERROR(check(model, sequence, options));
  auto impl = std::make_unique<Impl>(model, tokenizer, options);
  KRAIT_RETURN_IF_ERROR(impl->begin(sequence, true));
  impl->own(std::move(sequence));
  return Generation(std::move(impl));
}

Result<RunItem> Generation::next(Index most) { return impl_->next(most); }
State& Generation::state() noexcept { return impl_->state(); }
Result<void> Generation::propose(std::span<const Token> draft, std::span<const TokenLaw> laws) {
  return impl_->propose(draft, laws);
}
void Generation::withdraw() noexcept { impl_->withdraw(); }
Result<std::span<const GenerationEvent>> Generation::accept(MatrixView<const float> logits) {
  KRAIT_RETURN_IF_ERROR(impl_->accept(logits));
  return impl_->events();
}
std::span<const GenerationEvent> Generation::events() const noexcept { return impl_->events(); }
Index Generation::kept() const noexcept { return impl_->kept(); }
bool Generation::is_finished() const noexcept { return impl_->is_finished(); }
void Generation::cancel() noexcept { impl_->cancel(); }
std::string_view Generation::finish() { return impl_->finish(); }
Result<void> Generation::resume(Index max_tokens, std::span<const Token> more) {
  return impl_->resume(max_tokens, more);
}
const GenerationResult& Generation::result() const& noexcept { return impl_->result(); }
GenerationResult Generation::result() && noexcept { return std::move(impl_->result()); }
const Sequence& Generation::sequence() const noexcept { return impl_->sequence(); }
Sequence Generation::release() noexcept {
  Sequence sequence = impl_->release();
  impl_.reset();
  return sequence;
}

}  // namespace v0_1
}  // namespace krait
