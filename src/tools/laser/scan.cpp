// Every matrix, every rank.

#include "tools/laser/scan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "krait/core/rng.hpp"
#include "krait/io/printable.hpp"
#include "tools/pattern.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {
namespace {

constexpr double fractions[] = {0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 0.9};
// Of the rank up to which factors are smaller than the matrix.
constexpr double shrinking_fractions[] = {0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0};

// Above it the random decomposition takes about as long as the exact one.
constexpr Index quick_part = 4;

// A trial of so many samples that is worse by more standard errors than that is known well enough.
double clearly_worse(Index samples, bool shrinks) {
  constexpr double never = std::numeric_limits<double>::infinity();
  // There the change itself counts: so it is known to a sixth.
  if (shrinks) return samples < 6 ? never : 6.0;
  // Where Student's t leaves one in a thousand, from two degrees of freedom on.
  constexpr double student[] = {22.33, 10.21, 7.17, 5.89, 5.21, 4.79, 4.50, 4.30, 4.14};
  if (samples < 3) return never;
  return samples - 3 < std::ssize(student) ? student[samples - 3] : 4.0;
}

constexpr Index most_floats = Index{64} << 20;  // of the activations that are kept

constexpr Index embedding_stage = -1;

// "head" and "in_x" fit by name, "7:*" by layer and name.
bool fits_matrix(std::string_view pattern, const LaserMatrix& matrix) {
  return fits_pattern(pattern, matrix.name) || fits_pattern(pattern, label(matrix));
}

bool is_wanted(const LaserMatrix& matrix, const std::vector<std::string>& patterns) {
  if (patterns.empty()) return matrix.layer >= 0 || matrix.name != "emb";
  return std::ranges::any_of(
      patterns, [&](const std::string& pattern) { return fits_matrix(pattern, matrix); });
}

}  // namespace

Index stage_of(const LaserMatrix& matrix, Index layers) noexcept {
  if (matrix.layer >= 0) return matrix.layer;
  return matrix.name == "head" ? layers : embedding_stage;
}

Scan::Scan(Cutter cutter, const Model& model, const LaserSearchOptions& options, Executor& executor,
           Progress progress)
    : model_(model),
      options_(options),
      executor_(executor),
      progress_(progress),
      cutter_(std::move(cutter)) {}

Result<void> Scan::check_patterns() const {
  const std::vector<LaserMatrix>& matrices = cutter_.matrices();
  for (const std::string& pattern : options_.matrices) {
    if (std::ranges::any_of(matrices,
                            [&](const LaserMatrix& m) { return fits_matrix(pattern, m); })) {
      continue;
    }
    return bad("matrices", fmt::format("a pattern that fits one of {}", all_names(matrices)),
               fmt::format("'{}'", printable(pattern, 60)));
  }
  return {};
}

void Scan::list_units() {
  const std::vector<LaserMatrix>& matrices = cutter_.matrices();
  std::map<std::string, std::size_t> stacks;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const LaserMatrix& matrix = matrices[i];
    if (!is_wanted(matrix, options_.matrices)) continue;
    // What does not become factors does not become smaller.
    if (options_.shrinks && (!matrix.is_whole() || matrix.is_dense)) continue;
    const Index stage = stage_of(matrix, layers());
    if (options_.shrinks && matrix.is_stack) {
      // Experts are stored as factors together.
      const auto [known, is_new] = stacks.emplace(matrix.tensor, units_.size());
      if (!is_new) {
        units_[known->second].matrices.push_back(i);
        continue;
      }
      units_.push_back(
          {matrix.layer, stage, matrix.name.substr(0, matrix.name.find('[')) + "[*]", {i}});
      continue;
    }
    units_.push_back({matrix.layer, stage, matrix.name, {i}});
  }
}

Result<void> Scan::list_trials() {
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const LaserMatrix& matrix = cutter_.matrices()[units_[u].matrices.front()];
    const Index most = matrix.largest_rank();
    std::set<Index> ranks;
    if (options_.by_rule) {
      KRAIT_RETURN_IF_ERROR(cutter_.decompose({units_[u].matrices.front()}, executor_));
      ranks = {marchenko_pastur_rank(cutter_.values(units_[u].matrices.front()))};
      cutter_.forget();
    } else if (options_.shrinks) {
      const Index paying = (matrix.rows * matrix.cols - 1) / (matrix.rows + matrix.cols);
      for (const double f : shrinking_fractions) {
        ranks.insert(static_cast<Index>(f * static_cast<double>(paying)));
      }
    } else {
      for (const double f : fractions) {
        ranks.insert(std::max<Index>(1, static_cast<Index>(f * static_cast<double>(most))));
      }
    }
    for (const Index rank : ranks) {
      if (rank < 1 || rank >= most || (options_.quick && rank > most / quick_part)) continue;
      trials_.push_back({u, rank, {}});
      total_ += cost_of(units_[u].stage);
    }
  }
  if (trials_.empty()) return bad("search", "a matrix that can be cut", "none");
  return {};
}

Result<void> Scan::begin(std::string_view data, const Tokenizer& tokenizer) {
  KRAIT_ASSIGN_OR_RETURN(samples_, read_samples(data, options_.task, tokenizer));
  KRAIT_RETURN_IF_ERROR(check_patterns());
  list_units();
  KRAIT_RETURN_IF_ERROR(list_trials());
  std::vector<std::size_t> order(samples_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = order.size() - 1; i > 0; --i) {
    const double u = random_uniform({.seed = options_.seed, .position = i, .draw = 5});
    std::swap(order[i], order[static_cast<std::size_t>(u * static_cast<double>(i + 1))]);
  }
  const std::size_t fifth = order.size() / 5;
  Index floats = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Sample& sample = samples_[order[i]];
    floats += std::ssize(sample.answer().tokens) * model_.d_model();
    if (i < fifth && (floats <= most_floats || i < 4)) {
      search_.push_back(&sample);
    } else if (i >= fifth) {
      (i < 2 * fifth ? confirm_ : test_).push_back(&sample);
    }
  }
  KRAIT_ASSIGN_OR_RETURN(before_, nats_of(model_, search_, executor_));
  if (std::ranges::all_of(before_, [](double x) { return std::isfinite(x); })) return {};
  return Error{ErrorCode::not_finite,
               "[laser] data: expected text that the model gives a probability, found some of "
               "probability 0"};
}

std::vector<Cut> Scan::cuts_of(const Trial& trial) const {
  std::vector<Cut> cuts;
  for (const std::size_t i : units_[trial.unit].matrices) cuts.push_back({i, trial.rank});
  return cuts;
}

Result<Model> Scan::model_with(const std::vector<Cut>& cuts) const {
  return build_model(cutter_.plan().config.spec, cutter_.apply(cuts, options_.form),
                     cutter_.plan().config.prefix);
}

Result<std::vector<double>> Scan::nats(const std::vector<Cut>& cuts,
                                       std::span<const Sample* const> samples) {
  std::vector<std::size_t> matrices;
  for (const Cut& cut : cuts) matrices.push_back(cut.matrix);
  KRAIT_RETURN_IF_ERROR(cutter_.decompose(matrices, executor_));
  KRAIT_ASSIGN_OR_RETURN(const Model model, model_with(cuts));
  KRAIT_RETURN_IF_ERROR(go_on());
  return nats_of(model, samples, executor_);
}

Result<void> Scan::go_on() const {
  if (!progress_ || progress_(done_, total_) == Flow::go_on) return {};
  return Error{ErrorCode::cancelled, "[laser] stopped"};
}

bool Scan::is_time_over() const {
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
  return options_.minutes > 0.0 && passed.count() > 60.0 * options_.minutes;
}

Result<void> Scan::run(const PartialWork& work) {
  for (Index stage = layers(); stage >= embedding_stage; --stage) {
    KRAIT_RETURN_IF_ERROR(try_stage(stage, work));
    if (!is_complete_) break;
    // Within a layer only the calling thread asks, and it may have been given few of the trials.
    KRAIT_RETURN_IF_ERROR(go_on());
  }
  return {};
}

Result<void> Scan::try_stage(Index stage, const PartialWork& work) {
  std::vector<std::size_t> trials;
  for (std::size_t i = 0; i < trials_.size(); ++i) {
    if (units_[trials_[i].unit].stage == stage) trials.push_back(i);
  }
  if (trials.empty()) return {};
  const std::string piece = stage == embedding_stage ? "emb" : fmt::format("layer-{}", stage);
  if (read(work, piece, trials)) {
    done_ += std::ssize(trials) * cost_of(stage);
    return {};
  }
  if (is_time_over()) {
    is_complete_ = false;
    return {};
  }
  KRAIT_RETURN_IF_ERROR(decompose(trials));
  Stream stream(model_, search_);
  if (stage != embedding_stage) KRAIT_RETURN_IF_ERROR(stream.run(model_, stage, executor_));
  KRAIT_RETURN_IF_ERROR(evaluate(trials, stage, stream));
  cutter_.forget();
  if (!is_complete_) return {};
  std::vector<double> found;
  for (const std::size_t i : trials) {
    const Paired& pair = trials_[i].found;
    found.insert(found.end(), {pair.change, pair.error, static_cast<double>(pair.samples)});
  }
  return work.write(piece, {{"found", {found.data(), DType::f64, {std::ssize(trials), 3}}}});
}

// The matrices of these trials, as far as their ranks go.
Result<void> Scan::decompose(const std::vector<std::size_t>& trials) {
  std::map<std::size_t, Index> ranks;
  std::vector<std::size_t> matrices;
  for (const std::size_t t : trials) {
    for (const std::size_t i : units_[trials_[t].unit].matrices) {
      matrices.push_back(i);
      ranks[i] = std::max(ranks[i], trials_[t].rank);
    }
  }
  return options_.quick ? cutter_.decompose_nearly(ranks, options_.seed, executor_)
                        : cutter_.decompose(matrices, executor_);
}

// What an earlier call found, if it is there and whole.
bool Scan::read(const PartialWork& work, const std::string& piece,
                const std::vector<std::size_t>& trials) {
  const auto store = work.read(piece);
  const WeightStore::Entry* entry = store ? store->find("found") : nullptr;
  if (entry == nullptr || entry->tensor.dtype != DType::f64 ||
      !(entry->tensor.shape == Shape{std::ssize(trials), 3})) {
    return false;
  }
  const auto* found = static_cast<const double*>(entry->tensor.data);
  for (const std::size_t i : trials) {
    trials_[i].found = {static_cast<Index>(found[2]), found[0], found[1]};
    found += 3;
  }
  return true;
}

// Each thread takes trials of its own. The calling one reports.
Result<void> Scan::evaluate(const std::vector<std::size_t>& trials, Index stage, Stream& stream) {
  const Index cost = cost_of(stage);
  const auto caller = std::this_thread::get_id();
  std::atomic<Index> finished = 0;
  std::atomic<bool> stops = false;
  std::atomic<bool> is_over = false;
  std::vector<Result<void>> results(trials.size());
  parallel_for_blocks(executor_, std::ssize(trials), 1, [&](Range range, int) {
    for (Index i = range.begin; i < range.end; ++i) {
      const auto is_stopped = [&] {
        if (std::this_thread::get_id() == caller) {
          if (progress_ && progress_(done_ + cost * finished, total_) == Flow::stop) stops = true;
          if (is_time_over()) is_over = true;
        }
        return stops || is_over;
      };
      if (is_stopped()) continue;
      const auto k = static_cast<std::size_t>(i);
      results[k] = try_one(trials_[trials[k]], stage, stream, is_stopped);
      ++finished;
    }
  });
  for (const Result<void>& result : results) KRAIT_RETURN_IF_ERROR(result);
  if (stops) return Error{ErrorCode::cancelled, "[laser] stopped"};
  if (is_over) is_complete_ = false;
  done_ += cost * std::ssize(trials);
  return {};
}

Result<void> Scan::try_one(Trial& trial, Index stage, Stream& stream,
                           FunctionRef<bool()> is_stopped) const {
  KRAIT_ASSIGN_OR_RETURN(const Model model, model_with(cuts_of(trial)));
  Scorer scorer(model);
  std::vector<double> after;
  Paired found;
  for (std::size_t i = 0; i < search_.size(); ++i) {
    if (is_stopped()) return {};
    const Sequence& answer = search_[i]->answer();
    KRAIT_ASSIGN_OR_RETURN(const double nats, stage == embedding_stage
                                                  ? scorer.nats(answer)
                                                  : scorer.nats(answer, stage, stream.rows(i)));
    after.push_back(nats);
    found = paired(before_, after, search_);
    const double bound = clearly_worse(found.samples, options_.shrinks) * found.error;
    if (std::isinf(found.change) || found.change > bound) break;
  }
  trial.found = found;
  return {};
}

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
