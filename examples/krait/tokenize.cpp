#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  TextSource text;
  std::string decode;
};

Result<void> run(const Options& options) {
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel loaded,
                         load_language_model(options.common.model, load_options(options.common)));
  if (!options.decode.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const auto tokens,
                           parse_tokens(options.decode, "--decode", loaded.tokenizer->vocab() - 1));
    const std::string text = loaded.tokenizer->decode(tokens);
    if (options.common.json) return print_json({{"text", text}});
    KRAIT_RETURN_IF_ERROR(print(text));
    return flush();
  }
  KRAIT_ASSIGN_OR_RETURN(const std::string text, read_text(options.text));
  KRAIT_ASSIGN_OR_RETURN(const auto tokens, loaded.tokenizer->encode(text));
  if (options.common.json) return print_json(tokens);
  std::string line;
  for (const Token token : tokens) line += (line.empty() ? "" : " ") + std::to_string(token);
  KRAIT_RETURN_IF_ERROR(print(line + "\n"));
  return flush();
}

}  // namespace

void add_tokenize(CLI::App& app, int& result) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "Turns text into token ids, and back");
  command->add_option("text", options->text.argument, "Text; '-': standard input");
  command->add_option("--file", options->text.file, "Read the text from a file")->excludes("text");
  command->add_option("--decode", options->decode, "Ids such as 1,2,3, to be turned into text");
  add_common(*command, options->common, "Ids as one JSON array");
  command->footer("Example: krait tokenize \"Hello world\" --json");
  command->callback([options, &result] {
    const Result<void> outcome = run(*options);
    result = outcome ? ok : report(outcome.error());
  });
}

}  // namespace krait::cli
