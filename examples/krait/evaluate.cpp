#include "krait/tools/evaluate.hpp"

#include <cstdio>

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string reference;
  TextSource text;
  std::optional<Index> limit;
};

Result<void> run(const Options& options) {
  if (options.reference.empty()) throw WrongUsage("--kl", "a reference model", "none");
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  // As it is stored: --dtype is for the model.
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel reference, load_language_model(options.reference));
  Session session(reference.model, *runtime.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const std::string text,
      read_text_part(options.text, "--file", options.limit, runtime.tokenizer()));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         encode_text(runtime.language_model, text));
  ProgressLine progress("evaluate", "tokens");
  KRAIT_ASSIGN_OR_RETURN(const KlDivergence kl, kl_divergence(session, *runtime.session,
                                                              *runtime.threads, tokens, progress));
  if (options.common.json) {
    return print_json({{"file", options.text.name()},
                       {"reference", options.reference},
                       {"positions", kl.positions},
                       {"kl", kl.mean},
                       {"kl_largest", kl.largest},
                       {"same_top", kl.same_top}});
  }
  char line[256];
  std::snprintf(line, sizeof line,
                "KL divergence %.6g nats per token (largest %.6g), the same most probable token at "
                "%.2f %% of %lld positions\n",
                kl.mean, kl.largest, 100.0 * kl.same_top, static_cast<long long>(kl.positions));
  KRAIT_RETURN_IF_ERROR(print(line));
  return flush();
}

}  // namespace

void add_evaluate(CommandLine& line) {
  auto options = std::make_shared<Options>();
  Command& command =
      line.add("evaluate", "Measures how far a model's predictions are from another's",
               "krait evaluate --kl krait-bytes-moe --dtype q4 --file book.txt",
               [options] { return run(*options); });
  command.file("--kl", options->reference,
               "Reference model, run as it is stored: mean KL divergence from it");
  command.file("--file", options->text.file,
               "Text file; '-', or none where text is piped in: standard input");
  command.number("--limit", options->limit, 1, Index{1} << 60, "Only the first N bytes");
  add_common(command, options->common, "One JSON object: kl, kl_largest, same_top");
}

}  // namespace krait::cli
