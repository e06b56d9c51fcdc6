#include <cstdio>

#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct EvaluateFlags {
  CommonOptions common;
  std::string reference;
  TextSource text;
  std::optional<Index> limit;
};

Result<void> run(const EvaluateFlags& options) {
  if (options.reference.empty()) throw WrongUsage("--kl", "a reference model", "none");
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  // As it is stored: --dtype is for the model.
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel reference, load_language_model(options.reference));
  Session session(reference.model, *runtime.threads);
  KRAIT_ASSIGN_OR_RETURN(
      const std::vector<Token> tokens,
      read_tokens(options.text, "--file", runtime.language_model, options.limit));
  ProgressLine progress("evaluate", "tokens");
  KRAIT_ASSIGN_OR_RETURN(const KlDivergence kl, kl_divergence(session, *runtime.session,
                                                              *runtime.threads, tokens, progress));
  if (options.common.json) {
    return print_json(to_json(kl, options.text.name(), options.reference));
  }
  char line[256];
  std::snprintf(line, sizeof line,
                "KL divergence %.6g nats per token (largest %.6g), the same most probable token at "
                "%.2f %% of %lld positions\n",
                kl.mean, kl.largest, 100.0 * kl.same_top, static_cast<long long>(kl.positions));
  return print_all(line);
}

void declare(Command& command, EvaluateFlags& options) {
  command.file("--kl", options.reference,
               "Reference model, run as it is stored: mean KL divergence from it");
  command.file("--file", options.text.file,
               "Text file; '-', or none where text is piped in: standard input");
  command.number("--limit", options.limit, 1, Index{1} << 60, "Only the first N bytes");
  add_common(command, options.common, "One JSON object: kl, kl_largest, same_top");
}

}  // namespace

void add_evaluate(CommandLine& line) {
  line.add<EvaluateFlags>("evaluate", "Measures how far a model's predictions are from another's",
                          "krait evaluate --kl krait-bytes-moe --dtype q4 --file book.txt", declare,
                          run);
}

}  // namespace krait::cli
