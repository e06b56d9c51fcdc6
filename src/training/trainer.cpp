#include "krait/training/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"
#include "training/capacity.hpp"
#include "training/muon.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr Index piece = 4096;  // threads share the floats in such pieces
constexpr ItemCost update_cost = ItemCost::of(24, 60);

}  // namespace

Result<Trainer> Trainer::create(const ModelSpec& spec, const std::string& prefix,
                                const TrainOptions& options, AlignedBuffer<float> values,
                                Executor& executor, std::shared_ptr<const Lora> lora) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  KRAIT_ASSIGN_OR_RETURN(ModelGradient gradient,
                         ModelGradient::create(spec, prefix, executor, lora));
  check_contract(values.size() == gradient.parameters().floats(),
                 "[training] values: expected as many floats as the parameters have");
  KRAIT_RETURN_IF_ERROR(training::check_capacity(options.capacity, gradient.has_experts()));
  if (options.optimizer == Optimizer::muon && lora != nullptr) {
    return Error{ErrorCode::unsupported,
                 "[training] optimizer: expected adamw with an adapter, found muon"};
  }
  Trainer trainer(std::move(gradient), options, std::move(values), executor);
  if (options.optimizer == Optimizer::muon) trainer.use_muon(spec);
  return trainer;
}

void Trainer::use_muon(const ModelSpec& spec) {
  for (std::size_t i = 0; i < muon_.size(); ++i) {
    const Parameter& parameter = parameters().all()[i];
    const Shape& shape = parameter.shape;
    muon_[i] = muon_matrices(spec, parameter);
    if (muon_[i] == 0) continue;
    muon_floats_ = std::max(
        muon_floats_, training::muon_memory(shape[shape.rank() - 2], shape[shape.rank() - 1]));
  }
}

Index muon_matrices(const ModelSpec& spec, const Parameter& parameter) {
  const bool is_of_tokens = parameter.path == spec.embedding_name + ".weight" ||
                            parameter.path == spec.head_name + ".weight";
  const Index rank = parameter.shape.rank();
  if (is_of_tokens || !parameter.decays || rank < 2) return 0;
  return rank == 2 ? 1 : parameter.shape[0];
}

Trainer::Trainer(ModelGradient gradient, const TrainOptions& options, AlignedBuffer<float> values,
                 Executor& executor)
    : executor_(&executor),
      gradient_(std::move(gradient)),
      options_(options),
      values_(std::move(values)),
      first_(values_.size()),
      second_(values_.size()),
      muon_(gradient_.parameters().all().size()) {}

// The sum of all rows' gradients, in sums_.front(). Shards are added as
// the leaves of a binary tree: a finished subtree waits for its sibling.
Result<Trainer::Found> Trainer::gradient(AddLeaf add) {
  const Index shards = options_.used_shards();
  const Index rows = options_.rows();
  std::vector<Index> sizes;  // shards of the subtrees that wait, each a power of two
  const auto merge = [&] {
    const std::size_t last = sizes.size() - 1;
    float* to = sums_[last - 1].data();
    const float* from = sums_[last].data();
    parallel_for(*executor_, values_.size(), piece, update_cost, [&](Range range) {
      for (Index i = range.begin; i < range.end; ++i) to[i] += from[i];
    });
    sizes[last - 1] += sizes[last];
    sizes.pop_back();
  };
  Found found;
  for (Index shard = 0; shard < shards; ++shard) {
    if (sizes.size() == sums_.size()) sums_.emplace_back(values_.size());
    AlignedBuffer<float>& sum = sums_[sizes.size()];
    std::ranges::fill(sum.span(), 0.0F);
    for (Index i = rows * shard / shards; i < rows * (shard + 1) / shards; ++i) {
      KRAIT_RETURN_IF_ERROR(add(step_ * rows + i, sum.data(), found));
    }
    sizes.push_back(1);
    while (sizes.size() > 1 && sizes[sizes.size() - 1] == sizes[sizes.size() - 2]) merge();
  }
  while (sizes.size() > 1) merge();
  return found;
}

// One step of the optimiser, with the gradient times `factor`.
void Trainer::update(const TrainStep& found, float factor) {
  float* sum = sums_.front().data();
  const Work work = gradient_.work();
  work.memory.reserve(muon_floats_);
  for (std::size_t p = 0; p < muon_.size(); ++p) {
    const Parameter& parameter = parameters().all()[p];
    if (muon_[p] > 0) {
      const Shape& shape = parameter.shape;
      const Index rows = shape[shape.rank() - 2];
      const Index cols = shape[shape.rank() - 1];
      parallel_for(*executor_, shape.size(), piece, update_cost, [&](Range range) {
        const Index at = parameter.offset + range.begin;
        for (Index i = at; i < parameter.offset + range.end; ++i) sum[i] *= factor;
      });
      for (Index i = 0; i < muon_[p]; ++i) {
        const Index at = parameter.offset + i * rows * cols;
        muon(work,
             {.learning_rate = found.learning_rate,
              .momentum = options_.momentum,
              .weight_decay = options_.weight_decay},
             rows, cols, sum + at, first_.data() + at, values_.data() + at);
      }
      continue;
    }
    const AdamW options{.learning_rate = found.learning_rate,
                        .beta1 = options_.beta1,
                        .beta2 = options_.beta2,
                        .eps = options_.eps,
                        .weight_decay = parameter.decays ? options_.weight_decay : 0.0};
    parallel_for(*executor_, parameter.shape.size(), piece, update_cost, [&](Range range) {
      const Index at = parameter.offset + range.begin;
      for (Index i = at; i < parameter.offset + range.end; ++i) sum[i] *= factor;
      adamw(options, step_ + 1, range.size(), sum + at, first_.data() + at, second_.data() + at,
            values_.data() + at);
    });
  }
}

TeacherLaws::TeacherLaws(const Model& model, Executor& executor)
    : state_(model.initial_state()), session_(model, executor) {}

Result<MatrixView<const float>> TeacherLaws::laws(std::span<const Token> inputs,
                                                  double temperature) {
  const Model& model = session_.model();
  const Index padded = model.vocab_padded();
  const Index vocab = model.vocab();
  const Index tokens = std::ssize(inputs);
  if (logits_.size() < tokens * padded) logits_ = AlignedBuffer<float>(tokens * padded);
  state_.reset();
  KRAIT_RETURN_IF_ERROR(session_.prefill_all(inputs, state_, {logits_.data(), tokens, padded}));
  const FloatEnvironment environment;
  const auto T = static_cast<float>(temperature);
  // Rows move up: none is longer, and each is read before it is written.
  for (Index t = 0; t < tokens; ++t) {
    const std::span<float> law(logits_.data() + t * vocab, static_cast<std::size_t>(vocab));
    const float* from = logits_.data() + t * padded;
    for (std::size_t v = 0; v < law.size(); ++v) law[v] = from[v] / T;
    kernels::softmax(law, law);
  }
  return MatrixView<const float>(logits_.data(), tokens, vocab);
}

Result<TrainStep> Trainer::step(RowSource& rows) { return step(rows, nullptr, {}); }

Result<TrainStep> Trainer::step(RowSource& rows, TeacherLaws& teacher,
                                const Distillation& distillation) {
  KRAIT_RETURN_IF_ERROR(validate(distillation));
  KRAIT_ASSIGN_OR_RETURN(TrainStep found, step(rows, &teacher, distillation));
  return found;
}

// Adds the gradient of a row, one leaf, to the sum.
Result<Trainer::RowLoss> Trainer::add_row(const RowTask& task, float* sum) {
  const Row& row = task.row;
  KRAIT_RETURN_IF_ERROR(validate(row));
  const std::span<const Token> tokens = row.tokens;
  std::vector<float> weights(row.tokens.size() - 1, static_cast<float>(task.weight));
  std::fill_n(weights.begin(), row.given - 1, 0.0F);
  // Coefficients are per target, as the cross-entropy is.
  const double share =
      task.weight * static_cast<double>(row.targets()) / static_cast<double>(weights.size());
  MatrixView<const float> laws;
  RowLoss loss;
  if (task.teacher != nullptr) {
    KRAIT_ASSIGN_OR_RETURN(
        laws, task.teacher->laws(tokens.first(weights.size()), task.distillation.temperature));
  }
  KRAIT_ASSIGN_OR_RETURN(loss.cross_entropy,
                         gradient_.backward({.inputs = tokens.first(weights.size()),
                                             .targets = tokens.subspan(1),
                                             .laws = laws,
                                             .weights = weights,
                                             .distillation = task.distillation,
                                             .divergence = &loss.divergence,
                                             .balance = options_.balance * share,
                                             .z_loss = options_.z_loss * share,
                                             .capacity = options_.capacity},
                                            sum));
  return loss;
}

Result<TrainStep> Trainer::step(RowSource& rows, TeacherLaws* teacher,
                                const Distillation& distillation) {
  return step([&](Index index, float* sum, Found& found) -> Result<void> {
    const Row row = rows.row(index);
    KRAIT_ASSIGN_OR_RETURN(
        const RowLoss loss,
        add_row({.row = row, .teacher = teacher, .distillation = distillation}, sum));
    found.loss += loss.cross_entropy;
    found.divergence += loss.divergence;
    found.has_teacher = teacher != nullptr;
    found.parts += row.targets();
    found.tokens += std::ssize(row.tokens) - 1;
    return {};
  });
}

Result<void> validate_replay(double weight) {
  if (weight > 0.0 && std::isfinite(weight)) return {};
  return Error{
      ErrorCode::bad_argument,
      fmt::format("[training] replay: expected a weight above 0 that is finite, found {}", weight)};
}

namespace {

// Of each target in a leaf of pairs: behind the division by pairs, `coefficient` per target.
double per_target(double coefficient, Index pairs, Index targets) {
  return coefficient * static_cast<double>(pairs) / static_cast<double>(targets);
}

}  // namespace

Result<TrainStep> Trainer::step(PairRows& pairs, const PreferenceOptions& preference,
                                const ReplayRows& replay) {
  KRAIT_RETURN_IF_ERROR(validate(preference));
  if (replay.rows != nullptr) KRAIT_RETURN_IF_ERROR(validate_replay(replay.weight));
  PairWeights weights{
      .balance = options_.balance, .z_loss = options_.z_loss, .capacity = options_.capacity};
  const FloatEnvironment environment;
  const Index count = options_.rows();
  Index chosen_targets = 0;
  Index replayed_targets = 0;
  for (Index i = step_ * count; i < (step_ + 1) * count; ++i) {
    chosen_targets += pairs.pair(i).chosen.targets();
    if (replay.rows != nullptr) replayed_targets += replay.rows->row(i).targets();
  }
  weights.sft = per_target(preference.sft, count, chosen_targets);
  const double replayed =
      replay.rows == nullptr ? 0.0 : per_target(replay.weight, count, replayed_targets);
  double replay_loss = 0.0;
  const auto add = [&](Index index, float* sum, Found& found) -> Result<void> {
    const PreferencePair& pair = pairs.pair(index);
    KRAIT_ASSIGN_OR_RETURN(const PairStatistics statistics,
                           pair_backward(gradient_, pair, preference, weights, sum));
    found.loss += statistics.loss;
    found.parts += 1;
    found.tokens += std::ssize(pair.chosen.tokens) + std::ssize(pair.rejected.tokens) - 2;
    found.pairs.add(statistics);
    if (replay.rows == nullptr) return {};
    const Row row = replay.rows->row(index);
    KRAIT_ASSIGN_OR_RETURN(const RowLoss loss, add_row({.row = row, .weight = replayed}, sum));
    found.loss += loss.cross_entropy;
    found.tokens += std::ssize(row.tokens) - 1;
    replay_loss += loss.cross_entropy;
    return {};
  };
  KRAIT_ASSIGN_OR_RETURN(TrainStep found, step(add));
  if (replay.rows != nullptr) {
    found.replay = replay_loss / static_cast<double>(count) / replay.weight;
  }
  return found;
}

Result<double> Trainer::loss(std::span<const Row> rows) {
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(gradient_.bind(values_.data()));
  double sum = 0.0;
  Index targets = 0;
  for (const Row& row : rows) {
    KRAIT_ASSIGN_OR_RETURN(const auto log_p, target_log_probabilities(gradient_, row));
    for (const float value : log_p) sum -= static_cast<double>(value);
    targets += row.targets();
  }
  return sum / static_cast<double>(targets);
}

Result<double> Trainer::loss(std::span<const PreferencePair> pairs,
                             const PreferenceOptions& preference) {
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(gradient_.bind(values_.data()));
  Index targets = 0;
  for (const PreferencePair& pair : pairs) targets += pair.chosen.targets();
  const double sft = per_target(preference.sft, std::ssize(pairs), targets);
  double sum = 0.0;
  for (const PreferencePair& pair : pairs) {
    KRAIT_ASSIGN_OR_RETURN(const PairStatistics found,
                           pair_statistics(gradient_, pair, preference, sft));
    sum += found.loss;
  }
  return sum / static_cast<double>(pairs.size());
}

Result<TrainStep> Trainer::step(AddLeaf add) {
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(gradient_.bind(values_.data()));
  KRAIT_ASSIGN_OR_RETURN(const Found sums, gradient(add));
  const auto parts = static_cast<double>(sums.parts);
  const std::span<float> sum = sums_.front().span();
  const auto share = static_cast<float>(1.0 / parts);
  for (float& g : sum) g *= share;
  TrainStep found{.step = step_,
                  .loss = sums.loss / parts,
                  .grad_norm = gradient_norm(sum),
                  .learning_rate = learning_rate(options_, step_),
                  .tokens = sums.tokens};
  if (sums.has_teacher) found.divergence = sums.divergence / parts;
  if (sums.pairs.count > 0) found.pairs = sums.pairs.mean();
  if (!std::isfinite(found.loss) || !std::isfinite(found.grad_norm)) {
    return Error{
        ErrorCode::not_finite,
        fmt::format("[training] step {}: expected a finite loss and gradient, found a loss "
                    "of {} and a gradient of length {}",
                    step_, std::abs(found.loss), std::abs(found.grad_norm))};
  }
  const double factor = options_.clip / (found.grad_norm + 1e-6);
  update(found, options_.clip > 0.0 && factor < 1.0 ? static_cast<float>(factor) : 1.0F);
  ++step_;
  return found;
}

}  // namespace v0_1
}  // namespace krait
