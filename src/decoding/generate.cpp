#include "krait/decoding/generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "krait/decoding/stop.hpp"
#include "krait/text/stream_decoder.hpp"

namespace krait::inline v0_1 {
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

// Token bytes to whole characters, up to a stop string.
class TextStream {
 public:
  explicit TextStream(const std::vector<std::string>& stops) : stops_(stops) {}

  std::string_view push(std::string_view bytes) { return stops_.push(decoder_.push(bytes)); }
  bool stopped() const noexcept { return stops_.stopped(); }

  // Takes up a character that an earlier generation left incomplete.
  void resume(std::string_view bytes) { decoder_.push(bytes); }

  // What is held back at the end. A text that only stopped for now may be in the middle of a
  // character, whose rest will come; at the end of a text that is an error, and shown as one.
  std::string finish(bool is_complete) {
    std::string rest(is_complete ? stops_.push(decoder_.finish()) : "");
    rest += stops_.finish();
    return rest;
  }

 private:
  StreamDecoder decoder_;
  StopMatcher stops_;
};

// The bytes at the end of the text that begin a character but do not complete it.
std::string incomplete_end(const Tokenizer& tokenizer, const std::vector<Token>& tokens) {
  std::string end;
  for (auto it = tokens.rbegin(); it != tokens.rend() && end.size() < 3; ++it) {
    end.insert(0, tokenizer.is_special(*it) ? "" : tokenizer.bytes(*it));
  }
  StreamDecoder decoder;
  decoder.push(end);
  return std::string(decoder.pending());
}

// The prompt as far as it is pending, in one go; the logits after its last token.
Result<std::span<const float>> consume(Session& session, Sequence& sequence, Progress progress) {
  const Index before = sequence.state.position();
  auto logits = session.prefill(sequence.pending_tokens(), sequence.state, progress);
  sequence.pending -= sequence.state.position() - before;
  return logits;
}

Result<void> check(const Model& model, const Sequence& sequence, const GenerationOptions& options) {
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
  if (sequence.pending < 2) return {};
  const Index before = sequence.state.position();
  const auto pending = sequence.pending_tokens();
  const auto logits = session.prefill(pending.first(pending.size() - 1), sequence.state, progress);
  sequence.pending -= sequence.state.position() - before;
  if (!logits) return logits.error();
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
  KRAIT_ASSIGN_OR_RETURN(std::span<const float> logits, consume(session, sequence, progress));
  result.prompt_seconds = watch.lap();

  TextStream stream(options.stop_strings);
  stream.resume(incomplete_end(tokenizer, sequence.tokens));
  GenerationEvent event;
  const auto show = [&](std::string_view text) {
    result.text += text;
    event.text = text;
    return callback ? callback(event) : Flow::go_on;
  };
  for (;;) {
    const Token token = sampler.sample(logits, sequence.state.position());
    if (std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) !=
        options.stop_tokens.end()) {
      // The text goes on from the token before, which has been consumed; so it is the stop token
      // that is pending, as a separator in front of whatever is appended.
      sequence.append({&token, 1});
      result.reason = FinishReason::stop_token;
      break;
    }
    sampler.observe({&token, 1});
    sequence.append({&token, 1});
    result.tokens.push_back(token);
    event.token = token;
    event.count = static_cast<Index>(result.tokens.size());
    if (show(stream.push(tokenizer.is_special(token) ? "" : tokenizer.bytes(token))) ==
        Flow::stop) {
      result.reason = FinishReason::cancelled;
      break;
    }
    if (stream.stopped()) {
      result.reason = FinishReason::stop_string;
      break;
    }
    if (event.count == options.max_tokens) break;
    const auto next = session.step(token, sequence.state);
    sequence.pending = 0;
    if (!next) return next.error();
    logits = *next;
  }
  const bool is_complete = result.reason == FinishReason::stop_token;
  if (const std::string rest = stream.finish(is_complete); !rest.empty()) show(rest);
  result.decode_seconds = watch.lap();
  return result;
}

}  // namespace krait::inline v0_1
