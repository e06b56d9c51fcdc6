#include "krait/decoding/conversation.hpp"

#include <algorithm>
#include <utility>

#include "krait/text/stream_decoder.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Appends what a reply lacks of the tokens that end a turn: all of them if it was cut, few or none
// if the model wrote them itself.
void end_turn(Sequence& sequence, const std::vector<Token>& end, const std::vector<Token>& stops) {
  std::vector<Token>& tokens = sequence.tokens;
  // An end token that the turns do not have was never shown, nor is it consumed.
  if (sequence.pending > 0 && !end.empty() && tokens.back() != end.front() &&
      std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) {
    tokens.pop_back();
    --sequence.pending;
  }
  std::size_t present = std::min(end.size(), tokens.size());
  while (!std::equal(end.begin(), end.begin() + static_cast<std::ptrdiff_t>(present),
                     tokens.end() - static_cast<std::ptrdiff_t>(present))) {
    --present;
  }
  sequence.append(std::span(end).subspan(present));
}

// Half a character at the end is in the sequence but was not shown. Then the sequence is put
// together again from the tokens whose text was.
Result<void> keep_what_was_shown(Sequence& sequence, const Sequence& asked,
                                 const GenerationResult& reply, const Tokenizer& tokenizer) {
  if (reply.reason == FinishReason::stop_token) return {};
  const std::span<const Token> sampled =
      std::span<const Token>(sequence.tokens).subspan(asked.tokens.size());
  StreamDecoder decoder;
  std::string text;
  std::size_t kept = 0;
  std::size_t kept_bytes = 0;
  for (std::size_t i = 0; i < sampled.size(); ++i) {
    text += decoder.push(tokenizer.is_special(sampled[i]) ? "" : tokenizer.bytes(sampled[i]));
    if (!reply.text.starts_with(text)) break;
    // Of tokens that add nothing, the ones before the last text.
    if (text.size() > kept_bytes && decoder.pending().empty()) {
      kept = i + 1;
      kept_bytes = text.size();
    }
  }
  if (kept == sampled.size() && kept_bytes == reply.text.size()) return {};
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> rest,
                         tokenizer.encode(reply.text.substr(kept_bytes)));
  std::vector<Token> tokens(sampled.begin(), sampled.begin() + static_cast<std::ptrdiff_t>(kept));
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  sequence = asked;
  const Index first = std::ssize(sequence.tokens);
  sequence.append(tokens);
  sequence.mark_sampled({first, std::ssize(sequence.tokens)});
  return {};
}

}  // namespace

Conversation::Conversation(Session& session, const LanguageModel& model, GenerationOptions options,
                           ChatTurns turns, Sequence sequence)
    : session_(&session),
      model_(&model),
      options_(std::move(options)),
      turns_(std::move(turns)),
      sequence_(std::move(sequence)) {
  options_.stop_strings = turns_.stops;
  options_.hold_back = false;
  // A stop that is one token needs no matching of text.
  for (const std::string& stop : turns_.stops) {
    const auto token = model_->tokenizer->find(stop);
    if (token && model_->tokenizer->is_special(*token)) options_.stop_tokens.push_back(*token);
  }
}

Result<GenerationResult> Conversation::reply(std::string_view line, GenerationCallback callback,
                                             Progress progress) {
  Sequence before = sequence_;
  const auto answer = [&]() -> Result<GenerationResult> {
    KRAIT_RETURN_IF_ERROR(append_turn(line));
    const Sequence asked = sequence_;
    KRAIT_ASSIGN_OR_RETURN(
        GenerationResult reply,
        generate(*session_, *model_->tokenizer, sequence_, options_, callback, progress));
    KRAIT_RETURN_IF_ERROR(keep_what_was_shown(sequence_, asked, reply, *model_->tokenizer));
    return reply;
  };
  Result<GenerationResult> done = answer();
  if (!done) sequence_ = std::move(before);
  return done;
}

// Ends the turn before, then the user's turn and the beginning of the reply.
Result<void> Conversation::append_turn(std::string_view line) {
  std::string turn = turns_.before_user;
  turn.append(line).append(turns_.after_user).append(turns_.before_reply);
  if (sequence_.tokens.empty() && sequence_.state.position() == 0) {
    const std::string text = turns_.opening + turn;
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, turns_.has_template
                                                                ? model_->tokenizer->encode(text)
                                                                : model_->encode_prompt(text));
    sequence_.append(tokens);
    return {};
  }
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> end,
                         model_->tokenizer->encode(turns_.after_reply));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, model_->tokenizer->encode(turn));
  end_turn(sequence_, end, options_.stop_tokens);
  sequence_.append(tokens);
  return {};
}

}  // namespace v0_1
}  // namespace krait
