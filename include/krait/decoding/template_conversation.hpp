#pragma once

/// \file
/// TemplateConversation: a conversation as the checkpoint's own template writes it.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/decoding/generate.hpp"
#include "krait/loading/language_model.hpp"

namespace krait {
inline namespace v0_1 {

/// How a conversation is written.
struct ChatSetup {
  ChatTemplate chat_template;
  Metadata marks = {};      ///< `ChatTemplates::marks`
  Metadata variables = {};  ///< an object of more that the template asks for, such as "tools"
  std::optional<std::string> system = {};  ///< what the system says in front of all
  std::vector<std::string> stops = {};     ///< a reply ends before the first of these
};

/// What a conversation is rendered with: "messages", of the user's and the model's turns, "tools"
/// and "documents" (null) and "add_generation_prompt" (true), but for what `variables` has.
KRAIT_API Metadata chat_variables(Metadata::Array messages, const Metadata& variables);

/// How a template writes turns, found by having it write some.
struct TurnMarks {
  /// What stands behind a reply: a special token, or the text up to the next turn.
  std::vector<std::string> stops = {};
  bool shows_messages = true;  ///< what is said stands in the text
  /// A prompt ends where a reply begins, so that the model need not write the mark of its own turn.
  bool begins_replies = true;
};
KRAIT_API TurnMarks find_turn_marks(const ChatSetup& setup, const Tokenizer& tokenizer);

/// A conversation that a template writes. Every turn renders all of it. Where that goes on from
/// what the state has consumed, only what is new runs, with the bits of a run of the whole; where
/// the template changed what it had written, as those do that leave out earlier thinking, the state
/// goes back to the last prompt or to the beginning.
class KRAIT_API TemplateConversation {
 public:
  /// Goes on behind a sequence, which may be an empty one. What was said in it is not known: the
  /// template is shown two messages in its place, and what it writes behind them goes behind the
  /// sequence. Session and model must outlive the conversation. Of the options, `stop_strings`
  /// become those of the setup (one that is a special token is a stop token, too), and nothing is
  /// held back.
  TemplateConversation(Session& session, const LanguageModel& model, GenerationOptions options,
                       ChatSetup setup, Sequence sequence);

  /// Says something, and has the model reply. The text then holds exactly what was shown, and so
  /// does the message that the template sees in the next turn. Errors as `generate`,
  /// `ChatTemplate::render` and Tokenizer::encode; the conversation then stands as before.
  Result<GenerationResult> reply(std::string_view line, GenerationCallback callback = {},
                                 Progress progress = {});

  const Sequence& sequence() const noexcept { return sequence_; }

  /// How many tokens of the last prompt had been consumed before, as others or in another place,
  /// since the template changed what it had written. 0: what it had written stood.
  Index rerun_tokens() const noexcept { return rerun_tokens_; }

 private:
  struct Place {  // in the conversation
    Sequence sequence = {};
    std::string written = {};  // behind what was there at the beginning
  };

  Result<RenderedText> render() const;
  Result<void> append_prompt(const RenderedText& prompt, Progress progress);
  void go_back(std::string_view prompt);
  Result<std::vector<Token>> tail_tokens(const RenderedText& prompt, std::size_t begin) const;
  Result<std::size_t> end_of_earlier(const RenderedText& prompt) const;

  Session* session_;
  const LanguageModel* model_;
  GenerationOptions options_;
  ChatSetup setup_;
  Metadata::Array messages_;
  bool has_earlier_ = false;  // the first two messages stand for what is not known
  Sequence start_;
  Sequence sequence_;
  std::string written_;        // text of the sequence, behind that of `start_`
  std::optional<Place> last_;  // at the end of the last prompt
  Index rerun_tokens_ = 0;
};

}  // namespace v0_1
}  // namespace krait
