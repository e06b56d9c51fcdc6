#include <cstdio>

#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct PerplexityFlags {
  CommonOptions common;
  DrugFlags drugs;
  std::optional<std::string> file;
  std::optional<Index> limit;
};

Result<void> run(const PerplexityFlags& options) {
  if (options.file && options.file->empty()) throw WrongUsage("file", "a name", "an empty one");
  options.drugs.check();
  const TextSource source{.argument = {}, .file = options.file.value_or("")};
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common, {.max_batch = 16}));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         read_tokens(source, "file", runtime.language_model, options.limit));
  if (tokens.size() < 2) {
    return Error{ErrorCode::bad_argument, "[command] text: expected at least 2 tokens, found " +
                                              std::to_string(tokens.size()) + " (" + source.name() +
                                              ")"};
  }

  KRAIT_ASSIGN_OR_RETURN(const auto drugs, options.drugs.resolve(runtime.model()));
  ProgressLine progress("perplexity", "tokens");
  const double begun = now();
  KRAIT_ASSIGN_OR_RETURN(
      const Perplexity found,
      drugs ? noised_perplexity(*runtime.session, drugs, runtime.tokenizer(), tokens, progress)
            : perplexity(*runtime.session, runtime.tokenizer(), tokens, progress));
  const double seconds = now() - begun;
  if (options.common.json) {
    return print_json(to_json(ScoredText{source.name(), tokens.size(), found, seconds}));
  }
  char line[256];
  std::snprintf(line, sizeof line,
                "perplexity %.6f, %.6f nats per token, %.6f bits per byte (%lld tokens scored, "
                "%lld bytes)\n",
                found.value(), found.nats_per_token(), found.bits_per_byte(),
                static_cast<long long>(found.tokens), static_cast<long long>(found.bytes));
  KRAIT_RETURN_IF_ERROR(print_all(line));
  std::fprintf(stderr, "%.1f tokens/s\n", static_cast<double>(found.tokens) / seconds);
  return {};
}

void declare(Command& command, PerplexityFlags& options) {
  command.positional("file", options.file,
                     "Text file; '-', or none where text is piped in: standard input");
  command.number("--limit", options.limit, 1, Index{1} << 60, "Only the first N bytes");
  options.drugs.add(command);
  add_common(command, options.common, "One JSON object: perplexity, nats_per_token, bits_per_byte");
}

}  // namespace

void add_perplexity(CommandLine& line) {
  line.add<PerplexityFlags>("perplexity", "Measures how well the model predicts a text",
                            "krait perplexity book.txt --limit 65536", declare, run);
}

}  // namespace krait::cli
