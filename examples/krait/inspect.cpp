#include <cstdio>

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string path;
  bool tensors = false;
};

std::string_view name_of(Placement placement) {
  switch (placement) {
    case Placement::in_place:
      return "in_place";
    case Placement::converted:
      return "converted";
    case Placement::derived:
      return "derived";
  }
  return "";
}

nlohmann::json to_json(const ModelPlan& plan, const ModelConfig& config,
                       const Checkpoint& checkpoint) {
  nlohmann::json tensors = nlohmann::json::array();
  for (const TensorUse& use : plan.tensors) {
    const auto extents = use.shape.extents();
    tensors.push_back({{"name", use.name},
                       {"shape", std::vector<Index>(extents.begin(), extents.end())},
                       {"dtype", use.form},
                       {"bytes", use.bytes},
                       {"placement", name_of(use.placement)}});
  }
  return {{"path", checkpoint.path},
          {"family", config.spec.family},
          {"spec", to_string(config.spec)},
          {"parameters", plan.parameters},
          {"weights_bytes", plan.in_place_bytes + plan.owned_bytes},
          {"in_place_bytes", plan.in_place_bytes},
          {"owned_bytes", plan.owned_bytes},
          {"state_bytes", plan.state_bytes},
          {"scratch_bytes_per_token", plan.scratch_bytes_per_token},
          {"trail_bytes_per_token", plan.trail_bytes_per_token},
          {"tensors", tensors},
          {"unused_tensors", plan.unused},
          {"ignored_config_keys", config.ignored}};
}

Result<void> run(const Options& options) {
  const std::string path = options.path.empty() ? options.common.model : options.path;
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan planned,
                         plan_checkpoint(path, load_options(options.common)));
  const auto& [plan, config, checkpoint] = planned;
  if (options.common.json) return print_json(to_json(plan, config, checkpoint));

  std::string text = checkpoint.path + "\n" + plan.tree;
  if (!config.ignored.empty()) {
    text += "configuration keys that change nothing here:";
    for (const std::string& key : config.ignored) text += " " + key;
    text += "\n";
  }
  if (!plan.unused.empty()) {
    text += "tensors that the model does not use:";
    for (const std::string& name : plan.unused) text += " " + name;
    text += "\n";
  }
  if (options.tensors) {
    for (const TensorUse& use : plan.tensors) {
      text += use.name + " " + use.form + " " + to_string(use.shape) + " " +
              std::to_string(use.bytes) + "\n";
    }
  }
  KRAIT_RETURN_IF_ERROR(print(text));
  return flush();
}

}  // namespace

void add_inspect(CLI::App& app, int& result) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "inspect", "Shows a model: tensors, sizes, and the memory it will take; loads nothing");
  command->add_option("path", options->path, "Checkpoint; the default is that of --model");
  command->add_flag("--tensors", options->tensors, "Also list every tensor on a line of its own");
  add_common(*command, options->common, "One JSON object");
  command->footer("Example: krait inspect krait-bytes-2m");
  command->callback([options, &result] {
    const Result<void> outcome = run(*options);
    result = outcome ? ok : report(outcome.error());
  });
}

}  // namespace krait::cli
