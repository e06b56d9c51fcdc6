#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct TokenizeFlags {
  CommonOptions common;
  TextSource text;
  std::optional<std::string> decode;
};

Result<void> run_decode(const TokenizeFlags& options, const Tokenizer& tokenizer) {
  std::string list = *options.decode;
  if (list == "-") {
    KRAIT_ASSIGN_OR_RETURN(list, Input::standard().rest());
  }
  const std::vector<Token> tokens = parse_tokens(list, "--decode", tokenizer.vocab() - 1);
  const std::string text = tokenizer.decode(tokens);
  if (options.common.json) return print_json(text_to_json(text));
  return print_all(text);
}

Result<void> run(const TokenizeFlags& options) {
  if (options.text.argument && !options.text.file.empty()) {
    throw WrongUsage("--file", "no text beside it", in_quotes(*options.text.argument));
  }
  if (options.decode && options.text.is_given()) {
    throw WrongUsage("--decode", "no text beside it", "one");
  }
  if (options.decode && *options.decode != "-") parse_tokens(*options.decode, "--decode");
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel loaded,
                         load_language_model(options.common.model, load_options(options.common)));
  if (options.decode) return run_decode(options, *loaded.tokenizer);
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         read_tokens(options.text, "text", loaded));
  if (options.common.json) return print_json(to_json(tokens));
  std::string line;
  for (const Token token : tokens) line += (line.empty() ? "" : " ") + std::to_string(token);
  return print_all(line + "\n");
}

void declare(Command& command, TokenizeFlags& options) {
  command.positional("text", options.text.argument,
                     "Text; '-', or none where text is piped in: standard input");
  command.file("--file", options.text.file, "Read the text from a file");
  command.text("--decode", options.decode,
               "Ids such as 1,2,3 or \"1 2 3\", to be turned into text; '-': standard input");
  add_common(command, options.common, "Ids as one JSON array");
}

}  // namespace

void add_tokenize(CommandLine& line) {
  line.add<TokenizeFlags>("tokenize", "Turns text into token ids, and back",
                          "krait tokenize \"Hello world\" --json", declare, run);
}

}  // namespace krait::cli
