// Checkpoints with cuts.

#include <fmt/format.h>

#include "io/json.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/io/safetensors.hpp"
#include "loading/checkpoint_texts.hpp"
#include "tools/checkpoint_copy.hpp"
#include "tools/laser/cutter.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// [[3,"in_x",25],…], for those who want to know what was done.
std::string note_of(const std::vector<LaserCut>& cuts) {
  std::string note;
  for (const LaserCut& cut : cuts) {
    note += fmt::format("{}[{},", note.empty() ? "[" : ",", cut.layer);
    append_json_string(note, cut.matrix);
    note += fmt::format(",{}]", cut.rank);
  }
  return note + "]";
}

}  // namespace

Result<LaserSummary> write_laser(const CheckpointPlan& source, const std::string& destination,
                                 const std::vector<LaserCut>& cuts, LaserForm form,
                                 Executor& executor) {
  const Checkpoint& checkpoint = source.checkpoint;
  if (cuts.empty()) return laser::bad("set", "a matrix to cut", "none");
  KRAIT_RETURN_IF_ERROR(check_floats(source.plan, checkpoint.weights, checkpoint.path, "laser"));
  KRAIT_RETURN_IF_ERROR(check_outside(checkpoint, destination, "laser"));
  KRAIT_RETURN_IF_ERROR(check_texts(checkpoint));
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::create(destination));
  KRAIT_ASSIGN_OR_RETURN(const WeightStore store, cut_weights(source, cuts, form, executor));

  LaserSummary summary{.cuts = cuts};
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : store.entries()) {
    const bool is_new = !checkpoint.weights.contains(name);
    tensors.push_back({name, entry.tensor});
    summary.bytes_after += entry.tensor.bytes();
    summary.factored += is_new && name.ends_with(".u") ? 1 : 0;
  }
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    summary.bytes_before += entry.tensor.bytes();
  }
  auto metadata = checkpoint.weights.metadata;
  metadata["format"] = "pt";
  metadata["krait.laser"] = note_of(cuts);
  KRAIT_RETURN_IF_ERROR(
      write_safetensors(directory.path() + "/model.safetensors", tensors, metadata));
  KRAIT_RETURN_IF_ERROR(copy_texts(checkpoint, checkpoint.config, directory.path()));
  KRAIT_RETURN_IF_ERROR(directory.commit());
  return summary;
}

}  // namespace v0_1
}  // namespace krait
