#include "krait/tools/laser.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "command.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/tools/laser_search.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct LaserFlags {
  SourceAndDestination places;
  std::vector<std::string> set;
  bool dense = false;
  std::string rule;
  bool search = false;
  bool quick = false;
  std::string data;
  std::string task = "text";
  std::string mode = "improve";
  std::optional<double> loss;
  std::optional<double> budget;
  std::vector<std::string> matrices;
  std::optional<std::uint64_t> seed;
  std::string svg;
  int threads = 0;
  bool json = false;
};

void check(const LaserFlags& options) {
  options.places.check();
  if (options.search && !options.set.empty()) throw WrongUsage("--set", "no --search", "both");
  if (options.search && options.data.empty()) throw WrongUsage("--data", "a file", "none");
  if (!options.search && !options.data.empty()) throw WrongUsage("--data", "--search", "none");
  if (!options.search && !options.svg.empty()) throw WrongUsage("--svg", "--search", "none");
  if (!options.search && options.budget) throw WrongUsage("--budget", "--search", "none");
  if (!options.search && options.seed) throw WrongUsage("--seed", "--search", "none");
  if (!options.search && !options.matrices.empty()) {
    throw WrongUsage("--matrices", "--search", "none");
  }
  if (!options.search && options.quick) throw WrongUsage("--quick", "--search", "none");
  if (options.quick && options.mode == "shrink") {
    throw WrongUsage("--quick", "no --mode shrink, which needs higher ranks", "both");
  }
  if (options.quick && !options.rule.empty()) {
    throw WrongUsage("--quick", "no --rule, which needs all singular values", "both");
  }
  const LaserFlags defaults;
  if (!options.search && options.mode != defaults.mode) {
    throw WrongUsage("--mode", "--search", "none");
  }
  if (!options.search && options.task != defaults.task) {
    throw WrongUsage("--task", "--search", "none");
  }
  const bool shrinks = options.search && options.mode == "shrink";
  if (!shrinks && options.loss) throw WrongUsage("--loss", "--search --mode shrink", "others");
  if (shrinks && options.dense) {
    throw WrongUsage("--dense", "no --mode shrink, since products are as large", "both");
  }
  if (!options.search && !options.rule.empty() && !options.set.empty()) {
    throw WrongUsage("--set", "no --rule", "both");
  }
  if (!options.search && options.rule.empty() && options.set.empty()) {
    throw WrongUsage("--set", "LAYER:MATRIX:RANK, or --rule, or --search", "none");
  }
}

LaserTask task_of(const std::string& name) {
  if (name == "hellaswag") return LaserTask::hellaswag;
  if (name == "lambada") return LaserTask::lambada;
  return name == "jsonl" ? LaserTask::jsonl : LaserTask::text;
}

Result<void> run_cuts(const LaserFlags& options, const CheckpointPlan& plan, Executor& executor) {
  std::vector<LaserCut> cuts;
  const std::vector<LaserMatrix> matrices = laser_matrices(plan);
  for (const std::string& text : options.set) {
    const auto cut = parse_laser_cut(text, matrices);
    if (!cut) throw WrongUsage("--set", cut.error());
    cuts.push_back(*cut);
  }
  if (!options.rule.empty()) {
    KRAIT_ASSIGN_OR_RETURN(cuts, laser_rule(plan, executor));
  }
  KRAIT_ASSIGN_OR_RETURN(
      const LaserSummary summary,
      write_laser(plan, *options.places.destination, cuts,
                  options.dense ? LaserForm::dense : LaserForm::smaller, executor));
  if (options.json) return print_json(to_json(summary));
  std::string text;
  for (const LaserCut& cut : summary.cuts) text += fmt::format("{}\n", shown(to_string(cut)));
  text += fmt::format("{}: {} matrices cut, {} tensors became factors, {} bytes of {}\n",
                      shown(*options.places.destination), summary.cuts.size(), summary.factored,
                      summary.bytes_after, summary.bytes_before);
  return print_all(text);
}

std::string text_of(const LaserScore& score) {
  return fmt::format(
      "{:.5f} -> {:.5f} bits per byte ({:+.5f}, 95 % {:+.5f} to {:+.5f}, {} samples)", score.before,
      score.after, score.after - score.before, score.low, score.high, score.samples);
}

std::string table_of(const LaserSearchReport& report, const std::string& destination) {
  std::vector<LaserTrial> best = report.trials;
  std::ranges::stable_sort(best, {}, &LaserTrial::change);
  std::string text =
      fmt::format("{} trials{}; the best of them:\n", report.trials.size(),
                  report.is_complete ? "" : ", not all that there are: the time was over");
  for (std::size_t i = 0; i < std::min<std::size_t>(best.size(), 20); ++i) {
    text +=
        fmt::format("  {:<20} {:+.5f} +- {:.5f} bits per byte, {} samples\n",
                    shown(to_string(best[i].cut)), best[i].change, best[i].error, best[i].samples);
  }
  if (report.cuts.empty()) return text + "no cut is worth it: nothing is written\n";
  text += "chosen, on data that did not choose:\n";
  for (const auto& [cut, score] : report.cuts) {
    text += fmt::format("  {:<20} {}\n", shown(to_string(cut)), text_of(score));
  }
  text += fmt::format("all together: {}\n", text_of(report.test));
  if (report.accuracy_before) {
    text += fmt::format("accuracy: {:.4f} -> {:.4f}\n", *report.accuracy_before,
                        *report.accuracy_after);
  }
  if (report.uniform) {
    text += fmt::format("the same fraction everywhere: {}, {} bytes\n", text_of(*report.uniform),
                        report.uniform_bytes);
  }
  return text + fmt::format("{}: {} bytes of {}\n", shown(destination), report.bytes_after,
                            report.bytes_before);
}

Result<void> run_search(const LaserFlags& options, const CheckpointPlan& plan, Executor& executor) {
  KRAIT_RETURN_IF_ERROR(
      check_destination("--svg", options.svg, {options.data, *options.places.source}));
  KRAIT_ASSIGN_OR_RETURN(const std::string data,
                         read_text({.argument = {}, .file = options.data}, "--data"));
  ProgressLine progress("laser", "trials times layers");
  KRAIT_ASSIGN_OR_RETURN(
      const LaserSearchReport report,
      laser_search(plan, *options.places.destination, data,
                   {.task = task_of(options.task),
                    .shrinks = options.mode == "shrink",
                    .loss = options.loss.value_or(0.01),
                    .minutes = options.budget.value_or(0.0),
                    .by_rule = !options.rule.empty(),
                    .form = options.dense ? LaserForm::dense : LaserForm::smaller,
                    .matrices = options.matrices,
                    .quick = options.quick,
                    .seed = options.seed.value_or(0)},
                   executor, progress));
  if (!options.svg.empty()) {
    KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(options.svg));
    KRAIT_RETURN_IF_ERROR(file.write(draw_trials(report)));
    KRAIT_RETURN_IF_ERROR(file.commit());
  }
  if (options.json) return print_json(to_json(report));
  return print_all(table_of(report, *options.places.destination));
}

Result<void> run(const LaserFlags& options) {
  check(options);
  const std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan, plan_checkpoint(*options.places.source));
  return options.search ? run_search(options, plan, *threads) : run_cuts(options, plan, *threads);
}

Result<void> at_least_zero(double value, std::string_view unit) {
  if (value >= 0.0 && value < 1e9) return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[command] expected {} of at least 0, found {}", unit, value)};
}

void declare(Command& command, LaserFlags& options) {
  options.places.add(command);
  command.texts("--set", options.set,
                "LAYER:MATRIX:RANK cuts a matrix (in, in_x, x_B, out, router, ...; emb:RANK, "
                "head:RANK) to a rank, or to a fraction of the largest; may be repeated");
  command.flag("--dense", options.dense, "Write products, never factors");
  command.choice("--rule", options.rule, {"mp"},
                 "Ranks by laserRMT's rule: of all matrices, or of those that are tried");
  command.flag("--search", options.search, "Try all matrices and ranks, and make the best of it");
  command.flag("--quick", options.quick,
               "Try ranks up to a quarter alone, by approximate decompositions; what is chosen is "
               "decomposed exactly");
  command.file("--data", options.data, "What to score; - is standard input");
  command.choice("--task", options.task, {"text", "hellaswag", "lambada", "jsonl"},
                 "What the data is; all but text are JSON lines");
  command.choice("--mode", options.mode, {"improve", "shrink"},
                 "A better score, or fewest bytes within --loss");
  command.real("--loss", options.loss,
               "Bits per byte that --mode shrink may cost; 0.01 if not given",
               [](double loss) { return at_least_zero(loss, "bits per byte"); });
  command.real("--budget", options.budget,
               "Minutes for trying; all that it takes if 0 or not given",
               [](double minutes) { return at_least_zero(minutes, "minutes"); });
  command.texts("--matrices", options.matrices,
                "Try these alone: a pattern such as in_x, head, 7:* or *; may be repeated; if not "
                "given, all but emb");
  command.seed("--seed", options.seed, "Of the division of the data");
  command.file("--svg", options.svg, "Also write a heat map of all that was tried");
  add_threads(command, options.threads);
  command.flag("--json", options.json, "One JSON object: cuts, bytes; of a search also trials");
}

}  // namespace

void add_laser(CommandLine& line) {
  line.add<LaserFlags>("laser", "Writes a checkpoint with matrices cut to lower ranks (LASER)",
                       "krait laser krait-bytes-2m smaller --set 7:out:0.25", declare, run);
}

}  // namespace krait::cli
