#include "krait/decoding/generation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "decoding/clone_ptr.hpp"
#include "decoding/text_stream.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// States from before the tokens that a stop string may yet take back. A copy is taken every few
// dozen tokens, so that it costs little, and little is consumed again after a stop.
class Rewind {
 public:
  Rewind(const State& state, std::size_t consumed) : safe_{state, consumed} {}

  // Before `state`, which has consumed so many tokens, consumes the next one. `kept` tokens are
  // certain to stay.
  void note(const State& state, std::size_t consumed, std::size_t kept) {
    if (!is_waiting_ && consumed >= safe_.consumed + interval) {
      if (waiting_.state.layout() == nullptr) {
        waiting_.state = state;
      } else {
        waiting_.state.copy_from(state);
      }
      waiting_.consumed = consumed;
      is_waiting_ = true;
    }
    if (is_waiting_ && waiting_.consumed < kept) {
      std::swap(safe_, waiting_);
      is_waiting_ = false;
    }
  }

  // The last state before a token that is certain to stay. Once.
  void restore(State& state) noexcept { std::swap(state, safe_.state); }

 private:
  static constexpr std::size_t interval = 64;

  struct Copy {
    State state;
    std::size_t consumed = 0;
  };
  Copy safe_;
  Copy waiting_;  // becomes safe_ once a token behind it is certain to stay
  bool is_waiting_ = false;
};

Error bad(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_argument,
          fmt::format("[generate] {}: expected {}, found {}", what, expected, found)};
}

Result<void> check_count(Index max_tokens) {
  if (max_tokens >= 0) return {};
  return bad("tokens", "a number of at least 0", fmt::to_string(max_tokens));
}

Result<void> check_tokens(std::span<const Token> tokens, Index rows) {
  for (const Token token : tokens) {
    if (token < 0 || token >= rows) {
      return bad("prompt", fmt::format("token ids from 0 to {}", rows - 1), fmt::to_string(token));
    }
  }
  return {};
}

Result<void> check(const Model& model, const Sequence& sequence, const GenerationOptions& options) {
  KRAIT_RETURN_IF_ERROR(validate(sequence));
  if (sequence.pending < 1) return bad("prompt", "at least one token", "none");
  KRAIT_RETURN_IF_ERROR(check_count(options.max_tokens));
  return check_tokens(sequence.pending_tokens(), model.vocab_padded());
}

}  // namespace

Constraint::~Constraint() = default;

std::string_view to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::max_tokens:
      return "length";
    case FinishReason::stop_token:
      return "stop_token";
    case FinishReason::stop_string:
      return "stop_string";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::constraint:
      return "constraint";
  }
  return "";
}

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

  GenerationStep next(Index most);
  Result<std::optional<GenerationEvent>> accept(std::span<const float> logits);
  void cancel() noexcept;
  std::string_view finish();
  Result<void> resume(Index max_tokens, std::span<const Token> more);
  Sequence release() noexcept;

  State& state() noexcept { return sequence_.state; }
  bool is_finished() const noexcept { return is_finished_; }
  GenerationResult& result() noexcept { return result_; }
  const Sequence& sequence() const noexcept { return sequence_; }

 private:
  // Tokens of the text that the state has consumed, whoever ran it.
  std::size_t consumed() const noexcept {
    return static_cast<std::size_t>(sequence_.state.position() - origin_);
  }
  void update_pending() noexcept {
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

  Token sample(std::span<const float> logits);
  void append(Token token);
  void ask_constraint();
  void hold() noexcept;
  void take_back();
  std::vector<Token> encode_part(std::string_view part) const;

  const Tokenizer* tokenizer_;
  Index vocab_;
  Index rows_;
  GenerationOptions options_;
  bool has_stops_;
  Sequence sequence_;
  Index origin_ = 0;    // the position of a state before tokens[0]
  Index accepted_ = 0;  // tokens that the state had consumed when it was looked at last
  Sampler sampler_;
  ClonePtr<Constraint> constraint_;
  std::size_t constrained_from_ = 0;  // the first token that the constraint is about
  TokenMask mask_;                    // of the next token, if there is a constraint
  TextStream stream_;
  std::optional<Rewind> rewind_;  // without stop strings nothing is taken back
  std::string resumed_;           // what was held back before and goes in front of the first event
  std::string text_;              // of the last event
  GenerationResult result_;
  bool is_finished_ = false;
  bool is_open_ = false;  // text was sampled that sequence_.unshown does not know of
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
  accepted_ = std::ssize(sequence.tokens) - sequence.pending;
  if (has_stops_ && options_.max_tokens > 0) {
    rewind_.emplace(sequence.state, static_cast<std::size_t>(accepted_));
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
  if (options_.max_tokens > 0) {
    ask_constraint();
  } else if (runnable(sequence) == 0) {
    end(FinishReason::max_tokens);
  }
  return {};
}

GenerationStep Generation::Impl::next(Index most) {
  if (is_finished_) return {};
  update_pending();
  // Room for the token that comes of it, before the state advances to where it is needed.
  std::vector<Token>& tokens = sequence_.tokens;
  if (tokens.size() == tokens.capacity()) tokens.reserve(2 * tokens.size() + 16);
  const Index count = std::clamp<Index>(most, 0, runnable(sequence_));
  return {sequence_.pending_tokens().first(static_cast<std::size_t>(count)),
          count == sequence_.pending};
}

Result<std::optional<GenerationEvent>> Generation::Impl::accept(std::span<const float> logits) {
  if (is_finished_) return bad("generation", "one that goes on", "one that is finished");
  const Index known = std::ssize(sequence_.tokens);
  const Index now = sequence_.state.position() - origin_;
  update_pending();
  const Index most = options_.max_tokens > 0 ? known : known - 1;
  if (now <= accepted_ || now > most) {
    return bad("state", fmt::format("one that has consumed 1 to {} tokens more", most - accepted_),
               fmt::to_string(now - accepted_));
  }
  if (now == known && std::ssize(logits) < vocab_) {
    return bad("logits", fmt::format("at least {}", vocab_), fmt::to_string(logits.size()));
  }
  accepted_ = now;
  if (now < known) {
    if (runnable(sequence_) == 0) end(FinishReason::max_tokens);
    return std::optional<GenerationEvent>();
  }

  const Token token = sample(logits);
  // A stop token may be the end of a stop string as well, which takes back what is before it.
  if (std::ranges::find(options_.stop_tokens, token) != options_.stop_tokens.end() &&
      !stream_.completes_stop(token)) {
    // The text goes on from the token before, which has been consumed; so it is the stop token
    // that is pending, as a separator in front of whatever is appended.
    append(token);
    end(FinishReason::stop_token);
    return std::optional<GenerationEvent>();
  }
  append(token);
  is_open_ = true;
  const std::string_view text = stream_.push(token);
  if (rewind_) rewind_->note(sequence_.state, consumed(), cut().tokens);
  sampler_.observe({&token, 1});
  result_.tokens.push_back(token);
  text_ = std::exchange(resumed_, {});
  text_ += text;
  result_.text += text_;
  const auto count = static_cast<Index>(result_.tokens.size());
  if (stream_.stopped()) {
    end(FinishReason::stop_string);
  } else {
    if (constraint_) constraint_->accept(token);
    if (count == options_.max_tokens) {
      end(FinishReason::max_tokens);
    } else {
      ask_constraint();
    }
  }
  return std::optional(GenerationEvent{token, text_, count});
}

// From the logits after all of the text.
Token Generation::Impl::sample(std::span<const float> logits) {
  const Index position = sequence_.state.position();
  if (!constraint_) return sampler_.sample(logits, position);
  return *sampler_.sample(logits, position, mask_);  // which allows some, or the text had ended
}

void Generation::Impl::append(Token token) {
  sequence_.tokens.push_back(token);
  update_pending();
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
  update_pending();
  text_.clear();
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

// The text goes on one day: what may begin a stop string waits, and can still be taken back.
void Generation::Impl::hold() noexcept {
  sequence_.unshown = static_cast<Index>(stream_.unshown());
  if (sequence_.unshown > 0 && consumed() >= cut().tokens) rewind_->restore(sequence_.state);
  update_pending();
}

// Leaves in the sequence what was shown, the last of it pending.
void Generation::Impl::take_back() {
  Cut kept = cut();
  std::vector<Token> part = encode_part(kept.part);
  sequence_.tokens.reserve(kept.tokens + part.size());
  const auto is_beyond = [&] { return consumed() + (part.empty() ? 1 : 0) > kept.tokens; };
  if (is_beyond()) rewind_->restore(sequence_.state);
  if (is_beyond()) {  // consumed since it was held back, by a run that was cancelled
    kept.tokens = consumed() + 1;
    part.clear();
  }
  sequence_.tokens.resize(kept.tokens);
  sequence_.tokens.insert(sequence_.tokens.end(), part.begin(), part.end());
  update_pending();
}

// The beginning of a token, as tokens; nothing if the tokenizer has none for exactly this.
std::vector<Token> Generation::Impl::encode_part(std::string_view part) const {
  if (part.empty()) return {};
  if (const auto token = tokenizer_->find(part)) return {*token};
  const auto tokens = tokenizer_->encode(part);
  return tokens && tokenizer_->decode(*tokens) == part ? *tokens : std::vector<Token>();
}

Result<void> Generation::Impl::resume(Index max_tokens, std::span<const Token> more) {
  if (!is_closed_) return bad("generation", "one that is closed", "one that goes on");
  KRAIT_RETURN_IF_ERROR(check_count(max_tokens));
  KRAIT_RETURN_IF_ERROR(check_tokens(more, rows_));
  if (sequence_.pending < 1 && more.empty()) return bad("prompt", "at least one token", "none");
  const bool is_new = !more.empty() || result_.reason == FinishReason::stop_token;
  sequence_.append(more);
  options_.max_tokens = max_tokens;
  return begin(sequence_, is_new);
}

// Left by an error or an exception, the text goes on one day, or, behind a stop, ends.
Sequence Generation::Impl::release() noexcept {
  update_pending();
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
    : impl_(other.impl_ ? std::make_unique<Impl>(*other.impl_) : nullptr) {}
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

GenerationStep Generation::next(Index most) { return impl_->next(most); }
State& Generation::state() noexcept { return impl_->state(); }
Result<std::optional<GenerationEvent>> Generation::accept(std::span<const float> logits) {
  return impl_->accept(logits);
}
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
