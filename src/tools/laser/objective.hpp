#pragma once

#include <atomic>
#include <optional>
#include <span>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/executor.hpp"
#include "krait/models/session.hpp"
#include "tools/laser/samples.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {

/// The mean of paired differences and what is known of it.
struct Paired {
  Index samples = 0;
  double change = 0.0;  ///< bits per byte
  double error = 0.0;   ///< standard error; 0 for fewer than two samples
};
/// Of the first `after.size()` samples. Values are nats.
Paired paired(std::span<const double> before, std::span<const double> after,
              std::span<const Sample* const> samples);

/// Bits per byte before and after, with the 95 % interval of the difference.
LaserScore score_of(std::span<const double> before, std::span<const double> after,
                    std::span<const Sample* const> samples);

/// The residual stream of the samples' answers in front of a layer, one after another.
class Stream {
 public:
  Stream(const Model& model, std::vector<const Sample*> samples);

  std::span<const Sample* const> samples() const noexcept { return samples_; }
  /// [tokens, d_model] of a sample.
  MatrixView<float> rows(std::size_t sample) noexcept;

  /// The embedding of all, then the layers [0, end).
  Result<void> run(const Model& model, Index end, Executor& executor);

 private:
  Index d_model_;
  std::vector<const Sample*> samples_;
  std::vector<Index> firsts_;
  AlignedBuffer<float> x_;
};

/// Scores answers from the residual stream in front of a layer. One thread's: it has its session,
/// which runs in the calling thread.
class Scorer {
 public:
  explicit Scorer(const Model& model);

  /// What the scored tokens of a sequence cost, in nats, with `x` its stream in front of layer
  /// `first`. `is_greedy`, unless null: whether each is the most probable. Errors: not_finite is
  /// none, the cost is infinite then.
  Result<double> nats(const Sequence& sequence, Index first, MatrixView<const float> x,
                      bool* is_greedy = nullptr);
  /// The same from the beginning.
  Result<double> nats(const Sequence& sequence, bool* is_greedy = nullptr);

 private:
  Result<double> run(const Sequence& sequence, Index first, bool* is_greedy);

  Model model_;
  SerialExecutor serial_;
  Session session_;
  State state_;
  AlignedBuffer<float> x_;  // grows with the longest sequence
  AlignedBuffer<float> logits_;
};

/// What the answers cost under a model, run from the beginning by all threads.
Result<std::vector<double>> nats_of(const Model& model, std::span<const Sample* const> samples,
                                    Executor& executor);

/// Part of the samples whose right answer is the most probable one, per byte; where there is one
/// alone, whether each of its tokens is.
Result<double> accuracy_of(const Model& model, std::span<const Sample* const> samples,
                           Executor& executor);

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
