// What a run needs, before it begins.

#include <algorithm>
#include <bit>

#include "krait/training/train.hpp"
#include "training/capacity.hpp"
#include "training/muon.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// An executor that only has a width.
class OnlyWidth final : public Executor {
 public:
  explicit OnlyWidth(int width) : width_(width) {}
  int width() const noexcept override { return width_; }
  void run(int /*n*/, FunctionRef<void(int)> /*task*/) override {}

 private:
  int width_;
};

// Sums that exist at a time while the shards are added as a tree.
Index sums_of(Index shards) {
  Index most = 0;
  for (Index i = 0; i < shards; ++i) {
    most = std::max(most, Index{std::popcount(static_cast<std::uint64_t>(i))} + 1);
  }
  return most;
}

// The most inputs of a row, and the bytes of all tokens.
struct DataSize {
  Index longest = 1;
  Index bytes = 0;

  void add(const Row& row) {
    longest = std::max(longest, std::ssize(row.tokens) - 1);
    bytes += static_cast<Index>(sizeof(row) + row.tokens.capacity() * sizeof(Token));
  }
};

DataSize size_of(const TrainTask& task, const TrainOptions& options) {
  DataSize size;
  Index pieces = 0;
  if (task.preference) {
    for (const PreferencePair& pair : task.preference->pairs) {
      size.add(pair.chosen);
      size.add(pair.rejected);
      size.bytes += (pair.chosen.targets() + pair.rejected.targets()) * Index{sizeof(float)};
    }
    pieces = std::ssize(task.preference->pairs);
    if (const std::optional<Replay>& replay = task.preference->replay; replay) {
      for (const Row& row : replay->examples) size.add(row);
      pieces += std::ssize(replay->examples);
    }
  } else if (!task.examples.empty()) {
    for (const Row& row : task.examples) size.add(row);
    pieces = std::ssize(task.examples);
  } else {
    size.longest = options.length;
    size.bytes = static_cast<Index>(task.text.capacity() * sizeof(Token));
    pieces = std::ssize(task.text) / options.length + 1;
  }
  for (const Row& row : task.held_out) size.add(row);
  for (const PreferencePair& pair : task.held_out_pairs) {
    size.add(pair.chosen);
    size.add(pair.rejected);
  }
  if (options.order == DataOrder::shuffled) size.bytes += pieces * Index{sizeof(Index)};
  return size;
}

}  // namespace

Result<TrainMemory> train_memory(const TrainTask& task, const TrainOptions& options, int threads) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  OnlyWidth executor(threads);
  KRAIT_ASSIGN_OR_RETURN(const ModelGradient gradient,
                         ModelGradient::create(task.spec, task.prefix, executor, task.lora));
  KRAIT_RETURN_IF_ERROR(training::check_capacity(options.capacity, gradient.has_experts()));
  const DataSize data = size_of(task, options);
  const RowMemory row = gradient.memory(data.longest, task.teacher.has_value());
  Index teacher = 0;
  if (task.teacher) {
    const Model& model = task.teacher->model;
    const Session session(model, executor);
    teacher =
        static_cast<Index>(session.bytes()) + model.plan().owned_bytes + model.plan().state_bytes +
        data.longest *
            (model.vocab_padded() * Index{sizeof(float)} + model.plan().cache_bytes_per_token);
  }
  Index muon = 0;
  for (const Parameter& parameter : gradient.parameters().all()) {
    const Shape& shape = parameter.shape;
    if (options.optimizer != Optimizer::muon || muon_matrices(task.spec, parameter) == 0) continue;
    muon = std::max(muon, training::muon_memory(shape[shape.rank() - 2], shape[shape.rank() - 1]));
  }
  const Index recomputed = std::max(row.recomputed, muon * Index{sizeof(float)} - row.kept);
  const Index array = gradient.parameters().floats() * Index{sizeof(float)};
  return TrainMemory{.weights = array + row.derived,
                     .gradients = sums_of(options.used_shards()) * array,
                     .optimizer = 2 * array,
                     .kept = row.kept,
                     .recomputed = recomputed,
                     .forward = row.forward + teacher,
                     .data = data.bytes,
                     .mapped = row.mapped};
}

}  // namespace v0_1
}  // namespace krait
