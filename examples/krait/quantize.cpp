#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct QuantizeFlags {
  SourceAndDestination places;
  std::string form;
  int threads = 0;
  bool json = false;
};

// Those that checkpoints are written in.
std::vector<std::string> forms() {
  std::vector<std::string> names;
  for (const WeightForm* form : weight_forms()) {
    if (form->row_form() != nullptr) names.emplace_back(form->name());
  }
  return names;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

Result<void> run(const QuantizeFlags& options) {
  options.places.check();
  if (options.form.empty()) throw WrongUsage("--to", "one of " + joined(forms()), "none");
  const std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  ProgressLine progress("quantize", "bytes");
  KRAIT_ASSIGN_OR_RETURN(const QuantizeSummary summary,
                         quantize_checkpoint(*options.places.source, *options.places.destination,
                                             options.form, *threads, progress));
  if (options.json) {
    return print_json(
        to_json(summary, *options.places.source, *options.places.destination, options.form));
  }
  std::string forms;
  for (const auto& [form, count] : summary.forms) {
    forms += (forms.empty() ? "" : ", ") + std::to_string(count) + " in " + form;
  }
  return print_all(shown(*options.places.destination) + ": " + std::to_string(summary.tensors) +
                   " tensors (" + forms + "), " + std::to_string(summary.bytes_after) +
                   " bytes of " + std::to_string(summary.bytes_before) + "\n");
}

void declare(Command& command, QuantizeFlags& options) {
  options.places.add(command);
  command.choice("--to", options.form, forms(), "Form of the weight matrices");
  add_threads(command, options.threads);
  command.flag("--json", options.json, "One JSON object: tensors by form, bytes");
}

}  // namespace

void add_quantize(CommandLine& line) {
  line.add<QuantizeFlags>("quantize",
                          "Writes a checkpoint with its weight matrices in another form",
                          "krait quantize mamba-130m-hf mamba-130m-q8 --to q8", declare, run);
}

}  // namespace krait::cli
