#include "krait/decoding/conversation.hpp"

#include <utility>

#include "decoding/reply_end.hpp"

namespace krait {
inline namespace v0_1 {

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
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, model_->encode_prompt(text));
    sequence_.append(tokens);
    return {};
  }
  const Tokenizer& tokenizer = *model_->tokenizer;
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> end,
                         tokenizer.encode(turns_.after_reply, {.before = TextBefore::text}));
  const TextBefore before = before_of(tokenizer, end.empty() ? sequence_.tokens : end);
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         tokenizer.encode(turn, {.before = before}));
  end_turn(sequence_, end, options_.stop_tokens);
  sequence_.append(tokens);
  return {};
}

}  // namespace v0_1
}  // namespace krait
