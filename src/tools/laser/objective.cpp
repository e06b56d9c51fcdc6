#include "tools/laser/objective.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {
namespace {

constexpr Index logit_rows = 64;

SessionOptions one_sequence() { return {.max_batch = 1, .max_verify = 0, .max_verify_batch = 0}; }

double bytes_of_answers(std::span<const Sample* const> samples) {
  double bytes = 0.0;
  for (const Sample* sample : samples) bytes += static_cast<double>(sample->answer().bytes);
  return bytes;
}

// The 97.5 % quantile of Student's t, by the expansion around the normal one's (Abramowitz and
// Stegun 26.7.5); to 1 % from three degrees of freedom on.
double student(Index samples) {
  const auto n = static_cast<double>(std::max<Index>(1, samples - 1));
  constexpr double z = 1.959963984540054;
  const double z3 = z * z * z;
  const double z5 = z3 * z * z;
  const double z7 = z5 * z * z;
  return z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n) +
         (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n * n * n);
}

// Calls body(scorer, i) for each sample; a thread has one scorer. The first error of all.
template <class Body>
Result<void> for_samples(const Model& model, std::size_t count, Executor& executor, Body&& body) {
  std::vector<std::optional<Scorer>> scorers(static_cast<std::size_t>(executor.width()));
  std::vector<Result<void>> results(count);
  parallel_for_blocks(executor, static_cast<Index>(count), 1, [&](Range range, int task) {
    auto& scorer = scorers[static_cast<std::size_t>(task)];
    if (!scorer) scorer.emplace(model);
    for (Index i = range.begin; i < range.end; ++i) {
      results[static_cast<std::size_t>(i)] = body(*scorer, static_cast<std::size_t>(i));
    }
  });
  for (const Result<void>& result : results) KRAIT_RETURN_IF_ERROR(result);
  return {};
}

}  // namespace

Paired paired(std::span<const double> before, std::span<const double> after,
              std::span<const Sample* const> samples) {
  const auto n = static_cast<double>(after.size());
  const double bytes = bytes_of_answers(samples.first(after.size()));
  double mean = 0.0;
  for (std::size_t i = 0; i < after.size(); ++i) mean += (after[i] - before[i]) / n;
  double squares = 0.0;
  for (std::size_t i = 0; i < after.size(); ++i) {
    squares += (after[i] - before[i] - mean) * (after[i] - before[i] - mean);
  }
  if (!std::isfinite(mean))
    return {std::ssize(after), std::numeric_limits<double>::infinity(), 0.0};
  const double scale = n / bytes / std::numbers::ln2;
  const double error = n < 2.0 ? 0.0 : std::sqrt(squares / (n - 1.0) / n);
  return {std::ssize(after), mean * scale, error * scale};
}

LaserScore score_of(std::span<const double> before, std::span<const double> after,
                    std::span<const Sample* const> samples) {
  const Paired pair = paired(before, after, samples);
  const double scale = 1.0 / bytes_of_answers(samples) / std::numbers::ln2;
  const double width = student(pair.samples) * pair.error;
  return {.before = scale * std::accumulate(before.begin(), before.end(), 0.0),
          .after = scale * std::accumulate(after.begin(), after.end(), 0.0),
          .low = pair.change - width,
          .high = pair.change + width,
          .samples = pair.samples};
}

Stream::Stream(const Model& model, std::vector<const Sample*> samples)
    : d_model_(model.d_model()), samples_(std::move(samples)) {
  Index rows = 0;
  for (const Sample* sample : samples_) {
    firsts_.push_back(rows);
    rows += std::ssize(sample->answer().tokens);
  }
  x_ = AlignedBuffer<float>(rows * d_model_);
}

MatrixView<float> Stream::rows(std::size_t sample) noexcept {
  return {x_.data() + firsts_[sample] * d_model_, std::ssize(samples_[sample]->answer().tokens),
          d_model_};
}

Result<void> Stream::run(const Model& model, Index end, Executor& executor) {
  std::vector<Result<void>> results(samples_.size());
  parallel_for_blocks(executor, std::ssize(samples_), 1, [&](Range range, int) {
    SerialExecutor serial;
    Session session(model, serial, one_sequence());
    for (Index i = range.begin; i < range.end; ++i) {
      const auto k = static_cast<std::size_t>(i);
      State state = model.initial_state();
      const MatrixView<float> x = rows(k);
      const std::vector<Token>& tokens = samples_[k]->answer().tokens;
      results[k] = session.embed(tokens, x);
      if (results[k]) results[k] = session.run_layers({0, end}, x, state, tokens);
    }
  });
  for (const Result<void>& result : results) KRAIT_RETURN_IF_ERROR(result);
  return {};
}

Scorer::Scorer(const Model& model)
    : model_(model),
      session_(model_, serial_, one_sequence()),
      state_(model_.initial_state()),
      logits_(logit_rows * model_.vocab_padded()) {}

Result<double> Scorer::nats(const Sequence& sequence, Index first, MatrixView<const float> x,
                            bool* is_greedy) {
  if (x_.size() < x.rows * x.cols) x_ = AlignedBuffer<float>(x.rows * x.cols);
  std::copy_n(x.data, x.rows * x.cols, x_.data());
  return run(sequence, first, is_greedy);
}

Result<double> Scorer::nats(const Sequence& sequence, bool* is_greedy) {
  const Index rows = std::ssize(sequence.tokens);
  const Index cols = model_.d_model();
  if (x_.size() < rows * cols) x_ = AlignedBuffer<float>(rows * cols);
  KRAIT_RETURN_IF_ERROR(session_.embed(sequence.tokens, {x_.data(), rows, cols}));
  return run(sequence, 0, is_greedy);
}

Result<double> Scorer::run(const Sequence& sequence, Index first, bool* is_greedy) {
  const Index tokens = std::ssize(sequence.tokens);
  const MatrixView<float> x(x_.data(), tokens, model_.d_model());
  state_.reset();
  const Index layers = std::ssize(model_.spec().layers);
  KRAIT_RETURN_IF_ERROR(session_.run_layers({first, layers}, x, state_, sequence.tokens));
  if (is_greedy != nullptr) *is_greedy = true;
  double nats = 0.0;
  for (Index row = sequence.first - 1; row < tokens - 1; row += logit_rows) {
    const MatrixView<float> logits(logits_.data(), std::min(logit_rows, tokens - 1 - row),
                                   model_.vocab_padded());
    KRAIT_RETURN_IF_ERROR(session_.unembed(x.rows_from(row, logits.rows), logits));
    for (Index i = 0; i < logits.rows; ++i) {
      const auto known = logits.row(i).first(static_cast<std::size_t>(model_.vocab()));
      const auto next =
          static_cast<std::size_t>(sequence.tokens[static_cast<std::size_t>(row + i + 1)]);
      // A padding id has no probability.
      const float log_p = next < known.size() ? known[next] - kernels::log_sum_exp(known)
                                              : -std::numeric_limits<float>::infinity();
      nats -= static_cast<double>(log_p);
      if (is_greedy != nullptr &&
          std::ranges::max_element(known) - known.begin() != static_cast<std::ptrdiff_t>(next)) {
        *is_greedy = false;
      }
    }
  }
  return std::isfinite(nats) ? nats : std::numeric_limits<double>::infinity();
}

Result<std::vector<double>> nats_of(const Model& model, std::span<const Sample* const> samples,
                                    Executor& executor) {
  std::vector<double> nats(samples.size());
  KRAIT_RETURN_IF_ERROR(for_samples(
      model, samples.size(), executor, [&](Scorer& scorer, std::size_t i) -> Result<void> {
        KRAIT_ASSIGN_OR_RETURN(nats[i], scorer.nats(samples[i]->answer()));
        return {};
      }));
  return nats;
}

Result<double> accuracy_of(const Model& model, std::span<const Sample* const> samples,
                           Executor& executor) {
  std::vector<std::uint8_t> right(samples.size());
  const auto ask = [&](Scorer& scorer, std::size_t i) -> Result<void> {
    const Sample& sample = *samples[i];
    double best = std::numeric_limits<double>::infinity();
    std::size_t chosen = sample.choices.size();
    for (std::size_t c = 0; c < sample.choices.size(); ++c) {
      bool is_greedy = false;
      KRAIT_ASSIGN_OR_RETURN(const double nats, scorer.nats(sample.choices[c], &is_greedy));
      if (sample.choices.size() == 1) {
        if (is_greedy) chosen = c;
        continue;
      }
      const double cost = nats / static_cast<double>(std::max<Index>(1, sample.choices[c].bytes));
      if (cost < best) {
        best = cost;
        chosen = c;
      }
    }
    right[i] = chosen == sample.right ? 1 : 0;
    return {};
  };
  KRAIT_RETURN_IF_ERROR(for_samples(model, samples.size(), executor, ask));
  return static_cast<double>(std::count(right.begin(), right.end(), 1)) /
         static_cast<double>(samples.size());
}

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
