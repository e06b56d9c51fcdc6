#pragma once

/// \file
/// Conversation: turns of a user and replies of a model.

#include <string>
#include <string_view>
#include <vector>

#include "krait/decoding/generate.hpp"
#include "krait/loading/language_model.hpp"

namespace krait {
inline namespace v0_1 {

/// What stands around the turns of a conversation with a model that has no chat template.
struct ChatTurns {
  std::string opening = {};       ///< once, in front of all
  std::string before_user = {};   ///< in front of what the user says
  std::string after_user = {};    ///< behind it
  std::string before_reply = {};  ///< in front of a reply; the reply itself is the model's
  std::string after_reply =
      {};  ///< behind it, where the model has not written that itself; not empty
  std::vector<std::string> stops = {};  ///< a reply ends before the first of these
};

/// A text that a user and a model write in turns. Nothing is consumed twice: the state remembers
/// all of it.
///
///     Conversation conversation(session, lm, {.max_tokens = 200},
///                               {.before_user = "User: ", .after_user = "\n",
///                                .before_reply = "Assistant:", .after_reply = "\n",
///                                .stops = {"\nUser: "}},
///                               Sequence(lm.model));
///     KRAIT_ASSIGN_OR_RETURN(const GenerationResult reply, conversation.reply("Who are you?"));
class KRAIT_API Conversation {
 public:
  /// Goes on behind a sequence, which may be an empty one. Session and model must outlive the
  /// conversation. Of the options, `stop_strings` become those of the turns (one that is a special
  /// token is a stop token, too), and nothing is held back.
  Conversation(Session& session, const LanguageModel& model, GenerationOptions options,
               ChatTurns turns, Sequence sequence);

  /// Says something, and has the model reply. The text then holds exactly what was shown: half a
  /// character at its end, or a mark that the reply was stopped at, is not in it. Errors as
  /// `generate` and Tokenizer::encode; the conversation then stands as before.
  Result<GenerationResult> reply(std::string_view line, GenerationCallback callback = {},
                                 Progress progress = {});

  const Sequence& sequence() const noexcept { return sequence_; }

 private:
  Result<void> append_turn(std::string_view line);

  Session* session_;
  const LanguageModel* model_;
  GenerationOptions options_;
  ChatTurns turns_;
  Sequence sequence_;
};

}  // namespace v0_1
}  // namespace krait
