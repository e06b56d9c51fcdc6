#include "krait/tools/evaluate.hpp"

#include <cstdio>

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string reference;
  std::string file;
  std::optional<Index> limit;
};

Result<void> run(const Options& options) {
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  // As it is stored: --dtype is for the model.
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel reference, load_language_model(options.reference));
  Session session(reference.model, *runtime.threads);
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_text_part(options.file, options.limit, runtime.tokenizer()));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, runtime.tokenizer().encode(text));
  ProgressLine progress("evaluate", "tokens");
  KRAIT_ASSIGN_OR_RETURN(const KlDivergence kl, kl_divergence(session, *runtime.session,
                                                              *runtime.threads, tokens, progress));
  if (options.common.json) {
    return print_json({{"file", options.file},
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

void add_evaluate(CLI::App& app, int& result) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("evaluate", "Measures how far a model's predictions are from another's");
  command
      ->add_option("--kl", options->reference,
                   "Reference model, run as it is stored: mean KL divergence from it")
      ->required();
  command->add_option("--file", options->file, "Text file; '-': standard input")->required();
  command->add_option("--limit", options->limit, "Only the first N bytes")
      ->check(CLI::PositiveNumber);
  add_common(*command, options->common, "One JSON object: kl, kl_largest, same_top");
  command->footer("Example: krait evaluate --kl krait-bytes-moe --dtype q4 --file book.txt");
  command->callback([options, &result] {
    const Result<void> outcome = run(*options);
    result = outcome ? ok : report(outcome.error());
  });
}

}  // namespace krait::cli
