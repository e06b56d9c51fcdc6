#include <optional>

#include "command.hpp"
#include "krait/training.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct SelfRewardFlags {
  std::optional<std::string> config;
  std::string folder;
  int threads = 0;
  bool json = false;
};

// A line for each stage of each iteration.
class StageLines {
 public:
  Flow operator()(const SelfRewardProgress& progress) {
    if (progress.iteration != iteration_ || progress.stage != stage_) {
      iteration_ = progress.iteration;
      stage_ = progress.stage;
      line_.reset();
      line_.emplace(iteration_ == 0 ? "first model, " + stage_
                                    : "iteration " + std::to_string(iteration_) + ", " + stage_,
                    "done");
    }
    return (*line_)(progress.done, progress.total);
  }

 private:
  Index iteration_ = -1;
  std::string stage_;
  std::optional<ProgressLine> line_;
};

Result<void> run(const SelfRewardFlags& options) {
  if (!options.config) throw WrongUsage("config", "a configuration file", "none");
  if (options.folder.empty()) throw WrongUsage("--out", "the name of a folder", "none");
  KRAIT_ASSIGN_OR_RETURN(const SelfRewardConfig config, read_self_reward_config(*options.config));
  const std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  const double begun = now();
  Result<SelfRewardReport> report = [&] {
    StageLines lines;
    return self_reward(config, options.folder, *threads,
                       [&](const SelfRewardProgress& progress) { return lines(progress); });
  }();
  if (!report) return std::move(report).error();
  if (options.json) return print_json(file_to_json(options.folder, now() - begun));
  return print_all(to_table(*report));
}

void declare(Command& command, SelfRewardFlags& options) {
  command.positional("config", options.config, "Configuration, a JSON file");
  command.file("--out", options.folder,
               "Folder to make; the same command goes on with what is unfinished in it");
  add_threads(command, options.threads);
  command.flag("--json", options.json, "One JSON object: out, seconds");
}

}  // namespace

void add_self_reward(CommandLine& line) {
  line.add<SelfRewardFlags>("self-reward", "Trains a model on its own judgement of its answers",
                            "krait self-reward config.json --out run", declare, run);
}

}  // namespace krait::cli
