#include "krait/tools/quantize.hpp"

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  std::string source;
  std::string destination;
  std::string form;
  int threads = 0;
  bool json = false;
};

Result<void> run(const Options& options) {
  const std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  ProgressLine progress("quantize", "bytes");
  KRAIT_ASSIGN_OR_RETURN(const QuantizeSummary summary,
                         quantize_checkpoint(options.source, options.destination,
                                             weight_form(options.form), *threads, progress));
  if (options.json) {
    return print_json({{"source", options.source},
                       {"destination", options.destination},
                       {"form", options.form},
                       {"tensors", summary.tensors},
                       {"converted", summary.converted},
                       {"forms", summary.forms},
                       {"bytes_before", summary.bytes_before},
                       {"bytes_after", summary.bytes_after}});
  }
  std::string forms;
  for (const auto& [form, count] : summary.forms) {
    forms += (forms.empty() ? "" : ", ") + std::to_string(count) + " in " + form;
  }
  KRAIT_RETURN_IF_ERROR(print(options.destination + ": " + std::to_string(summary.tensors) +
                              " tensors (" + forms + "), " + std::to_string(summary.bytes_after) +
                              " bytes of " + std::to_string(summary.bytes_before) + "\n"));
  return flush();
}

}  // namespace

void add_quantize(CLI::App& app, int& result) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "quantize", "Writes a checkpoint with its weight matrices in another form");
  command
      ->add_option("source", options->source,
                   "Checkpoint directory, weight file, or the name of a bundled model")
      ->required();
  command->add_option("destination", options->destination, "Folder to make")->required();
  command->add_option("--to", options->form, "Form of the weight matrices")
      ->required()
      ->check(CLI::IsMember({"q8", "q4", "bf16", "f16"}));
  add_threads(*command, options->threads);
  command->add_flag("--json", options->json, "One JSON object: tensors by form, bytes");
  command->footer("Example: krait quantize mamba-130m-hf mamba-130m-q8 --to q8");
  command->callback([options, &result] {
    const Result<void> outcome = run(*options);
    result = outcome ? ok : report(outcome.error());
  });
}

}  // namespace krait::cli
