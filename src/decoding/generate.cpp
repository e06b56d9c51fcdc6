#include "krait/decoding/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "krait/decoding/stop.hpp"
#include "krait/text/stream_decoder.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Where the last `bytes` bytes of a text begin: behind `tokens` whole tokens and `part`, the
// beginning of the next one.
struct Cut {
  std::size_t tokens = 0;
  std::string_view part;
};

Cut cut_before(const Tokenizer& tokenizer, std::span<const Token> tokens, std::size_t bytes) {
  std::size_t count = tokens.size();
  while (bytes > 0 && count > 0) {
    const Token token = tokens[--count];
    const std::string_view last = tokenizer.bytes(token);
    if (last.size() > bytes) {
      return {count, tokenizer.is_special(token) ? "" : last.substr(0, last.size() - bytes)};
    }
    bytes -= last.size();
  }
  return {count, {}};
}

// Tokens to whole characters, up to a stop string. Stop strings see special tokens, readers do not.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
      : tokenizer_(tokenizer), stops_(stops) {}

  // Takes up a text of which the last `unshown` bytes were held back. What of them can be shown
  // now; valid until the next call.
  std::string_view resume(std::span<const Token> tokens, std::size_t unshown) {
    constexpr std::size_t character = 3;  // bytes that may lack the last one of their character
    std::size_t first = tokens.size();
    for (std::size_t size = 0; first > 0 && size < unshown + character;) {
      size += tokenizer_.bytes(tokens[--first]).size();
    }
    std::string text;
    for (const Token token : tokens.subspan(first)) {
      text += tokenizer_.bytes(token);
      marks_.resize(text.size(), tokenizer_.is_special(token) ? 0 : 1);
    }
    const std::string_view waiting =
        std::string_view(text).substr(text.size() - std::min(unshown, text.size()));
    stops_.prime(waiting);
    show(std::string_view(text).substr(0, text.size() - waiting.size()));
    return show(waiting.substr(0, waiting.size() - stops_.held()));
  }

  std::string_view push(Token token) {
    const std::string_view bytes = tokenizer_.bytes(token);
    if (stops_.longest() == 0) {
      return decoder_.push(tokenizer_.is_special(token) ? "" : bytes);
    }
    marks_.append(bytes.size(), tokenizer_.is_special(token) ? 0 : 1);
    return show(stops_.push(bytes));
  }

  bool stopped() const noexcept { return stops_.stopped(); }

  // Whether a stop string that began before the token ends with it.
  bool completes_stop(Token token) const {
    return stops_.held() > 0 && stops_.completes(tokenizer_.bytes(token));
  }

  // Bytes at the end of the text that are not decided; once stopped, all from the stop string on.
  std::size_t unshown() const noexcept { return stops_.held(); }

  // At the end of a text, whose end is then decided: what was held back. A character that is not
  // complete is an error there, and shown as one; in a text that goes on its rest will come.
  std::string finish(bool is_complete) {
    std::string rest(show(stops_.finish()));
    if (is_complete) rest += decoder_.finish();
    return rest;
  }

 private:
  std::string_view show(std::string_view bytes) {
    shown_.clear();
    for (std::size_t at = 0; at < bytes.size();) {
      std::size_t end = at + 1;
      while (end < bytes.size() && marks_[end] == marks_[at]) ++end;
      if (marks_[at] != 0) shown_ += decoder_.push(bytes.substr(at, end - at));
      at = end;
    }
    marks_.erase(0, bytes.size());
    return shown_;
  }

  const Tokenizer& tokenizer_;
  StopMatcher stops_;
  StreamDecoder decoder_;
  std::string marks_;  // of the bytes that stops_ holds: 1 for those that readers see
  std::string shown_;
};

// How much of its text a sequence's state has consumed. Keeps `pending` right, however a run ends:
// a callback may throw.
class Consumption {
 public:
  explicit Consumption(Sequence& sequence)
      : sequence_(sequence),
        begin_(sequence.state.position() - std::ssize(sequence.tokens) + sequence.pending) {}
  ~Consumption() { update(); }
  Consumption(const Consumption&) = delete;
  Consumption& operator=(const Consumption&) = delete;

  std::size_t tokens() const noexcept {
    return static_cast<std::size_t>(sequence_.state.position() - begin_);
  }
  void update() noexcept {
    sequence_.pending = static_cast<Index>(sequence_.tokens.size() - tokens());
  }

 private:
  Sequence& sequence_;
  Index begin_;  // the position of a state before tokens[0]
};

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

// The text of a generation while it grows, and what may have to be taken back of it.
class Writing {
 public:
  Writing(const Tokenizer& tokenizer, Sequence& sequence, const std::vector<std::string>& stops)
      : tokenizer_(tokenizer), sequence_(sequence), consumed_(sequence), stream_(tokenizer, stops) {
    const bool has_stops = !std::ranges::all_of(stops, &std::string::empty);
    if (has_stops) rewind_.emplace(sequence.state, consumed_.tokens());
  }
  // Left by an error or an exception, the text goes on one day, or, behind a stop string, ends.
  ~Writing() {
    if (!is_open_) return;
    if (!stopped()) {
      hold();
      return;
    }
#if KRAIT_HAS_EXCEPTIONS
    try {
      take_back();
    } catch (...) {  // no memory for the part of a token
      hold();
    }
#else
    take_back();
#endif
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

  // What an earlier generation held back and can be shown now.
  std::string begin() {
    return std::string(
        stream_.resume(sequence_.tokens, static_cast<std::size_t>(sequence_.unshown)));
  }

  // Makes room for a token, before the state advances to where it is needed.
  void reserve() {
    std::vector<Token>& tokens = sequence_.tokens;
    if (tokens.size() == tokens.capacity()) tokens.reserve(2 * tokens.size() + 16);
  }

  // What can be shown now.
  std::string_view push(Token token) {
    append(token);
    is_open_ = true;
    const std::string_view text = stream_.push(token);
    if (rewind_) rewind_->note(sequence_.state, consumed_.tokens(), cut().tokens);
    return text;
  }

  // Behind what was pushed, without being part of the text.
  void append(Token token) {
    sequence_.tokens.push_back(token);
    consumed_.update();
  }

  // The text ends here. What was held back is shown, or, behind a stop string, taken back.
  std::string finish(bool is_complete) {
    if (stream_.stopped()) take_back();
    is_open_ = false;
    sequence_.unshown = 0;
    return stream_.finish(is_complete);
  }

  // The text goes on one day: what may begin a stop string waits, and can still be taken back.
  void hold() noexcept {
    is_open_ = false;
    sequence_.unshown = static_cast<Index>(stream_.unshown());
    if (sequence_.unshown > 0 && consumed_.tokens() >= cut().tokens) {
      rewind_->restore(sequence_.state);
    }
  }

  bool stopped() const noexcept { return stream_.stopped(); }

  // Whether a stop string that began before the token ends with it.
  bool completes_stop(Token token) const { return stream_.completes_stop(token); }

 private:
  Cut cut() const noexcept { return cut_before(tokenizer_, sequence_.tokens, stream_.unshown()); }

  // Leaves in the sequence what was shown, the last of it pending.
  void take_back() {
    Cut kept = cut();
    std::vector<Token> part = encode_part(kept.part);
    const auto is_beyond = [&] {
      return consumed_.tokens() + (part.empty() ? 1 : 0) > kept.tokens;
    };
    if (is_beyond()) rewind_->restore(sequence_.state);
    if (is_beyond()) {  // consumed since it was held back, by a run that was cancelled
      kept.tokens = consumed_.tokens() + 1;
      part.clear();
    }
    sequence_.tokens.resize(kept.tokens);
    sequence_.tokens.insert(sequence_.tokens.end(), part.begin(), part.end());
  }

  // The beginning of a token, as tokens; nothing if the tokenizer has none for exactly this.
  std::vector<Token> encode_part(std::string_view part) const {
    if (part.empty()) return {};
    if (const auto token = tokenizer_.find(part)) return {*token};
    const auto tokens = tokenizer_.encode(part);
    return tokens && tokenizer_.decode(*tokens) == part ? *tokens : std::vector<Token>();
  }

  const Tokenizer& tokenizer_;
  Sequence& sequence_;
  Consumption consumed_;
  TextStream stream_;
  std::optional<Rewind> rewind_;  // without stop strings nothing is taken back
  bool is_open_ = false;
};

// The prompt as far as it is pending, in one go; the logits after its last token. The end is not
// reported: generate does that when nothing can be lost any more.
Result<std::span<const float>> consume(Session& session, Sequence& sequence, Progress progress) {
  const auto report = [&](Index done, Index total) {
    return done < total ? progress(done, total) : Flow::go_on;
  };
  return session.prefill(sequence.pending_tokens(), sequence.state,
                         progress ? Progress(report) : Progress());
}

Result<void> check(const Sequence& sequence) {
  if (sequence.pending > std::ssize(sequence.tokens) || sequence.unshown < 0) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[generate] sequence: expected at most {} tokens pending and no "
                             "negative number of bytes unshown, found {} and {}",
                             sequence.tokens.size(), sequence.pending, sequence.unshown)};
  }
  return {};
}

Result<void> check(const Model& model, const Sequence& sequence, const GenerationOptions& options) {
  KRAIT_RETURN_IF_ERROR(check(sequence));
  if (sequence.pending < 1) {
    return Error{ErrorCode::bad_argument,
                 "[generate] prompt: expected at least one token, found none"};
  }
  if (options.max_tokens < 0) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[generate] tokens: expected a number of at least 0, found {}",
                             options.max_tokens)};
  }
  for (const Token token : sequence.pending_tokens()) {
    if (token < 0 || token >= model.vocab_padded()) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[generate] prompt: expected token ids from 0 to {}, found {}",
                               model.vocab_padded() - 1, token)};
    }
  }
  return {};
}

}  // namespace

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
  }
  return "";
}

Result<void> prefill(Session& session, Sequence& sequence, Progress progress) {
  KRAIT_RETURN_IF_ERROR(check(sequence));
  // What is held back must stay pending, so that it can be taken back.
  if (sequence.pending < 2 || sequence.unshown > 0) return {};
  const Consumption consumption(sequence);
  const auto pending = sequence.pending_tokens();
  KRAIT_RETURN_IF_ERROR(
      session.prefill(pending.first(pending.size() - 1), sequence.state, progress));
  return {};
}

Result<Generation> generate(Session& session, const Tokenizer& tokenizer, Sequence& sequence,
                            const GenerationOptions& options, GenerationCallback callback,
                            Progress progress) {
  KRAIT_RETURN_IF_ERROR(check(session.model(), sequence, options));
  KRAIT_ASSIGN_OR_RETURN(Sampler sampler, Sampler::make(options.sampler, session.model().vocab()));
  sampler.observe(sequence.tokens);

  Generation result;
  result.prompt_tokens = sequence.pending;
  Stopwatch watch;
  if (options.max_tokens == 0) {
    KRAIT_RETURN_IF_ERROR(prefill(session, sequence, progress));
    result.prompt_seconds = watch.lap();
    return result;
  }
  Writing writing(tokenizer, sequence, options.stop_strings);
  std::string resumed = writing.begin();
  writing.reserve();
  KRAIT_ASSIGN_OR_RETURN(std::span<const float> logits, consume(session, sequence, progress));
  result.prompt_seconds = watch.lap();

  GenerationEvent event;
  const auto show = [&](std::string_view text) {
    result.text += text;
    event.text = text;
    return callback ? callback(event) : Flow::go_on;
  };
  for (;;) {
    const Token token = sampler.sample(logits, sequence.state.position());
    // A stop token may be the end of a stop string as well, which takes back what is before it.
    const bool is_stop =
        std::ranges::find(options.stop_tokens, token) != options.stop_tokens.end() &&
        !writing.completes_stop(token);
    if (is_stop) {
      // The text goes on from the token before, which has been consumed; so it is the stop token
      // that is pending, as a separator in front of whatever is appended.
      writing.append(token);
      result.reason = FinishReason::stop_token;
    }
    const std::string_view text = is_stop ? std::string_view() : writing.push(token);
    bool is_cancelled = false;
    if (progress && result.tokens.empty()) {
      is_cancelled = progress(result.prompt_tokens, result.prompt_tokens) == Flow::stop;
    }
    if (is_stop) break;
    sampler.observe({&token, 1});
    result.tokens.push_back(token);
    event.token = token;
    event.count = static_cast<Index>(result.tokens.size());
    is_cancelled = show(resumed.empty() ? text : (resumed += text)) == Flow::stop || is_cancelled;
    resumed.clear();
    if (writing.stopped()) {
      result.reason = FinishReason::stop_string;
      break;
    }
    if (is_cancelled) {
      result.reason = FinishReason::cancelled;
      break;
    }
    if (event.count == options.max_tokens) break;
    writing.reserve();
    KRAIT_ASSIGN_OR_RETURN(logits, session.step(token, sequence.state));
  }
  const bool is_complete =
      result.reason == FinishReason::stop_token || result.reason == FinishReason::stop_string;
  if (is_complete || !options.hold_back) {
    resumed += writing.finish(is_complete);
  } else {
    writing.hold();
  }
  if (!resumed.empty()) show(resumed);
  result.decode_seconds = watch.lap();
  return result;
}

}  // namespace v0_1
}  // namespace krait
