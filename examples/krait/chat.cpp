#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "chat_template.hpp"
#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  SamplerFlags sampler;
  Index tokens = 256;
  std::optional<std::string> user;
  std::optional<std::string> assistant;
  std::vector<std::string> stops;
  std::string state_in;
  std::string state_out;
};

// What stands around the turns of a conversation.
struct Turns {
  std::string opening;  // once, in front of all
  std::string before_user;
  std::string after_user;
  std::string before_reply;
  std::string after_reply;
  std::vector<std::string> stops;
  bool has_template = false;  // which then says where a beginning-of-text token stands
};

Turns plain_turns(const Options& options) {
  Turns turns;
  turns.before_user = options.user.value_or("User: ");
  turns.after_user = "\n";
  turns.before_reply = options.assistant.value_or("Assistant:");
  turns.after_reply = "\n";
  if (!turns.before_user.empty()) turns.stops.push_back("\n" + turns.before_user);
  return turns;
}

// The end of a turn that a reply is stopped at: its mark, or, where it is only a line break, the
// beginning of the user's turn behind it.
std::string stop_of(const TurnTemplate& turns) {
  const std::string mark =
      turns.after_text.substr(0, turns.after_text.find_last_not_of(" \t\r\n") + 1);
  return mark.empty() ? turns.after_text + turns.before_user : mark;
}

Turns turns_of(const Options& options, const LanguageModel& model) {
  const std::optional<std::string> jinja = find_template(model);
  const std::optional<TurnTemplate> known =
      jinja ? read_turns(*jinja, named_token(model, "bos_token"), named_token(model, "eos_token"))
            : std::nullopt;
  Turns turns;
  if (known) {
    for (const auto& [name, value] :
         {std::pair("--user-prefix", options.user), {"--reply-prefix", options.assistant}}) {
      if (value) throw WrongUsage(name, "a model without a chat template", "one that has it");
    }
    turns = {.opening = known->opening,
             .before_user = known->before_user,
             .after_user = known->after_text,
             .before_reply = known->before_reply,
             .after_reply = known->after_text,
             .stops = {stop_of(*known)},
             .has_template = true};
  } else {
    turns = plain_turns(options);
    if (jinja) {
      tell("krait: this checkpoint's chat template is not known; turns are written as '" +
           turns.before_user + "' and '" + turns.before_reply + "'");
    }
  }
  turns.stops.insert(turns.stops.end(), options.stops.begin(), options.stops.end());
  return turns;
}

class Conversation {
 public:
  Conversation(Runtime& runtime, GenerationOptions options, Turns turns, Sequence sequence)
      : runtime_(runtime),
        options_(std::move(options)),
        turns_(std::move(turns)),
        sequence_(std::move(sequence)) {
    options_.stop_strings = turns_.stops;
    // A stop that is one token needs no matching of text.
    for (const std::string& stop : turns_.stops) {
      const auto token = runtime_.tokenizer().find(stop);
      if (token && runtime_.tokenizer().is_special(*token)) options_.stop_tokens.push_back(*token);
    }
  }

  // Answers a line. After an error the conversation stands as before it.
  Result<void> reply(const std::string& line) {
    const Sequence before = sequence_;
    Result<void> done = try_reply(line);
    if (!done) sequence_ = before;
    return done;
  }

  const Sequence& sequence() const { return sequence_; }
  /// What the system said when a reply could not be shown.
  const Result<void>& written() const { return written_; }

 private:
  Result<void> try_reply(const std::string& line) {
    KRAIT_RETURN_IF_ERROR(append_turn(line));
    const Sequence asked = sequence_;
    const auto show = [&](const GenerationEvent& event) {
      if (written_) written_ = print(event.text);
      if (written_) written_ = flush();
      return !written_ || is_interrupted() ? Flow::stop : Flow::go_on;
    };
    const auto progress = [](Index, Index) { return is_interrupted() ? Flow::stop : Flow::go_on; };
    KRAIT_ASSIGN_OR_RETURN(
        const GenerationResult generation,
        generate(*runtime_.session, runtime_.tokenizer(), sequence_, options_, show, progress));
    KRAIT_RETURN_IF_ERROR(keep_what_was_shown(asked, generation));
    if (written_ && !generation.text.ends_with('\n')) written_ = print("\n");
    if (written_) written_ = flush();
    return {};
  }

  // Ends the turn before, then the user's turn and the beginning of the reply.
  Result<void> append_turn(const std::string& line) {
    const std::string turn = turns_.before_user + line + turns_.after_user + turns_.before_reply;
    if (sequence_.tokens.empty() && sequence_.state.position() == 0) {
      const std::string text = turns_.opening + turn;
      KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                             turns_.has_template ? runtime_.tokenizer().encode(text)
                                                 : runtime_.language_model.encode_prompt(text));
      sequence_.append(tokens);
      return {};
    }
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> end,
                           runtime_.tokenizer().encode(turns_.after_reply));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, runtime_.tokenizer().encode(turn));
    end_turn(end);
    sequence_.append(tokens);
    return {};
  }

  // Appends what a reply lacks of the tokens that end a turn: all of them if it was cut, few or
  // none if the model wrote them itself.
  void end_turn(const std::vector<Token>& end) {
    std::vector<Token>& tokens = sequence_.tokens;
    const auto& stops = options_.stop_tokens;
    // An end token that the turns do not have was never shown, nor is it consumed.
    if (sequence_.pending > 0 && tokens.back() != end.front() &&
        std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) {
      tokens.pop_back();
      --sequence_.pending;
    }
    std::size_t present = std::min(end.size(), tokens.size());
    while (!std::equal(end.begin(), end.begin() + static_cast<std::ptrdiff_t>(present),
                       tokens.end() - static_cast<std::ptrdiff_t>(present))) {
      --present;
    }
    sequence_.append(std::span(end).subspan(present));
  }

  // A stop string, or half a character at the end, is in the sequence but was not shown. Then the
  // sequence is put together again from the tokens whose text was.
  Result<void> keep_what_was_shown(const Sequence& asked, const GenerationResult& generation) {
    if (generation.reason == FinishReason::stop_token) return {};
    const std::span<const Token> sampled =
        std::span<const Token>(sequence_.tokens).subspan(asked.tokens.size());
    const Tokenizer& tokenizer = runtime_.tokenizer();
    StreamDecoder decoder;
    std::string text;
    std::size_t kept = 0;
    std::size_t kept_bytes = 0;
    for (std::size_t i = 0; i < sampled.size(); ++i) {
      text += decoder.push(tokenizer.is_special(sampled[i]) ? "" : tokenizer.bytes(sampled[i]));
      if (!generation.text.starts_with(text)) break;
      // Of tokens that add nothing, the ones before the last text.
      if (text.size() > kept_bytes && decoder.pending().empty()) {
        kept = i + 1;
        kept_bytes = text.size();
      }
    }
    if (kept == sampled.size() && kept_bytes == generation.text.size()) return {};
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> rest,
                           tokenizer.encode(generation.text.substr(kept_bytes)));
    std::vector<Token> reply(sampled.begin(), sampled.begin() + static_cast<std::ptrdiff_t>(kept));
    reply.insert(reply.end(), rest.begin(), rest.end());
    sequence_ = asked;
    sequence_.append(reply);
    return {};
  }

  Runtime& runtime_;
  GenerationOptions options_;
  Turns turns_;
  Sequence sequence_;
  Result<void> written_;
};

// Until the input ends, a signal comes, or nothing can be written any more.
Result<void> talk(Conversation& conversation) {
  const bool is_terminal = isatty(STDIN_FILENO) != 0;
  Input input = Input::standard();
  while (conversation.written() && !is_interrupted()) {
    if (is_terminal) std::fputs("> ", stderr);
    KRAIT_ASSIGN_OR_RETURN(const std::optional<std::string> line, input.line());
    if (!line) break;
    if (line->empty()) continue;
    const Result<void> replied = conversation.reply(*line);
    if (!replied && replied.error().code == ErrorCode::cancelled) return interruption();
    if (!replied) report(replied.error());
  }
  if (is_interrupted()) return interruption();
  return conversation.written();
}

Result<void> run(const Options& options) {
  KRAIT_RETURN_IF_ERROR(check_destination("--state-out", options.state_out));
  if (!options.state_out.empty()) outlive_readers();
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  GenerationOptions generation{.max_tokens = options.tokens, .hold_back = false};
  generation.sampler = options.sampler.resolve(runtime.model());
  generation.stop_tokens = runtime.language_model.stop_tokens;
  Turns turns = turns_of(options, runtime.language_model);
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, read_state(runtime.model(), options.state_in));
  }
  Conversation conversation(runtime, generation, std::move(turns), std::move(sequence));
  const Result<void> talked = talk(conversation);
  if (isatty(STDIN_FILENO) != 0) std::fputs("\n", stderr);
  // However the conversation ended, it is not lost.
  if (!options.state_out.empty()) {
    KRAIT_RETURN_IF_ERROR(save_state(conversation.sequence(), options.state_out));
  }
  return talked;
}

}  // namespace

void add_chat(CommandLine& line) {
  auto options = std::make_shared<Options>();
  Command& command =
      line.add("chat", "Talks line by line; the model's state remembers everything",
               "krait chat --state-out talk.safetensors", [options] { return run(*options); });
  command.number("-n,--tokens", options->tokens, 1, Index{1} << 31, "Tokens of a reply, at most");
  options->sampler.add(command);
  command.text("--user-prefix", options->user,
               "Written in front of your lines ('User: '); for models without a chat template");
  command.text("--reply-prefix", options->assistant,
               "Written in front of replies ('Assistant:'); for models without a chat template");
  command.texts("--stop", options->stops, "End a reply before this string too; may be repeated");
  command.file("--state-in", options->state_in, "Go on with a saved conversation");
  command.file("--state-out", options->state_out, "Save the conversation at the end");
  add_common(command, options->common, "");
}

}  // namespace krait::cli
