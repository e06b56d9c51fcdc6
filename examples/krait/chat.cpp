#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  SamplerFlags sampler;
  Index tokens = 256;
  std::string user = "User: ";
  std::string assistant = "Assistant:";
  std::vector<std::string> stops;
  std::string state_in;
  std::string state_out;
};

// What stands around the turns of a conversation.
struct Turns {
  std::string before_user;
  std::string after_user;
  std::string before_reply;
  std::vector<std::string> stops;
};

Turns plain_turns(const Options& options) {
  Turns turns{options.user, "\n", options.assistant, options.stops};
  if (turns.stops.empty() && !options.user.empty()) turns.stops.push_back("\n" + options.user);
  return turns;
}

// ChatML, recognised by its marks, is the one template common among state-space models.
Turns turns_of(const Options& options, const std::string& tokenizer_config) {
  if (tokenizer_config.find("<|im_start|>") != std::string::npos) {
    return {"<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", {"<|im_end|>"}};
  }
  if (tokenizer_config.find("\"chat_template\"") != std::string::npos) {
    std::fputs("this checkpoint's chat template is not known; using plain turns\n", stderr);
  }
  return plain_turns(options);
}

class Conversation {
 public:
  Conversation(Runtime& runtime, GenerationOptions options, Turns turns, Sequence sequence)
      : runtime_(runtime),
        options_(std::move(options)),
        turns_(std::move(turns)),
        sequence_(std::move(sequence)) {
    options_.stop_strings = turns_.stops;
  }

  Result<void> reply(const std::string& line) {
    KRAIT_ASSIGN_OR_RETURN(
        const auto tokens,
        runtime_.tokenizer().encode((sequence_.tokens.empty() ? "" : "\n") + turns_.before_user +
                                    line + turns_.after_user + turns_.before_reply));
    sequence_.append(tokens);
    Result<void> written;
    const auto show = [&](const GenerationEvent& event) {
      written = print(event.text);
      if (written) written = flush();
      return !written || is_interrupted() ? Flow::stop : Flow::go_on;
    };
    KRAIT_ASSIGN_OR_RETURN(
        const Generation generation,
        generate(*runtime_.session, runtime_.tokenizer(), sequence_, options_, show));
    KRAIT_RETURN_IF_ERROR(written);
    if (generation.text.empty() || generation.text.back() != '\n') {
      KRAIT_RETURN_IF_ERROR(print("\n"));
    }
    return flush();
  }

  const Sequence& sequence() const { return sequence_; }

 private:
  Runtime& runtime_;
  GenerationOptions options_;
  Turns turns_;
  Sequence sequence_;
};

Result<void> run(const Options& options) {
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  GenerationOptions generation{.max_tokens = options.tokens, .hold_back = false};
  const Result<SamplerOptions> sampler = options.sampler.resolve(runtime.model());
  if (!sampler) return sampler.error();
  generation.sampler = *sampler;
  generation.stop_tokens = runtime.language_model.stop_tokens;
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, load_state(runtime.model(), options.state_in));
  }
  Conversation conversation(runtime, generation,
                            turns_of(options, runtime.language_model.tokenizer_config),
                            std::move(sequence));
  const bool is_terminal = isatty(STDIN_FILENO) != 0;
  for (std::string line;;) {
    if (is_terminal) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line) || is_interrupted()) break;
    if (line.empty()) continue;
    KRAIT_RETURN_IF_ERROR(conversation.reply(line));
  }
  if (is_terminal) std::fputs("\n", stderr);
  if (!options.state_out.empty()) {
    KRAIT_RETURN_IF_ERROR(save_state(conversation.sequence(), options.state_out));
  }
  if (is_interrupted()) return interruption();
  return {};
}

}  // namespace

void add_chat(CLI::App& app, int& result) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("chat", "Talks line by line; the model's state remembers everything");
  command->add_option("-n,--tokens", options->tokens, "Tokens of a reply, at most")
      ->check(CLI::Range(Index{1}, Index{1} << 31))
      ->capture_default_str();
  options->sampler.add(*command);
  command->add_option("--user-prefix", options->user, "Written in front of your lines")
      ->capture_default_str();
  command->add_option("--reply-prefix", options->assistant, "Written in front of replies")
      ->capture_default_str();
  command->add_option("--stop", options->stops, "End a reply before this string; may be repeated")
      ->take_all();
  command->add_option("--state-in", options->state_in, "Go on with a saved conversation");
  command->add_option("--state-out", options->state_out, "Save the conversation at the end");
  add_common(*command, options->common, "");
  command->footer("Example: krait chat --state-out talk.safetensors");
  command->callback([options, &result] {
    const Result<void> outcome = run(*options);
    result = outcome ? ok : report(outcome.error());
  });
}

}  // namespace krait::cli
