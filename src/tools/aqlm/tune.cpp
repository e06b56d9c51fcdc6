#include "tools/aqlm/tune.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/models/session.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/weights/convert.hpp"
#include "tools/aqlm/finished.hpp"
#include "training/trained_model.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// A tensor that is not quantised.
struct DenseTensor {
  std::string name;   // in the checkpoint
  Index offset = 0;   // among the model's parameters
  TensorView source;  // as the checkpoint has it
  Adam numbers;

  TensorView values() const { return {numbers.values().data(), DType::f32, source.shape}; }
  // As they are stored, and these in f32.
  std::vector<std::byte> stored() const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(source.bytes()));
    convert_floats(values(), source.dtype, bytes.data());
    return bytes;
  }
  void round(float* rounded) const {
    convert_floats({stored().data(), source.dtype, source.shape}, DType::f32, rounded);
  }
};

// Everything that moves.
struct Tuned {
  std::vector<TunedMatrix> matrices;
  std::vector<DenseTensor> dense;

  std::vector<NamedTensor> tensors() const {
    std::vector<NamedTensor> all;
    for (std::size_t i = 0; i < matrices.size(); ++i)
      matrices[i].append_to(all, fmt::format("{}", i));
    for (const DenseTensor& tensor : dense) tensor.numbers.append_to(all, tensor.name);
    return all;
  }
  bool restore(const WeightStore& store) {
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      if (!matrices[i].restore(store, fmt::format("{}", i))) return false;
    }
    return std::ranges::all_of(
        dense, [&](DenseTensor& tensor) { return tensor.numbers.restore(store, tensor.name); });
  }
};

// The original model's distribution after each token of a row, which goes on from the row before.
class Teacher {
 public:
  Teacher(const Model& model, bool carries, Executor& executor)
      : model_(model),
        state_(model.initial_state()),
        carries_(carries),
        session_(model, executor, {.max_batch = 1, .max_verify = 0, .max_verify_batch = 0}) {}

  void begin() { state_ = model_.initial_state(); }

  Result<MatrixView<const float>> laws(std::span<const Token> row) {
    if (!carries_) begin();
    const Index padded = model_.vocab_padded();
    const auto tokens = std::ssize(row);
    logits_.resize(static_cast<std::size_t>(tokens * padded));
    laws_.resize(static_cast<std::size_t>(tokens * model_.vocab()));
    KRAIT_RETURN_IF_ERROR(session_.prefill_all(row, state_, {logits_.data(), tokens, padded}));
    const MatrixView<float> laws(laws_.data(), tokens, model_.vocab());
    for (Index t = 0; t < tokens; ++t) {
      const std::span<const float> logits(logits_.data() + t * padded,
                                          static_cast<std::size_t>(model_.vocab()));
      kernels::softmax(logits, laws.row(t));
    }
    return MatrixView<const float>(laws);
  }

 private:
  const Model& model_;
  State state_;
  bool carries_;
  Session session_;
  std::vector<float> logits_;
  std::vector<float> laws_;
};

// What was reached between two rounds.
class Progressed {
 public:
  Progressed(const PartialWork& work, std::span<const TuneTarget> targets, Tuned& tuned)
      : work_(work), targets_(targets), tuned_(tuned) {}

  Index steps = 0;       // that are done
  Tuning divergence;     // elsewhere in the text: at first, and the least so far
  double unseen1 = 1.0;  // powers of Adam's β
  double unseen2 = 1.0;

  // The result, as long as nothing is better.
  Result<void> begin() const {
    for (const TuneTarget& target : targets_) {
      KRAIT_RETURN_IF_ERROR(write_matrix(work_, tuned_name(target.name), target.matrix));
    }
    return work_.write(tuned_dense, {});
  }

  // A round is done, with this divergence elsewhere.
  Result<void> finish_round(double elsewhere) {
    if (elsewhere < divergence.last) {
      divergence.last = elsewhere;
      KRAIT_RETURN_IF_ERROR(keep());
    }
    if (!work_.is_resumable()) return {};
    return work_.write(piece, tuned_.tensors(),
                       {{"steps", std::to_string(steps)},
                        {"first", fmt::format("{}", divergence.first)},
                        {"last", fmt::format("{}", divergence.last)},
                        {"unseen1", fmt::format("{}", unseen1)},
                        {"unseen2", fmt::format("{}", unseen2)}});
  }

  // Goes on from the last round that an earlier call finished; whether there was one.
  bool restore() {
    const std::optional<WeightStore> store = work_.read(piece);
    if (!store) return false;
    Progressed other(work_, targets_, tuned_);
    const auto number = [&](std::string_view key, auto& value) {
      const auto at = store->metadata.find(key);
      if (at == store->metadata.end()) return false;
      const std::string& text = at->second;
      return std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc();
    };
    if (!number("steps", other.steps) || !number("first", other.divergence.first) ||
        !number("last", other.divergence.last) || !number("unseen1", other.unseen1) ||
        !number("unseen2", other.unseen2)) {
      return false;
    }
    Tuned now = tuned_;
    if (!now.restore(*store)) return false;
    tuned_ = std::move(now);
    steps = other.steps;
    divergence = other.divergence;
    unseen1 = other.unseen1;
    unseen2 = other.unseen2;
    return true;
  }

 private:
  static constexpr const char* piece = "tuning";

  Result<void> keep() const {
    for (std::size_t i = 0; i < targets_.size(); ++i) {
      AqlmMatrix matrix = tuned_.matrices[i].stored();
      matrix.error = targets_[i].matrix.error;
      KRAIT_RETURN_IF_ERROR(write_matrix(work_, tuned_name(targets_[i].name), matrix));
    }
    std::vector<std::vector<std::byte>> bytes;
    std::vector<NamedTensor> tensors;
    for (const DenseTensor& tensor : tuned_.dense) {
      bytes.push_back(tensor.stored());
      tensors.push_back(
          {tensor.name, {bytes.back().data(), tensor.source.dtype, tensor.source.shape}});
    }
    return work_.write(tuned_dense, std::move(tensors));
  }

  const PartialWork& work_;
  std::span<const TuneTarget> targets_;
  Tuned& tuned_;
};

// The model in tuning: its weights, and one step of everything that moves.
class Student {
 public:
  static Result<Student> create(const CheckpointPlan& plan, std::span<const TuneTarget> targets,
                                bool carries, Executor& executor) {
    const ModelSpec spec = training::trained_spec(plan);
    KRAIT_ASSIGN_OR_RETURN(ModelGradient gradient,
                           ModelGradient::create(spec, plan.config.prefix, executor));
    Student student(std::move(gradient), carries, executor);
    const Parameters& parameters = student.gradient_.parameters();
    student.values_ = AlignedBuffer<float>(parameters.floats());
    student.changes_ = AlignedBuffer<float>(parameters.floats());
    KRAIT_ASSIGN_OR_RETURN(
        const WeightStore weights,
        training::trained_weights(spec, plan.config.prefix, plan.checkpoint.weights));
    KRAIT_RETURN_IF_ERROR(parameters.read(weights, student.values_.span()));
    for (const TuneTarget& target : targets) {
      student.places_.push_back(parameters.find(target.path)->offset + target.first);
    }
    return student;
  }

  // Those of these tensors of the checkpoint that have a gradient and are stored as floats.
  std::vector<DenseTensor> dense(const CheckpointPlan& plan, std::set<std::string> names) const {
    std::map<std::string_view, const std::string*> stored;  // names, by path
    for (const TensorUse& use : plan.plan.tensors) stored.emplace(use.path, &use.name);
    std::vector<DenseTensor> tensors;
    for (const Parameter& parameter : gradient_.parameters().all()) {
      auto known = stored.find(parameter.path);
      // Of an embedding that is stored as the head.
      if (known == stored.end()) known = stored.find(plan.config.spec.head_name + ".weight");
      if (known == stored.end() || names.erase(*known->second) == 0) continue;
      const TensorView& source = plan.checkpoint.weights.find(*known->second)->tensor;
      const bool is_float =
          source.dtype == DType::f32 || source.dtype == DType::f16 || source.dtype == DType::bf16;
      if (!is_float || source.size() != parameter.shape.size()) continue;
      const float* first = values_.data() + parameter.offset;
      const auto size = static_cast<std::size_t>(source.size());
      tensors.push_back(
          {*known->second, parameter.offset, source, Adam({first, first + size}, size)});
    }
    return tensors;
  }

  // Uses the weights that these stand for from now on.
  Result<void> set(const Tuned& tuned) {
    for_all(
        tuned, [&](std::size_t i) { tuned.matrices[i].decode(values_.data() + places_[i]); },
        [&](const DenseTensor& tensor) {
          std::ranges::copy(tensor.numbers.values(), values_.data() + tensor.offset);
        });
    return bind();
  }
  // The same, rounded as they are stored.
  Result<void> set_rounded(const Tuned& tuned) {
    for_all(
        tuned,
        [&](std::size_t i) {
          const AqlmMatrix matrix = tuned.matrices[i].stored();
          for (Index r = 0; r < matrix.out; ++r) {
            matrix.row(r, {values_.data() + places_[i] + r * matrix.in,
                           static_cast<std::size_t>(matrix.in)});
          }
        },
        [&](const DenseTensor& tensor) { tensor.round(values_.data() + tensor.offset); });
    return bind();
  }
  void begin() { state_.reset(); }
  // Adds a row's gradient; its divergence.
  Result<double> learn(std::span<const Token> row, MatrixView<const float> laws) {
    return gradient_.backward(leaf_of(row, laws), changes_.data());
  }
  // The divergence alone.
  Result<double> compare(std::span<const Token> row, MatrixView<const float> laws) {
    std::vector<float> of_tokens(row.size());
    KRAIT_RETURN_IF_ERROR(gradient_.log_probabilities(leaf_of(row, laws), of_tokens));
    double sum = 0.0;
    for (const float negative : of_tokens) sum -= static_cast<double>(negative);
    return sum;
  }
  void move(Tuned& tuned, const TuneRates& rates, AdamStep step) {
    AdamStep of_dense = step;
    of_dense.rate *= rates.dense;
    for_all(
        tuned,
        [&](std::size_t i) { tuned.matrices[i].move(changes_.data() + places_[i], rates, step); },
        [&](DenseTensor& tensor) {
          tensor.numbers.move({changes_.data() + tensor.offset, tensor.numbers.values().size()},
                              of_dense);
        });
  }

 private:
  // Calls of_matrix(i) and of_tensor(tensor) for everything that moves, in parallel.
  template <class AllTuned, class OfMatrix, class OfTensor>
  void for_all(AllTuned& tuned, OfMatrix of_matrix, OfTensor of_tensor) const {
    const Index matrices = std::ssize(tuned.matrices);
    parallel_for(*executor_, matrices + std::ssize(tuned.dense), 1, [&](Range range) {
      for (Index i = range.begin; i < range.end; ++i) {
        if (i < matrices) {
          of_matrix(static_cast<std::size_t>(i));
        } else {
          of_tensor(tuned.dense[static_cast<std::size_t>(i - matrices)]);
        }
      }
    });
  }
  Result<void> bind() {
    std::fill_n(changes_.data(), changes_.size(), 0.0F);
    return gradient_.bind(values_.data());
  }
  // The row behind those before it.
  Leaf leaf_of(std::span<const Token> row, MatrixView<const float> laws) {
    if (carries_ && !state_) state_ = gradient_.model().initial_state();
    Leaf leaf;
    leaf.state = state_ ? &*state_ : nullptr;
    leaf.inputs = row;
    leaf.laws = laws;
    return leaf;
  }

  Student(ModelGradient gradient, bool carries, Executor& executor)
      : gradient_(std::move(gradient)), executor_(&executor), carries_(carries) {}

  ModelGradient gradient_;
  Executor* executor_;
  AlignedBuffer<float> values_;
  AlignedBuffer<float> changes_;
  std::vector<Index> places_;
  bool carries_;
  std::optional<State> state_;  // behind the row before
};

}  // namespace

std::string tuned_name(const std::string& name) { return name + ".tuned"; }

Result<Tuning> tune(const CheckpointPlan& plan, const Model& original,
                    std::span<const Token> tokens, std::span<const TuneTarget> targets,
                    const std::set<std::string>& dense, const TuneOptions& options,
                    const PartialWork& work, Executor& executor, Progress progress) {
  const FloatEnvironment environment;
  // Whether rows go on from the one before: gradients reach into states, not into caches.
  const bool carries = original.plan().cache_bytes_per_token == 0;
  KRAIT_ASSIGN_OR_RETURN(Student student, Student::create(plan, targets, carries, executor));
  Tuned tuned;
  for (const TuneTarget& target : targets) tuned.matrices.emplace_back(target.matrix);
  tuned.dense = student.dense(plan, dense);
  Teacher teacher(original, carries, executor);
  std::vector<std::span<const Token>> rows;
  for (auto rest = tokens; !rest.empty();) {
    const std::size_t size = std::min(static_cast<std::size_t>(options.row_tokens), rest.size());
    rows.push_back(rest.first(size));
    rest = rest.subspan(size);
  }
  // The end decides after which round the rest is no longer followed too closely.
  const std::size_t held_out = std::min(
      rows.size() / 4, static_cast<std::size_t>(options.tokens_elsewhere / options.row_tokens));
  const std::size_t learned = rows.size() - held_out;
  const auto elsewhere = [&]() -> Result<double> {
    KRAIT_RETURN_IF_ERROR(student.set_rounded(tuned));
    teacher.begin();
    student.begin();
    double sum = 0.0;
    double count = 0.0;
    for (std::size_t r = learned; r < rows.size(); ++r) {
      KRAIT_ASSIGN_OR_RETURN(const auto laws, teacher.laws(rows[r]));
      KRAIT_ASSIGN_OR_RETURN(const double of_row, student.compare(rows[r], laws));
      sum += of_row;
      count += static_cast<double>(rows[r].size());
    }
    return sum / count;
  };
  if (learned == rows.size()) {
    return Error{ErrorCode::unsupported, "[aqlm] tuning: expected a longer calibration text"};
  }
  Progressed at(work, targets, tuned);
  if (!at.restore()) {
    KRAIT_ASSIGN_OR_RETURN(at.divergence.first, elsewhere());
    if (!std::isfinite(at.divergence.first)) {
      return Error{ErrorCode::not_finite,
                   fmt::format("[aqlm] tuning: expected a finite divergence, found {}",
                               at.divergence.first)};
    }
    at.divergence.last = at.divergence.first;
    KRAIT_RETURN_IF_ERROR(at.begin());
  }
  TuneRates rates = options.rates;
  const double known = static_cast<double>(learned) * static_cast<double>(options.row_tokens) /
                       static_cast<double>(options.tokens_for_weights);
  rates.weights *= std::min(1.0, known);
  rates.dense *= std::min(1.0, known);
  const auto per_step = static_cast<std::size_t>(options.rows_per_step);
  const auto epoch = static_cast<Index>((learned + per_step - 1) / per_step);  // in steps
  const Index round = std::min(epoch, options.steps_per_round);
  const Index steps = options.tokens / options.tokens_per_step();
  while (at.steps < steps) {
    for (const Index end = std::min(steps, at.steps + round); at.steps < end; ++at.steps) {
      const Index of_epoch = at.steps % epoch;
      if (of_epoch == 0 || at.steps % round == 0) {  // where the text or the round begins
        teacher.begin();
        student.begin();
      }
      KRAIT_RETURN_IF_ERROR(student.set(tuned));
      const std::size_t first = static_cast<std::size_t>(of_epoch) * per_step;
      for (std::size_t r = first; r < std::min(learned, first + per_step); ++r) {
        KRAIT_ASSIGN_OR_RETURN(const auto laws, teacher.laws(rows[r]));
        KRAIT_RETURN_IF_ERROR(student.learn(rows[r], laws));
      }
      at.unseen1 *= Adam::beta1;
      at.unseen2 *= Adam::beta2;
      const double rate = 1.0 - static_cast<double>(at.steps) / static_cast<double>(steps);
      student.move(tuned, rates, {rate, at.unseen1, at.unseen2});
      if ((at.steps + 1) % options.steps_per_code == 0) {
        for (TunedMatrix& matrix : tuned.matrices) matrix.encode(options.beam, executor);
      }
      if (progress && progress(at.steps + 1, steps) == Flow::stop) {
        return Error{ErrorCode::cancelled, "[aqlm] cancelled"};
      }
    }
    KRAIT_ASSIGN_OR_RETURN(const double divergence, elsewhere());
    KRAIT_RETURN_IF_ERROR(at.finish_round(divergence));
  }
  return at.divergence;
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
