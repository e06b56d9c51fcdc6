#pragma once

// The files of a training run.

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "io/partial_folder.hpp"
#include "krait/training/train.hpp"
#include "training/loss_curve.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// What makes a run itself: two runs whose entries agree give the same bytes.
using Identity = std::vector<std::pair<std::string, std::string>>;
Identity identity_of(const TrainTask& task, const TrainOptions& options, const TrainFiles& files);

// Unfinished work, in <destination>.partial.
class Checkpoints {
 public:
  explicit Checkpoints(const std::string& destination) : folder_(partial_folder(destination)) {}

  bool exist() const;
  Result<void> save(Trainer& trainer, const Identity& identity) const;
  // Puts the arrays back. Errors: bad_argument where the run is another one.
  Result<void> load(Trainer& trainer, const Identity& identity) const;
  // The pairs' references. `load_reference` says whether there were some of this run.
  Result<void> save_reference(std::span<const PreferencePair> pairs,
                              const Identity& identity) const;
  Result<bool> load_reference(std::span<PreferencePair> pairs, const Identity& identity) const;
  // Best effort: what stays is ignored by a later run.
  void remove() const;

 private:
  Result<void> make_folder() const;
  std::string file() const { return folder_ + "/checkpoint.safetensors"; }
  std::string reference_file() const { return folder_ + "/reference.safetensors"; }
  std::string folder_;
};

// Whether a finished run lies at the destination; an error if it is another one.
Result<bool> is_finished(const std::string& destination, const Identity& identity);

// The same for any file of an identity.
Result<bool> has_identity(const std::string& path, const Identity& identity,
                          const std::string& place);
Result<void> write_identity(const std::string& path, const Identity& identity);

// That what training made of a tensor is finite as it is written. Errors: not_finite.
Result<void> check_result(const TensorView& trained, const TensorView& written,
                          std::string_view name);

// The result as a checkpoint, whole or not at all.
Result<void> write_result(const TrainTask& task, const TrainFiles& files, Trainer& trainer,
                          const Identity& identity);

// One line of JSON per step, and a drawing of the losses beside it.
class Log {
 public:
  // Begins a log, or goes on behind the lines of the first `steps` steps. Without a path: none.
  static Result<Log> open(const std::string& path, Index steps);
  Result<void> write(const TrainProgress& progress);
  // Writes the drawing, whole or not at all; none beside a log that is a pipe or a device.
  Result<void> draw() const;

 private:
  std::string path_;
  std::ofstream stream_;
  LossCurve curve_;
  bool is_drawn_ = false;
};

}  // namespace training
}  // namespace v0_1
}  // namespace krait
