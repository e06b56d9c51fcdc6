#include <unistd.h>

#include <cstdio>

#include "chat_template.hpp"
#include "command.hpp"
#include "constraint_flags.hpp"
#include "draft.hpp"
#include "guidance.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct ChatFlags {
  CommonOptions common;
  SamplerFlags sampler;
  DraftFlags draft;
  ConstraintFlags constraint;
  DrugFlags drugs;
  GuidanceFlags guidance;
  Index tokens = 256;
  std::optional<std::string> user;
  std::optional<std::string> assistant;
  std::vector<std::string> stops;
  std::optional<std::string> system;
  std::string tools;
  std::optional<std::string> variables;
  std::string print_prompt;
  std::string state_in;
  std::string state_out;
};

// A conversation of either kind.
struct Chat {
  std::optional<ChatTurns> turns;  // of a model without a template
  std::optional<ChatSetup> setup;
  std::optional<Conversation> plain;
  std::optional<TemplateConversation> templated;

  const std::vector<std::string>& stops() const { return setup ? setup->stops : turns->stops; }
  const Sequence& sequence() const { return templated ? templated->sequence() : plain->sequence(); }
  Result<GenerationResult> reply(const std::string& line, GenerationCallback show,
                                 Progress progress) {
    return templated ? templated->reply(line, show, progress) : plain->reply(line, show, progress);
  }
};

ChatTurns plain_turns(const ChatFlags& options) {
  ChatTurns turns;
  turns.before_user = options.user.value_or("User: ");
  turns.after_user = "\n";
  turns.before_reply = options.assistant.value_or("Assistant:");
  turns.after_reply = "\n";
  if (!turns.before_user.empty()) turns.stops.push_back("\n" + turns.before_user);
  turns.stops.insert(turns.stops.end(), options.stops.begin(), options.stops.end());
  return turns;
}

// What the template is given beside the messages.
Result<Metadata> variables_of(const ChatFlags& options) {
  Metadata variables = Metadata::Object();
  if (options.variables) {
    KRAIT_ASSIGN_OR_RETURN(variables, parse_variables(*options.variables, "--variables"));
    if (variables.object() == nullptr) {
      throw WrongUsage("--variables", "a JSON object", in_quotes(*options.variables));
    }
    for (const auto& [name, value] : *variables.object()) {
      if (name == "messages") throw WrongUsage("--variables", "no messages", "some");
    }
  }
  if (!options.tools.empty()) {
    KRAIT_ASSIGN_OR_RETURN(Metadata tools, read_variables(options.tools));
    if (tools.array() == nullptr) {
      return Error{ErrorCode::bad_format,
                   "[json] tools: expected a list, found something else (" + options.tools + ")"};
    }
    variables.object()->push_back({"tools", std::move(tools)});
  }
  return variables;
}

// The checkpoint's own template; nothing, and a word about it, where it is of no use.
Result<std::optional<ChatSetup>> find_setup(const ChatFlags& options, const LanguageModel& model) {
  if (model.chat_templates.is_empty()) return std::optional<ChatSetup>();
  KRAIT_ASSIGN_OR_RETURN(Metadata variables, variables_of(options));
  const bool has_tools = !variables["tools"].is_null();
  Result<ChatTemplate> chosen = model.chat_templates.choose(has_tools);
  std::string problem = "it does not write messages";
  if (chosen) {
    ChatSetup setup{
        *std::move(chosen), model.chat_templates.marks, std::move(variables), options.system, {}};
    TurnMarks marks = find_turn_marks(setup, *model.tokenizer);
    if (marks.shows_messages) {
      if (!marks.begins_replies) {
        tell(
            "krait: how replies begin by this checkpoint's chat template is not known; the model "
            "goes on behind your lines");
      }
      setup.stops = std::move(marks.stops);
      setup.stops.insert(setup.stops.end(), options.stops.begin(), options.stops.end());
      return std::optional(std::move(setup));
    }
  } else {
    problem = chosen.error().message;
  }
  const ChatTurns turns = plain_turns(options);
  tell("krait: this checkpoint's chat template is not known (" + problem +
       "); turns are written as '" + turns.before_user + "' and '" + turns.before_reply + "'");
  return std::optional<ChatSetup>();
}

Result<Chat> find_form(const ChatFlags& options, const LanguageModel& model) {
  Chat chat;
  KRAIT_ASSIGN_OR_RETURN(chat.setup, find_setup(options, model));
  using Option = std::pair<std::string_view, bool>;
  if (chat.setup) {
    for (const auto& [name, is_given] : {Option("--user-prefix", options.user.has_value()),
                                         {"--reply-prefix", options.assistant.has_value()}}) {
      if (is_given) throw WrongUsage(name, "a model without a chat template", "one that has it");
    }
    return chat;
  }
  for (const auto& [name, is_given] : {Option("--system", options.system.has_value()),
                                       {"--tools", !options.tools.empty()},
                                       {"--variables", options.variables.has_value()}}) {
    if (is_given) throw WrongUsage(name, "a model with a chat template", "one that has none");
  }
  chat.turns = plain_turns(options);
  return chat;
}

// Replies to a line. `written` becomes what the system said when that could not be shown.
Result<void> reply(Chat& conversation, const std::string& line, Result<void>& written) {
  const auto show = [&](const GenerationEvent& event) {
    if (written) written = print_all(event.text);
    return !written || is_interrupted() ? Flow::stop : Flow::go_on;
  };
  const auto progress = [](Index, Index) { return is_interrupted() ? Flow::stop : Flow::go_on; };
  KRAIT_ASSIGN_OR_RETURN(const GenerationResult replied, conversation.reply(line, show, progress));
  if (written && !replied.text.ends_with('\n')) written = print("\n");
  if (written) written = flush();
  if (conversation.templated && conversation.templated->rerun_tokens() > 0) {
    tell("krait: the chat template changed what it had written; " +
         std::to_string(conversation.templated->rerun_tokens()) + " tokens ran again");
  }
  return {};
}

// Until the input ends, a signal comes, or nothing can be written any more.
Result<void> talk(Chat& conversation) {
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

// What --print-prompt asks for.
Result<void> run_print(const ChatFlags& options) {
  for (const auto& [name, is_given] : {std::pair("--system", options.system.has_value()),
                                       {"--tools", !options.tools.empty()},
                                       {"--variables", options.variables.has_value()},
                                       {"--state-in", !options.state_in.empty()},
                                       {"--state-out", !options.state_out.empty()}}) {
    if (is_given) {
      throw WrongUsage(name, "no --print-prompt beside it, whose file has all variables", "both");
    }
  }
  KRAIT_ASSIGN_OR_RETURN(const Metadata variables, read_variables(options.print_prompt));
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel model,
                         load_language_model(options.common.model, load_options(options.common)));
  KRAIT_ASSIGN_OR_RETURN(const PrintedPrompt prompt,
                         print_prompt(model, variables, options.print_prompt));
  if (options.common.json) return print_json(prompt_to_json(prompt.text, prompt.tokens));
  return print_all(prompt.text);
}

Result<void> run(const ChatFlags& options) {
  options.draft.check();
  options.drugs.check();
  options.guidance.check(options.draft.is_given(), options.drugs);
  if (!options.print_prompt.empty()) return run_print(options);
  if (options.common.json) throw WrongUsage("--json", "--print-prompt beside it", "none");
  if (options.system && !options.state_in.empty()) {
    throw WrongUsage("--system", "no --state-in beside it", in_quotes(options.state_in));
  }
  KRAIT_RETURN_IF_ERROR(
      check_destination("--state-out", options.state_out, {options.common.model}));
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
  KRAIT_RETURN_IF_ERROR(options.guidance.set(generation, runtime.language_model));
  generation.stop_tokens = runtime.language_model.stop_tokens;
  KRAIT_ASSIGN_OR_RETURN(Chat chat, find_form(options, runtime.language_model));
  // A reply may end by the mark of a turn as well.
  std::vector<Token> ends = generation.stop_tokens;
  for (const std::string& stop : chat.stops()) {
    const auto token = runtime.tokenizer().find(stop);
    if (token && runtime.tokenizer().is_special(*token)) ends.push_back(*token);
  }
  KRAIT_ASSIGN_OR_RETURN(generation.constraint, constrain(grammar, runtime.language_model, ends));
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, read_state(runtime.model(), options.state_in));
  }
  if (chat.setup) {
    chat.templated.emplace(*runtime.session, runtime.language_model, generation, *chat.setup,
                           std::move(sequence));
  } else {
    chat.plain.emplace(*runtime.session, runtime.language_model, generation, *chat.turns,
                       std::move(sequence));
  }
  const Result<void> talked = talk(chat);
  if (isatty(STDIN_FILENO) != 0) std::fputs("\n", stderr);
  // However the conversation ended, it is not lost.
  if (!options.state_out.empty()) {
    KRAIT_RETURN_IF_ERROR(save_state(chat.sequence(), options.state_out));
  }
  return talked;
}

void declare(Command& command, ChatFlags& options) {
  command.number("-n,--tokens", options.tokens, 1, Index{1} << 31, "Tokens of a reply, at most");
  options.sampler.add(command);
  options.draft.add(command);
  options.constraint.add(command);
  options.drugs.add(command);
  options.guidance.add(command);
  command.text("--user-prefix", options.user,
               "Written in front of your lines ('User: '); for models without a chat template");
  command.text("--reply-prefix", options.assistant,
               "Written in front of replies ('Assistant:'); for models without a chat template");
  command.texts("--stop", options.stops, "End a reply before this string too; may be repeated");
  command.text("--system", options.system,
               "What the system says first; for models with a chat template");
  command.file("--tools", options.tools, "A JSON list of tools for the chat template");
  command.text("--variables", options.variables,
               "A JSON object of more variables for it, such as {\"enable_thinking\": false}");
  command.file("--print-prompt", options.print_prompt,
               "Print what the chat template makes of a JSON object with messages, and exit");
  command.file("--state-in", options.state_in, "Go on with a saved conversation");
  command.file("--state-out", options.state_out, "Save the conversation at the end");
  add_common(command, options.common, "With --print-prompt: the prompt and its tokens as JSON");
}

}  // namespace

void add_chat(CommandLine& line) {
  line.add<ChatFlags>("chat", "Talks line by line; the model's state remembers everything",
                      "krait chat --state-out talk.safetensors", declare, run);
}

}  // namespace krait::cli
