#include <cmath>
#include <cstdio>

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  std::optional<std::string> file;
  std::optional<Index> limit;
};

Result<void> run(const Options& options) {
  if (options.file && options.file->empty()) throw WrongUsage("file", "a name", "an empty one");
  const TextSource source{.argument = {}, .file = options.file.value_or("")};
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common, {.max_batch = 16}));
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_text_part(source, "file", options.limit, runtime.tokenizer()));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         encode_text(runtime.language_model, text));
  if (tokens.size() < 2) {
    return Error{ErrorCode::bad_argument, "[command] text: expected at least 2 tokens, found " +
                                              std::to_string(tokens.size()) + " (" + source.name() +
                                              ")"};
  }

  // The state is carried through the whole text; every token but the first is scored.
  State state = runtime.model().initial_state();
  ProgressLine progress("perplexity", "tokens");
  constexpr std::size_t segment = 4096;
  std::vector<float> log_probs(segment);
  double nats = 0.0;
  double scored_bytes = 0.0;
  const double begun = now();
  const std::size_t scored = tokens.size() - 1;
  for (std::size_t first = 0; first < scored;) {
    const std::size_t count = std::min(segment, scored - first);
    const auto part = std::span(log_probs).first(count);
    KRAIT_RETURN_IF_ERROR(
        runtime.session->score(std::span(tokens).subspan(first, count + 1), state, part));
    for (std::size_t i = 0; i < count; ++i) {
      nats -= static_cast<double>(part[i]);
      scored_bytes += static_cast<double>(runtime.tokenizer().bytes(tokens[first + i + 1]).size());
    }
    first += count;
    if (progress(static_cast<Index>(first), static_cast<Index>(scored)) == Flow::stop) {
      return interruption();
    }
  }
  const double seconds = now() - begun;
  const double per_token = nats / static_cast<double>(scored);
  const double bits_per_byte = nats / std::log(2.0) / scored_bytes;
  if (options.common.json) {
    return print_json({{"file", source.name()},
                       {"tokens", tokens.size()},
                       {"scored_tokens", scored},
                       {"scored_bytes", scored_bytes},
                       {"perplexity", std::exp(per_token)},
                       {"nats_per_token", per_token},
                       {"bits_per_byte", bits_per_byte},
                       {"tokens_per_second", static_cast<double>(scored) / seconds}});
  }
  char line[256];
  std::snprintf(line, sizeof line,
                "perplexity %.6f, %.6f nats per token, %.6f bits per byte (%zu tokens scored, "
                "%.0f bytes)\n",
                std::exp(per_token), per_token, bits_per_byte, scored, scored_bytes);
  KRAIT_RETURN_IF_ERROR(print(line));
  KRAIT_RETURN_IF_ERROR(flush());
  std::fprintf(stderr, "%.1f tokens/s\n", static_cast<double>(scored) / seconds);
  return {};
}

}  // namespace

void add_perplexity(CommandLine& line) {
  auto options = std::make_shared<Options>();
  Command& command =
      line.add("perplexity", "Measures how well the model predicts a text",
               "krait perplexity book.txt --limit 65536", [options] { return run(*options); });
  command.positional("file", options->file,
                     "Text file; '-', or none where text is piped in: standard input");
  command.number("--limit", options->limit, 1, Index{1} << 60, "Only the first N bytes");
  add_common(command, options->common,
             "One JSON object: perplexity, nats_per_token, bits_per_byte");
}

}  // namespace krait::cli
