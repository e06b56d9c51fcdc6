#include <cstdio>

#include "command.hpp"
#include "krait/io/atomic_file.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct InspectFlags {
  CommonOptions common;
  std::optional<std::string> path;
  bool tensors = false;
  std::string router_stats;  // a text
  std::string spectrum;      // a file to write
};

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
Result<void> run_router_stats(const InspectFlags& options) {
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
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         read_tokens({.argument = {}, .file = options.router_stats},
                                     "--router-stats", runtime.language_model));
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
    return print_json(
        to_json(statistics.layers(), common.model, options.router_stats, tokens.size()));
  }
  return print_all(to_table(statistics.layers()));
}

// Draws the singular values of all matrices.
Result<void> run_spectrum(const InspectFlags& options) {
  KRAIT_RETURN_IF_ERROR(check_destination("--spectrum", options.spectrum,
                                          {options.path.value_or(options.common.model)}));
  const std::unique_ptr<ThreadPool> threads = make_threads(options.common.threads);
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan,
                         plan_checkpoint(options.path.value_or(options.common.model)));
  const double begun = now();
  ProgressLine progress("spectrum", "matrices");
  KRAIT_ASSIGN_OR_RETURN(const std::string svg, draw_spectrum(plan, *threads, progress));
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(options.spectrum));
  KRAIT_RETURN_IF_ERROR(file.write(svg));
  KRAIT_RETURN_IF_ERROR(file.commit());
  if (!options.common.json) return {};
  return print_json(file_to_json(options.spectrum, now() - begun));
}

Result<void> run(const InspectFlags& options) {
  if (options.path && options.path->empty()) throw WrongUsage("path", "a checkpoint", "no name");
  if (options.path && options.common.model != CommonOptions{}.model) {
    throw WrongUsage("--model", "no path beside it", "both");
  }
  const bool is_drawn = !options.spectrum.empty();
  if (is_drawn && !options.router_stats.empty()) {
    throw WrongUsage("--spectrum", "no --router-stats beside it", "both");
  }
  if (options.tensors && (is_drawn || !options.router_stats.empty())) {
    throw WrongUsage("--tensors",
                     is_drawn ? "no --spectrum beside it" : "no --router-stats beside it", "both");
  }
  if (is_drawn && !options.common.adapter.empty()) {
    throw WrongUsage("--lora", "no --spectrum beside it", "both");
  }
  if (!options.router_stats.empty()) return run_router_stats(options);
  if (!options.spectrum.empty()) return run_spectrum(options);
  const std::string path = options.path.value_or(options.common.model);
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan planned,
                         plan_checkpoint(path, load_options(options.common)));
  if (options.common.json) return print_json(to_json(planned));

  const auto& [plan, config, checkpoint] = planned;
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
  return print_all(text);
}

void declare(Command& command, InspectFlags& options) {
  command.positional("path", options.path, "Checkpoint; the default is that of --model");
  command.flag("--tensors", options.tensors, "Also list every tensor on a line of its own");
  command.file("--router-stats", options.router_stats,
               "Run this text ('-': standard input) and show, per mixture of experts, each "
               "expert's share of the tokens, its mean gate, and the balance (entropy of the "
               "shares over its maximum)");
  command.file("--spectrum", options.spectrum,
               "Write a drawing of the matrices' singular values instead (SVG)");
  add_common(command, options.common, "One JSON object");
}

}  // namespace

void add_inspect(CommandLine& line) {
  line.add<InspectFlags>("inspect", "Shows a model: tensors, sizes, and the memory it will take",
                         "krait inspect krait-bytes-moe", declare, run);
}

}  // namespace krait::cli
