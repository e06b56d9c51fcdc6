#include "tools/aqlm/tune.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/models/session.hpp"
#include "krait/training/model_gradient.hpp"
#include "training/trained_model.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// Numbers that Adam moves, each as large a step as their size allows.
class Numbers {
  template <class Self>
  static auto parts(Self& self) {
    return std::array{std::pair(".values", &self.values_), std::pair(".first", &self.first_),
                      std::pair(".second", &self.second_)};
  }

 public:
  Numbers() = default;
  explicit Numbers(const std::vector<f16>& stored) : first_(stored.size()), second_(stored.size()) {
    for (const f16 value : stored) values_.push_back(to_float(value));
  }

  static constexpr double beta1 = 0.9;
  static constexpr double beta2 = 0.99;

  const std::vector<float>& values() const noexcept { return values_; }

  // `sizes` has for each number what steps are relative to; `unseen1` and `unseen2` are the powers
  // of β that correct the moments for their zeros at the start.
  void move(const std::vector<double>& gradient, const std::vector<float>& sizes, double rate,
            double unseen1, double unseen2) {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const double first = beta1 * static_cast<double>(first_[i]) + (1.0 - beta1) * gradient[i];
      const double second =
          beta2 * static_cast<double>(second_[i]) + (1.0 - beta2) * gradient[i] * gradient[i];
      first_[i] = static_cast<float>(first);
      second_[i] = static_cast<float>(second);
      const double root = std::sqrt(second / (1.0 - unseen2));
      if (root == 0.0) continue;
      const double change = rate * static_cast<double>(sizes[i]) * first / (1.0 - unseen1) / root;
      values_[i] = static_cast<float>(static_cast<double>(values_[i]) - change);
    }
  }

  bool fit_f16() const {
    return std::ranges::all_of(values_, [](float x) { return std::isfinite(to_float(to_f16(x))); });
  }
  void store(std::vector<f16>& stored) const {
    std::ranges::transform(values_, stored.begin(), to_f16);
  }

  void append_to(std::vector<NamedTensor>& tensors, const std::string& name) const {
    for (const auto& [part, numbers] : parts(*this)) {
      tensors.push_back({name + part, {numbers->data(), DType::f32, {std::ssize(*numbers)}}});
    }
  }
  bool restore(const WeightStore& store, const std::string& name) {
    for (const auto& [part, numbers] : parts(*this)) {
      const WeightStore::Entry* entry = store.find(name + part);
      if (entry == nullptr || entry->tensor.dtype != DType::f32 ||
          entry->tensor.size() != std::ssize(*numbers)) {
        return false;
      }
      std::memcpy(numbers->data(), entry->tensor.data, numbers->size() * sizeof(float));
    }
    return true;
  }

 private:
  std::vector<float> values_;
  std::vector<float> first_;  // moments of the gradient
  std::vector<float> second_;
};

// A matrix, whose codes stay.
class Tuned {
 public:
  explicit Tuned(const TunedMatrix& target)
      : matrix_(target.matrix), codebooks_(matrix_->codebooks), scales_(matrix_->scales) {
    // Steps are relative to a whole codebook's size, since numbers near 0 move as far as others.
    const auto per_codebook =
        static_cast<std::size_t>(matrix_->scheme.codewords() * matrix_->scheme.in_group);
    const std::vector<float>& numbers = codebooks_.values();
    for (std::size_t begin = 0; begin < numbers.size(); begin += per_codebook) {
      double sum = 0.0;
      for (std::size_t i = begin; i < begin + per_codebook; ++i) {
        sum += static_cast<double>(numbers[i]) * static_cast<double>(numbers[i]);
      }
      const double size = std::sqrt(sum / static_cast<double>(per_codebook));
      codebook_sizes_.insert(codebook_sizes_.end(), per_codebook, static_cast<float>(size));
    }
    for (const float scale : scales_.values()) scale_sizes_.push_back(std::abs(scale));
  }

  // The weights [out, in].
  void decode(float* weights) const {
    std::vector<float> sums(static_cast<std::size_t>(matrix_->in));
    for (Index i = 0; i < matrix_->out; ++i) {
      unscaled(i, sums);
      const float scale = scales_.values()[static_cast<std::size_t>(i)];
      for (Index k = 0; k < matrix_->in; ++k) {
        weights[i * matrix_->in + k] = sums[static_cast<std::size_t>(k)] * scale;
      }
    }
  }

  // One step down the gradient [out, in] of the weights: with u the sum of the codewords and s the
  // scale, w = s u has dC = Σ s dw over the places where the codeword stands, ds = Σ u dw.
  void move(const float* gradient, double rate, double unseen1, double unseen2) {
    const Index g = matrix_->scheme.in_group;
    const Index books = matrix_->scheme.codebooks;
    std::vector<double> of_codebooks(codebooks_.values().size());
    std::vector<double> of_scales(scales_.values().size());
    std::vector<float> sums(static_cast<std::size_t>(matrix_->in));
    const std::uint16_t* codes = matrix_->codes.data();
    for (Index i = 0; i < matrix_->out; ++i) {
      unscaled(i, sums);
      const float* row = gradient + i * matrix_->in;
      const auto scale = static_cast<double>(scales_.values()[static_cast<std::size_t>(i)]);
      double of_scale = 0.0;
      for (Index k = 0; k < matrix_->in; ++k) {
        of_scale +=
            static_cast<double>(row[k]) * static_cast<double>(sums[static_cast<std::size_t>(k)]);
      }
      of_scales[static_cast<std::size_t>(i)] = of_scale;
      for (Index j = 0; j < matrix_->in / g; ++j) {
        for (Index m = 0; m < books; ++m, ++codes) {
          double* codeword = of_codebooks.data() + (m * matrix_->scheme.codewords() + *codes) * g;
          for (Index d = 0; d < g; ++d) codeword[d] += scale * static_cast<double>(row[j * g + d]);
        }
      }
    }
    codebooks_.move(of_codebooks, codebook_sizes_, rate, unseen1, unseen2);
    scales_.move(of_scales, scale_sizes_, rate, unseen1, unseen2);
  }

  void append_to(std::vector<NamedTensor>& tensors, const std::string& name) const {
    codebooks_.append_to(tensors, name + ".codebooks");
    scales_.append_to(tensors, name + ".scales");
  }
  bool restore(const WeightStore& store, const std::string& name) {
    return codebooks_.restore(store, name + ".codebooks") &&
           scales_.restore(store, name + ".scales");
  }

  // Whether the numbers can be stored: f16 has none of them that is too large.
  bool fits() const { return codebooks_.fit_f16() && scales_.fit_f16(); }
  void store() {
    codebooks_.store(matrix_->codebooks);
    scales_.store(matrix_->scales);
  }

 private:
  void unscaled(Index row, std::vector<float>& sums) const {
    const Index g = matrix_->scheme.in_group;
    const Index books = matrix_->scheme.codebooks;
    const std::uint16_t* codes = matrix_->codes.data() + row * (matrix_->in / g) * books;
    std::ranges::fill(sums, 0.0F);
    for (Index j = 0; j < matrix_->in / g; ++j) {
      float* sum = sums.data() + j * g;
      for (Index m = 0; m < books; ++m, ++codes) {
        const float* codeword =
            codebooks_.values().data() + (m * matrix_->scheme.codewords() + *codes) * g;
        for (Index d = 0; d < g; ++d) sum[d] += codeword[d];
      }
    }
  }

  AqlmMatrix* matrix_;
  Numbers codebooks_;
  Numbers scales_;
  std::vector<float> codebook_sizes_;
  std::vector<float> scale_sizes_;
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

// All matrices in tuning, between two rounds.
class Progressed {
 public:
  Progressed(const PartialWork& work, std::vector<Tuned>& tuned)
      : work_(work), tuned_(tuned), best_(tuned) {}

  std::vector<Tuned>& best() noexcept { return best_; }

  // A round is done, with this divergence elsewhere.
  Result<void> finish_round(double elsewhere) {
    if (elsewhere < divergence.last && std::ranges::all_of(tuned_, &Tuned::fits)) {
      divergence.last = elsewhere;
      best_ = tuned_;
      KRAIT_RETURN_IF_ERROR(work_.write(best_piece, tensors_of(best_)));
    }
    return save();
  }

  Index steps = 0;       // that are done
  Tuning divergence;     // elsewhere in the text: at first, and the least so far
  double unseen1 = 1.0;  // powers of Adam's β
  double unseen2 = 1.0;

  void restore() {
    const std::optional<WeightStore> store = work_.read(piece);
    if (!store) return;
    Progressed other(work_, tuned_);
    const auto number = [&](std::string_view key, auto& value) {
      const auto at = store->metadata.find(key);
      if (at == store->metadata.end()) return false;
      const std::string& text = at->second;
      return std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc();
    };
    if (!number("steps", other.steps) || !number("first", other.divergence.first) ||
        !number("last", other.divergence.last) || !number("unseen1", other.unseen1) ||
        !number("unseen2", other.unseen2)) {
      return;
    }
    std::vector<Tuned> now = tuned_;
    std::vector<Tuned> best = tuned_;
    if (!restore(*store, now)) return;
    if (other.divergence.last < other.divergence.first) {
      const std::optional<WeightStore> of_best = work_.read(best_piece);
      if (!of_best || !restore(*of_best, best)) return;
    }
    steps = other.steps;
    divergence = other.divergence;
    unseen1 = other.unseen1;
    unseen2 = other.unseen2;
    tuned_ = std::move(now);
    best_ = std::move(best);
  }

 private:
  static constexpr const char* piece = "tuning";
  static constexpr const char* best_piece = "tuning-best";

  static std::vector<NamedTensor> tensors_of(const std::vector<Tuned>& all) {
    std::vector<NamedTensor> tensors;
    for (std::size_t i = 0; i < all.size(); ++i) all[i].append_to(tensors, std::to_string(i));
    return tensors;
  }
  static bool restore(const WeightStore& store, std::vector<Tuned>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!all[i].restore(store, std::to_string(i))) return false;
    }
    return true;
  }

  Result<void> save() const {
    return work_.write(piece, tensors_of(tuned_),
                       {{"steps", std::to_string(steps)},
                        {"first", fmt::format("{}", divergence.first)},
                        {"last", fmt::format("{}", divergence.last)},
                        {"unseen1", fmt::format("{}", unseen1)},
                        {"unseen2", fmt::format("{}", unseen2)}});
  }

  const PartialWork& work_;
  std::vector<Tuned>& tuned_;
  std::vector<Tuned> best_;
};

// The model in tuning: its weights, and one step of all matrices.
class Student {
 public:
  static Result<Student> create(const CheckpointPlan& plan, std::span<const TunedMatrix> matrices,
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
    for (const TunedMatrix& matrix : matrices) {
      student.places_.push_back(parameters.find(matrix.path)->offset + matrix.first);
    }
    return student;
  }

  // Uses the weights that these stand for from now on.
  Result<void> set(const std::vector<Tuned>& tuned) {
    parallel_for(*executor_, std::ssize(tuned), 1, [&](Range range) {
      for (Index i = range.begin; i < range.end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        tuned[at].decode(values_.data() + places_[at]);
      }
    });
    std::fill_n(changes_.data(), changes_.size(), 0.0F);
    return gradient_.bind(values_.data());
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
  void move(std::vector<Tuned>& tuned, double rate, double unseen1, double unseen2) {
    parallel_for(*executor_, std::ssize(tuned), 1, [&](Range range) {
      for (Index i = range.begin; i < range.end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        tuned[at].move(changes_.data() + places_[at], rate, unseen1, unseen2);
      }
    });
  }

 private:
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

Result<Tuning> tune(const CheckpointPlan& plan, const Model& original,
                    std::span<const Token> tokens, std::span<const TunedMatrix> matrices,
                    const TuneOptions& options, const PartialWork& work, Executor& executor,
                    Progress progress) {
  const FloatEnvironment environment;
  // Whether rows go on from the one before: gradients reach into states, not into caches.
  const bool carries = original.plan().cache_bytes_per_token == 0;
  KRAIT_ASSIGN_OR_RETURN(Student student, Student::create(plan, matrices, carries, executor));
  std::vector<Tuned> tuned(matrices.begin(), matrices.end());
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
    KRAIT_RETURN_IF_ERROR(student.set(tuned));
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
  Progressed at(work, tuned);
  if (learned == rows.size()) {
    return Error{ErrorCode::unsupported, "[aqlm] tuning: expected a longer calibration text"};
  }
  KRAIT_ASSIGN_OR_RETURN(at.divergence.first, elsewhere());
  if (!std::isfinite(at.divergence.first)) {
    return Error{
        ErrorCode::not_finite,
        fmt::format("[aqlm] tuning: expected a finite divergence, found {}", at.divergence.first)};
  }
  at.divergence.last = at.divergence.first;
  at.restore();
  const auto per_step = static_cast<std::size_t>(options.rows_per_step);
  const auto epoch = static_cast<Index>((learned + per_step - 1) / per_step);  // in steps
  const Index round = std::min(epoch, options.steps_per_round);
  const Index steps = std::min(options.epochs * epoch,
                               options.tokens / (options.rows_per_step * options.row_tokens));
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
      const double rate =
          options.rate * (1.0 - static_cast<double>(at.steps) / static_cast<double>(steps));
      at.unseen1 *= Numbers::beta1;
      at.unseen2 *= Numbers::beta2;
      student.move(tuned, rate, at.unseen1, at.unseen2);
      if (progress && progress(at.steps + 1, steps) == Flow::stop) {
        return Error{ErrorCode::cancelled, "[aqlm] cancelled"};
      }
    }
    KRAIT_ASSIGN_OR_RETURN(const double divergence, elsewhere());
    KRAIT_RETURN_IF_ERROR(at.finish_round(divergence));
  }
  for (Tuned& one : at.best()) one.store();
  return at.divergence;
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
