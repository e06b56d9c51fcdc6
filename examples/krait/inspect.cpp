#include <cstdio>

#include "command.hpp"
#include "krait/tools/routing.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  std::optional<std::string> path;
  bool tensors = false;
  std::string router_stats;  // a text
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
          {"wrapper", config.wrapper},
          {"spec", to_string(config.spec)},
          {"parameters", plan.parameters},
          {"active_parameters", plan.active_parameters},
          {"bytes_per_token", plan.bytes_per_token},
          {"weights_bytes", plan.in_place_bytes + plan.owned_bytes},
          {"in_place_bytes", plan.in_place_bytes},
          {"owned_bytes", plan.owned_bytes},
          {"state_bytes", plan.state_bytes},
          {"scratch_bytes_per_token", plan.scratch_bytes_per_token},
          {"cache_bytes_per_token", plan.cache_bytes_per_token},
          {"trail_bytes_per_token", plan.trail_bytes_per_token},
          {"tensors", tensors},
          {"unused_tensors", plan.unused},
          {"ignored_config_keys", config.ignored}};
}

nlohmann::json to_json(const std::vector<ExpertUse>& layers) {
  nlohmann::json result = nlohmann::json::array();
  for (const ExpertUse& layer : layers) {
    nlohmann::json experts = nlohmann::json::array();
    for (Index e = 0; e < std::ssize(layer.chosen); ++e) {
      experts.push_back({{"chosen", layer.chosen[static_cast<std::size_t>(e)]},
                         {"share", layer.share(e)},
                         {"mean_gate", layer.mean_gate(e)}});
    }
    result.push_back({{"layer", layer.path},
                      {"tokens", layer.tokens},
                      {"balance", layer.balance()},
                      {"experts", experts}});
  }
  return result;
}

// A table with a column per expert: its share of the tokens in percent, and its mean gate.
std::string to_table(const std::vector<ExpertUse>& layers) {
  std::string text;
  char cell[64];
  for (const ExpertUse& layer : layers) {
    std::snprintf(cell, sizeof cell, " balance %.3f\n", layer.balance());
    text += shown(layer.path) + cell;
    std::string experts = "  expert ";
    std::string shares = "  share %";
    std::string gates = "  gate   ";
    for (Index e = 0; e < std::ssize(layer.chosen); ++e) {
      std::snprintf(cell, sizeof cell, "%7d", static_cast<int>(e));
      experts += cell;
      std::snprintf(cell, sizeof cell, "%7.2f", 100.0 * layer.share(e));
      shares += cell;
      std::snprintf(cell, sizeof cell, "%7.3f", layer.mean_gate(e));
      gates += cell;
    }
    text += experts + "\n" + shares + "\n" + gates + "\n";
  }
  return text;
}

// Runs the text and shows where its tokens went.
Result<void> run_router_stats(const Options& options) {
  CommonOptions common = options.common;
  if (options.path) common.model = *options.path;
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(common));
  RoutingStatistics statistics(runtime.model());
  if (statistics.layers().empty()) {
    return Error{ErrorCode::bad_argument,
                 "[command] --router-stats: expected a model with experts, "
                 "found one without (" +
                     common.model + ")"};
  }
  KRAIT_ASSIGN_OR_RETURN(
      const std::string text,
      read_text({.argument = {}, .file = options.router_stats}, "--router-stats"));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         encode_text(runtime.language_model, text));
  if (tokens.empty()) {
    return Error{ErrorCode::bad_argument,
                 "[command] " + options.router_stats + ": expected a text, found an empty file"};
  }
  Session session(runtime.model(), *runtime.threads, {.hook = &statistics});
  State state = runtime.model().initial_state();
  ProgressLine progress("router statistics", "tokens");
  const auto report = [&](Index done, Index total) { return progress(done, total); };
  KRAIT_RETURN_IF_ERROR(session.prefill(tokens, state, report));
  if (common.json) {
    return print_json({{"path", common.model},
                       {"file", options.router_stats},
                       {"tokens", tokens.size()},
                       {"layers", to_json(statistics.layers())}});
  }
  KRAIT_RETURN_IF_ERROR(print(to_table(statistics.layers())));
  return flush();
}

Result<void> run(const Options& options) {
  if (options.path && options.path->empty()) throw WrongUsage("path", "a checkpoint", "no name");
  if (!options.router_stats.empty()) return run_router_stats(options);
  const std::string path = options.path.value_or(options.common.model);
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan planned,
                         plan_checkpoint(path, load_options(options.common)));
  const auto& [plan, config, checkpoint] = planned;
  if (options.common.json) return print_json(to_json(plan, config, checkpoint));

  std::string text = shown(checkpoint.path) + "\n" + shown(plan.tree, true);
  if (!config.ignored.empty()) {
    text += "configuration keys that change nothing here:";
    for (const std::string& key : config.ignored) text += " " + shown(key);
    text += "\n";
  }
  if (!config.wrapper.empty()) {
    text += "before every name of a tensor: " + shown(config.wrapper) + ".\n";
  }
  if (!plan.unused.empty()) {
    text += "tensors that the model does not use:";
    for (const std::string& name : plan.unused) text += " " + shown(name);
    text += "\n";
  }
  if (options.tensors) {
    for (const TensorUse& use : plan.tensors) {
      text += shown(use.name) + " " + shown(use.form) + " " + to_string(use.shape) + " " +
              std::to_string(use.bytes) + "\n";
    }
  }
  KRAIT_RETURN_IF_ERROR(print(text));
  return flush();
}

}  // namespace

void add_inspect(CommandLine& line) {
  auto options = std::make_shared<Options>();
  Command& command =
      line.add("inspect", "Shows a model: tensors, sizes, and the memory it will take",
               "krait inspect krait-bytes-moe", [options] { return run(*options); });
  command.positional("path", options->path, "Checkpoint; the default is that of --model");
  command.flag("--tensors", options->tensors, "Also list every tensor on a line of its own");
  command.file("--router-stats", options->router_stats,
               "Run this text ('-': standard input) and show, per mixture of experts, each "
               "expert's share of the tokens, its mean gate, and the balance (entropy of the "
               "shares over its maximum)");
  add_common(command, options->common, "One JSON object");
}

}  // namespace krait::cli
