// The search from data to a checkpoint.

#include "krait/tools/laser_search.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/content_checksum.hpp"
#include "io/svg.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/loading/language_model.hpp"
#include "loading/checkpoint_texts.hpp"
#include "tools/checkpoint_copy.hpp"
#include "tools/laser/scan.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using namespace laser;

// What decides the trials, in words.
std::string key_of(const Model& model, std::string_view data, const LaserSearchOptions& options) {
  const std::string text = content_checksum({}, {{"data", std::string(data)}});
  std::string key =
      fmt::format("krait laser 2\nmodel {}\ndata {} bytes {}\ntask {}\n{}{}{}{}\nseed {}\n",
                  model.fingerprint(), data.size(), text, static_cast<int>(options.task),
                  options.shrinks ? "shrink" : "improve", options.by_rule ? " by rule" : "",
                  options.quick ? " quick" : "", options.form == LaserForm::dense ? " dense" : "",
                  options.seed);
  for (const std::string& pattern : options.matrices) {
    key += fmt::format("matrices {}\n", pattern);
  }
  return key;
}

Result<void> check(const LaserSearchOptions& options) {
  if (!std::isfinite(options.loss) || options.loss < 0.0) {
    return bad("loss", "bits per byte, at least 0", fmt::to_string(options.loss));
  }
  if (!std::isfinite(options.minutes) || options.minutes < 0.0) {
    return bad("budget", "minutes, at least 0", fmt::to_string(options.minutes));
  }
  if (options.quick && (options.shrinks || options.by_rule)) {
    return bad("quick", "a search for low ranks that make better",
               options.shrinks ? "one that shrinks, by higher ranks"
                               : "a rule, which needs all singular values");
  }
  return {};
}

// The chosen trials on the test part, each behind those before it, and all together.
Result<void> test(Scan& scan, const std::vector<Trial>& chosen, LaserSearchReport& report) {
  KRAIT_ASSIGN_OR_RETURN(const std::vector<double> before, scan.nats({}, scan.testing()));
  std::vector<double> current = before;
  std::vector<Cut> cuts;
  for (const Trial& trial : chosen) {
    const std::vector<Cut> more = scan.cuts_of(trial);
    cuts.insert(cuts.end(), more.begin(), more.end());
    KRAIT_ASSIGN_OR_RETURN(auto after, scan.nats(cuts, scan.testing()));
    const Unit& unit = scan.units()[trial.unit];
    report.cuts.push_back(
        {{unit.layer, unit.name, trial.rank}, score_of(current, after, scan.testing())});
    current = std::move(after);
  }
  report.test = score_of(before, current, scan.testing());
  return {};
}

Result<void> test_accuracy(Scan& scan, const std::vector<Cut>& cuts, Executor& executor,
                           LaserSearchReport& report) {
  KRAIT_ASSIGN_OR_RETURN(const Model before, scan.model_with({}));
  KRAIT_ASSIGN_OR_RETURN(const Model after, scan.model_with(cuts));
  KRAIT_ASSIGN_OR_RETURN(report.accuracy_before, accuracy_of(before, scan.testing(), executor));
  KRAIT_ASSIGN_OR_RETURN(report.accuracy_after, accuracy_of(after, scan.testing(), executor));
  return {};
}

Result<void> test_uniform(Scan& scan, const std::vector<Cut>& cuts, LaserForm form,
                          LaserSearchReport& report) {
  if (cuts.empty()) return {};
  KRAIT_ASSIGN_OR_RETURN(const auto before, scan.nats({}, scan.testing()));
  KRAIT_ASSIGN_OR_RETURN(const auto after, scan.nats(cuts, scan.testing()));
  report.uniform = score_of(before, after, scan.testing());
  report.uniform_bytes = bytes_of_weights(scan.cutter().apply(cuts, form));
  return {};
}

}  // namespace

Index laser::bytes_of_weights(const WeightStore& store) {
  Index bytes = 0;
  for (const auto& [name, entry] : store.entries()) bytes += entry.tensor.bytes();
  return bytes;
}

Result<LaserSearchReport> laser_search(const CheckpointPlan& source, const std::string& destination,
                                       std::string_view data, const LaserSearchOptions& options,
                                       Executor& executor, Progress progress) {
  const Checkpoint& checkpoint = source.checkpoint;
  KRAIT_RETURN_IF_ERROR(check(options));
  KRAIT_ASSIGN_OR_RETURN(Cutter cutter, Cutter::create(source));
  KRAIT_RETURN_IF_ERROR(check_outside(checkpoint, destination, "laser"));
  KRAIT_RETURN_IF_ERROR(check_texts(checkpoint));
  KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, make_tokenizer(checkpoint, source.config));
  KRAIT_ASSIGN_OR_RETURN(const Model model,
                         build_model(source.config.spec, checkpoint.weights, source.config.prefix));
  Scan scan(std::move(cutter), model, options, executor, progress);
  KRAIT_RETURN_IF_ERROR(scan.begin(data, *tokenizer));
  // Whether there is room for the result is asked before the work; it is made behind it.
  KRAIT_RETURN_IF_ERROR(AtomicDirectory::create(destination));
  KRAIT_ASSIGN_OR_RETURN(const auto work,
                         PartialWork::open("laser", destination, key_of(model, data, options)));
  if (const Result<void> done = scan.run(work); !done) {
    if (done.error().code == ErrorCode::not_finite) work.remove();
    return done.error();
  }

  LaserSearchReport report;
  std::vector<Trial> chosen;
  std::vector<Cut> uniform;
  if (options.shrinks) {
    KRAIT_ASSIGN_OR_RETURN(Shrunk shrunk, choose_smallest(scan, options));
    chosen = std::move(shrunk.chosen);
    uniform = std::move(shrunk.uniform);
  } else {
    KRAIT_ASSIGN_OR_RETURN(chosen, choose_better(scan));
  }
  KRAIT_RETURN_IF_ERROR(test(scan, chosen, report));
  std::vector<Cut> cuts;
  std::vector<LaserCut> named;
  for (const Trial& trial : chosen) {
    for (const Cut& cut : scan.cuts_of(trial)) {
      cuts.push_back(cut);
      named.push_back(scan.cutter().named(cut));
    }
  }
  if (options.task != LaserTask::text) {
    KRAIT_RETURN_IF_ERROR(test_accuracy(scan, cuts, executor, report));
  }
  KRAIT_RETURN_IF_ERROR(test_uniform(scan, uniform, options.form, report));
  report.bytes_before = bytes_of_weights(scan.cutter().apply({}, options.form));
  report.bytes_after = report.bytes_before;
  report.is_complete = scan.is_complete();
  for (const Trial& trial : scan.trials()) {
    const Unit& unit = scan.units()[trial.unit];
    if (trial.found.samples == 0) continue;
    report.trials.push_back({{unit.layer, unit.name, trial.rank},
                             trial.found.change,
                             trial.found.error,
                             trial.found.samples});
  }
  if (!named.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const LaserSummary summary,
                           write_laser(source, destination, named, options.form, executor));
    report.bytes_after = summary.bytes_after;
  }
  work.remove();
  return report;
}

std::string draw_trials(const LaserSearchReport& report) {
  // Columns are matrices, as they come first; rows are layers. A cell has a stripe for each rank,
  // from the lowest.
  std::vector<std::string> names;
  Index layers = 0;
  bool has_ends = false;  // embedding or head
  std::vector<double> sizes;
  for (const LaserTrial& trial : report.trials) {
    if (std::ranges::find(names, trial.cut.matrix) == names.end()) {
      names.push_back(trial.cut.matrix);
    }
    layers = std::max(layers, trial.cut.layer + 1);
    has_ends = has_ends || trial.cut.layer < 0;
    if (std::isfinite(trial.change)) sizes.push_back(std::abs(trial.change));
  }
  std::ranges::sort(sizes);
  // Half of the trials are stronger in colour than that.
  const double strong = sizes.empty() ? 1.0 : std::max(1e-9, 2.0 * sizes[sizes.size() / 2]);
  constexpr double cell = 56.0;
  constexpr double height = 22.0;
  constexpr double left = 60.0;
  constexpr double top = 40.0;
  Svg svg;
  svg.text(
      left, 16.0,
      fmt::format("change in bits per byte, ranks from the lowest; full red: {:.2g} more", strong));
  for (std::size_t i = 0; i < names.size(); ++i) {
    svg.text(left + cell * (static_cast<double>(i) + 0.5), top - 6.0, names[i], "middle");
  }
  const Index rows = layers + (has_ends ? 1 : 0);
  for (Index row = 0; row < rows; ++row) {
    const Index l = row < layers ? row : -1;
    svg.text(left - 8.0, top + height * (static_cast<double>(row) + 0.7),
             l < 0 ? "no layer" : fmt::format("layer {}", l), "end");
    for (std::size_t i = 0; i < names.size(); ++i) {
      std::vector<const LaserTrial*> cells;
      for (const LaserTrial& trial : report.trials) {
        if (trial.cut.layer == l && trial.cut.matrix == names[i]) cells.push_back(&trial);
      }
      const double width =
          (cell - 4.0) / static_cast<double>(std::max<std::size_t>(1, cells.size()));
      for (std::size_t k = 0; k < cells.size(); ++k) {
        svg.rectangle(left + cell * static_cast<double>(i) + width * static_cast<double>(k),
                      top + height * static_cast<double>(row), width, height - 2.0,
                      blue_to_red(cells[k]->change / strong),
                      fmt::format("{}: {:+.5f} ± {:.5f}", to_string(cells[k]->cut),
                                  cells[k]->change, cells[k]->error));
      }
    }
  }
  return svg.file(left + cell * static_cast<double>(names.size()) + 20.0,
                  top + height * static_cast<double>(rows) + 20.0);
}

}  // namespace v0_1
}  // namespace krait
