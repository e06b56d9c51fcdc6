#include <unistd.h>

#include <cstdio>

#include "chat_template.hpp"
#include "command.hpp"
#include "constraint_flags.hpp"
#include "draft.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  SamplerFlags sampler;
  DraftFlags draft;
  ConstraintFlags constraint;
  DrugFlags drugs;
  Index tokens = 256;
  std::optional<std::string> user;
  std::optional<std::string> assistant;
  std::vector<std::string> stops;
  std::string state_in;
  std::string state_out;
};

ChatTurns plain_turns(const Options& options) {
  ChatTurns turns;
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

ChatTurns turns_of(const Options& options, const LanguageModel& model) {
  const std::optional<std::string> jinja = find_template(model);
  const std::optional<TurnTemplate> known =
      jinja ? read_turns(*jinja, named_token(model, "bos_token"), named_token(model, "eos_token"))
            : std::nullopt;
  ChatTurns turns;
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

// Replies to a line. `written` becomes what the system said when that could not be shown.
Result<void> reply(Conversation& conversation, const std::string& line, Result<void>& written) {
  const auto show = [&](const GenerationEvent& event) {
    if (written) written = print_all(event.text);
    return !written || is_interrupted() ? Flow::stop : Flow::go_on;
  };
  const auto progress = [](Index, Index) { return is_interrupted() ? Flow::stop : Flow::go_on; };
  KRAIT_ASSIGN_OR_RETURN(const GenerationResult replied, conversation.reply(line, show, progress));
  if (written && !replied.text.ends_with('\n')) written = print("\n");
  if (written) written = flush();
  return {};
}

// Until the input ends, a signal comes, or nothing can be written any more.
Result<void> talk(Conversation& conversation) {
  const bool is_terminal = isatty(STDIN_FILENO) != 0;
  Input input = Input::standard();
  Result<void> written;
  while (written && !is_interrupted()) {
    if (is_terminal) std::fputs("> ", stderr);
    KRAIT_ASSIGN_OR_RETURN(const std::optional<std::string> line, input.line());
    if (!line) break;
    if (line->empty()) continue;
    const Result<void> replied = reply(conversation, *line, written);
    if (!replied && replied.error().code == ErrorCode::cancelled) return interruption();
    if (!replied) report(replied.error());
  }
  if (is_interrupted()) return interruption();
  return written;
}

Result<void> run(const Options& options) {
  options.draft.check();
  options.drugs.check();
  KRAIT_RETURN_IF_ERROR(check_destination("--state-out", options.state_out));
  if (!options.state_out.empty()) outlive_readers();
  KRAIT_ASSIGN_OR_RETURN(const std::optional<Grammar> grammar, options.constraint.compile());
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common, options.draft.session()));
  GenerationOptions generation{.max_tokens = options.tokens};
  generation.sampler = options.sampler.resolve(runtime.language_model);
  options.draft.resolve(generation.sampler, generation.acceptance);
  if (options.draft.is_given()) {
    KRAIT_ASSIGN_OR_RETURN(generation.speculation,
                           options.draft.load_drafter(runtime, options.common));
  }
  KRAIT_ASSIGN_OR_RETURN(generation.drugs, options.drugs.resolve(runtime.model()));
  generation.stop_tokens = runtime.language_model.stop_tokens;
  ChatTurns turns = turns_of(options, runtime.language_model);
  // A reply may end by the mark of a turn as well.
  std::vector<Token> ends = generation.stop_tokens;
  for (const std::string& stop : turns.stops) {
    const auto token = runtime.tokenizer().find(stop);
    if (token && runtime.tokenizer().is_special(*token)) ends.push_back(*token);
  }
  KRAIT_ASSIGN_OR_RETURN(generation.constraint, constrain(grammar, runtime.language_model, ends));
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, read_state(runtime.model(), options.state_in));
  }
  Conversation conversation(*runtime.session, runtime.language_model, generation, std::move(turns),
                            std::move(sequence));
  const Result<void> talked = talk(conversation);
  if (isatty(STDIN_FILENO) != 0) std::fputs("\n", stderr);
  // However the conversation ended, it is not lost.
  if (!options.state_out.empty()) {
    KRAIT_RETURN_IF_ERROR(save_state(conversation.sequence(), options.state_out));
  }
  return talked;
}

void declare(Command& command, Options& options) {
  command.number("-n,--tokens", options.tokens, 1, Index{1} << 31, "Tokens of a reply, at most");
  options.sampler.add(command);
  options.draft.add(command);
  options.constraint.add(command);
  options.drugs.add(command);
  command.text("--user-prefix", options.user,
               "Written in front of your lines ('User: '); for models without a chat template");
  command.text("--reply-prefix", options.assistant,
               "Written in front of replies ('Assistant:'); for models without a chat template");
  command.texts("--stop", options.stops, "End a reply before this string too; may be repeated");
  command.file("--state-in", options.state_in, "Go on with a saved conversation");
  command.file("--state-out", options.state_out, "Save the conversation at the end");
  add_common(command, options.common, "");
}

}  // namespace

void add_chat(CommandLine& line) {
  line.add("chat", "Talks line by line; the model's state remembers everything",
           "krait chat --state-out talk.safetensors", declare, run);
}

}  // namespace krait::cli
