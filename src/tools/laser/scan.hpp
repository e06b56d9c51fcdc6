#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "krait/models/builder.hpp"
#include "tools/laser/cutter.hpp"
#include "tools/laser/objective.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {

/// Matrices that are tried together: one, or all experts of a stack.
struct Unit {
  Index layer = 0;
  Index stage = 0;                    // as `stage_of` has it
  std::string name;                   // "in_x", "up[*]"
  std::vector<std::size_t> matrices;  // of the cutter
};

/// A unit at a rank, and what is known of it.
struct Trial {
  std::size_t unit = 0;
  Index rank = 0;
  Paired found;  // samples 0: not tried
};

/// The first layer that a cut changes; behind the last for the head, and -1 for the embedding, of
/// which nothing that was kept is of use.
Index stage_of(const LaserMatrix& matrix, Index layers) noexcept;

/// Data, model and what is tried, and how much of it was.
class Scan {
 public:
  Scan(Cutter cutter, const Model& model, const LaserSearchOptions& options, Executor& executor,
       Progress progress);

  /// Lists what is to be tried and divides the data.
  Result<void> begin(std::string_view data, const Tokenizer& tokenizer);
  /// Tries it, from the head and the last layer to the first and the embedding. Finished layers are
  /// kept in `work`.
  Result<void> run(const PartialWork& work);

  const Cutter& cutter() const noexcept { return cutter_; }
  const std::vector<Unit>& units() const noexcept { return units_; }
  const std::vector<Trial>& trials() const noexcept { return trials_; }
  bool is_complete() const noexcept { return is_complete_; }
  std::span<const Sample* const> confirming() const noexcept { return confirm_; }
  std::span<const Sample* const> testing() const noexcept { return test_; }

  std::vector<Cut> cuts_of(const Trial& trial) const;
  /// What the answers cost with these cuts.
  Result<std::vector<double>> nats(const std::vector<Cut>& cuts,
                                   std::span<const Sample* const> samples);
  Result<Model> model_with(const std::vector<Cut>& cuts) const;
  /// Reports that nothing new is done; the error if it is to stop.
  Result<void> go_on() const;

 private:
  Result<void> check_patterns() const;
  void list_units();
  Result<void> list_trials();
  Result<void> try_stage(Index stage, const PartialWork& work);
  Result<void> decompose(const std::vector<std::size_t>& trials);
  bool read(const PartialWork& work, const std::string& piece,
            const std::vector<std::size_t>& trials);
  Result<void> evaluate(const std::vector<std::size_t>& trials, Index stage, Stream& stream);
  Result<void> try_one(Trial& trial, Index stage, Stream& stream,
                       FunctionRef<bool()> is_stopped) const;
  Index layers() const noexcept { return std::ssize(cutter_.plan().config.spec.layers); }
  Index cost_of(Index stage) const noexcept { return std::max<Index>(1, layers() - stage); }
  bool is_time_over() const;

  const Model& model_;
  const LaserSearchOptions& options_;
  Executor& executor_;
  Progress progress_;
  Cutter cutter_;
  std::vector<Unit> units_;
  std::vector<Trial> trials_;
  std::vector<Sample> samples_;
  std::vector<const Sample*> search_, confirm_, test_;
  std::vector<double> before_;  // nats of search_
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  Index done_ = 0;
  Index total_ = 0;
  bool is_complete_ = true;
};

/// The trials that make the model smallest within the loss, and how the same fraction of all does.
struct Shrunk {
  std::vector<Trial> chosen;
  std::vector<Cut> uniform;  // empty: there is no such fraction
};
Result<Shrunk> choose_smallest(Scan& scan, const LaserSearchOptions& options);

/// Bytes of all tensors, but for a head that repeats the embedding.
Index bytes_of_weights(const WeightStore& store);

/// The trials that make the model better, one behind the other.
Result<std::vector<Trial>> choose_better(Scan& scan);

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
