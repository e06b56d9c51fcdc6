#include "krait/training/preference.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "decoding/exact_math.hpp"
#include "krait/core/float_environment.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

double sigmoid(double x) {
  const double e = exp_nonpositive(-std::abs(x));
  return (x >= 0.0 ? 1.0 : e) / (1.0 + e);
}

// −ln σ(x)
double softplus_of_minus(double x) {
  return std::max(-x, 0.0) + log_positive(1.0 + exp_nonpositive(-std::abs(x)));
}

bool is_per_token(PreferenceLoss loss) {
  return loss == PreferenceLoss::ipo || loss == PreferenceLoss::sigmoid_norm;
}

// What each token of an answer counts in the sum of log-probabilities.
std::vector<double> counts(const Row& row, Index shared, double ld_alpha) {
  std::vector<double> result(static_cast<std::size_t>(row.targets()), 1.0);
  for (Index t = shared; t < row.targets(); ++t) result[static_cast<std::size_t>(t)] = ld_alpha;
  return result;
}

struct Answer {
  const Row* row;
  std::vector<double> counts;
  double log_p = 0.0;  // sums with these counts
  double reference_log_p = 0.0;
  double cross_entropy = 0.0;  // sum over the tokens
  double length = 1.0;         // what the sums are divided by in Δ

  double ratio() const { return log_p - reference_log_p; }
};

Result<Answer> find_answer(ModelGradient& model, const Row& row, std::span<const float> reference,
                           const PreferenceOptions& options, Index shared) {
  if (std::ssize(reference) != row.targets()) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] reference: expected {} log-probabilities, found {}",
                             row.targets(), reference.size())};
  }
  Answer answer{.row = &row, .counts = counts(row, shared, options.ld_alpha)};
  KRAIT_ASSIGN_OR_RETURN(const std::vector<float> log_p, target_log_probabilities(model, row));
  for (std::size_t t = 0; t < log_p.size(); ++t) {
    answer.log_p += answer.counts[t] * static_cast<double>(log_p[t]);
    answer.cross_entropy -= static_cast<double>(log_p[t]);
    answer.reference_log_p += answer.counts[t] * static_cast<double>(reference[t]);
  }
  if (is_per_token(options.loss)) answer.length = static_cast<double>(row.targets());
  return answer;
}

}  // namespace

std::string_view to_string(PreferenceLoss loss) noexcept {
  switch (loss) {
    case PreferenceLoss::sigmoid:
      return "sigmoid";
    case PreferenceLoss::ipo:
      return "ipo";
    case PreferenceLoss::hinge:
      return "hinge";
    case PreferenceLoss::robust:
      return "robust";
    case PreferenceLoss::sigmoid_norm:
      return "sigmoid_norm";
  }
  return "?";
}

Result<void> validate(const PreferenceOptions& options) {
  const auto bad = [](std::string_view name, std::string_view expected, double found) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] {}: expected {}, found {}", name, expected, found)};
  };
  if (!(options.beta > 0.0) || !std::isfinite(options.beta)) {
    return bad("beta", "a finite number above 0", options.beta);
  }
  if (!(options.label_smoothing >= 0.0 && options.label_smoothing < 0.5)) {
    return bad("label-smoothing", "at least 0 and below 0.5", options.label_smoothing);
  }
  if (options.label_smoothing > 0.0 && options.loss != PreferenceLoss::sigmoid &&
      options.loss != PreferenceLoss::robust) {
    return bad(
        "label-smoothing",
        fmt::format("0 with the loss {} (it is for sigmoid and robust)", to_string(options.loss)),
        options.label_smoothing);
  }
  if (!(options.sft >= 0.0) || !std::isfinite(options.sft)) {
    return bad("sft", "a finite number of at least 0", options.sft);
  }
  if (!(options.ld_alpha >= 0.0 && options.ld_alpha <= 1.0)) {
    return bad("ld-alpha", "0 to 1", options.ld_alpha);
  }
  return {};
}

PairLoss pair_loss(const PreferenceOptions& options, double delta) {
  const double beta = options.beta;
  const double x = beta * delta;
  const double flips = options.label_smoothing;
  switch (options.loss) {
    case PreferenceLoss::sigmoid:
    case PreferenceLoss::sigmoid_norm:
      return {(1.0 - flips) * softplus_of_minus(x) + flips * softplus_of_minus(-x),
              beta * (flips * sigmoid(x) - (1.0 - flips) * sigmoid(-x))};
    case PreferenceLoss::robust: {
      const double scale = 1.0 / (1.0 - 2.0 * flips);
      return {scale * ((1.0 - flips) * softplus_of_minus(x) - flips * softplus_of_minus(-x)),
              -beta * scale * ((1.0 - flips) * sigmoid(-x) + flips * sigmoid(x))};
    }
    case PreferenceLoss::hinge:
      return {std::max(0.0, 1.0 - x), x < 1.0 ? -beta : 0.0};
    case PreferenceLoss::ipo: {
      const double off = delta - 1.0 / (2.0 * beta);
      return {off * off, 2.0 * off};
    }
  }
  return {};
}

void PairStatistics::add(const PairStatistics& other) {
  count += other.count;
  loss += other.loss;
  chosen_reward += other.chosen_reward;
  rejected_reward += other.rejected_reward;
  accuracy += other.accuracy;
  chosen_log_p += other.chosen_log_p;
  rejected_log_p += other.rejected_log_p;
}

PairStatistics PairStatistics::mean() const {
  PairStatistics result = *this;
  for (double* value : {&result.loss, &result.chosen_reward, &result.rejected_reward,
                        &result.accuracy, &result.chosen_log_p, &result.rejected_log_p}) {
    *value /= static_cast<double>(count);
  }
  return result;
}

Result<std::vector<float>> target_log_probabilities(ModelGradient& model, const Row& row) {
  KRAIT_RETURN_IF_ERROR(validate(row));
  const std::span<const Token> tokens = row.tokens;
  std::vector<float> all(row.tokens.size() - 1);
  KRAIT_RETURN_IF_ERROR(model.log_probabilities(
      {.inputs = tokens.first(all.size()), .targets = tokens.subspan(1)}, all));
  return std::vector<float>(all.end() - row.targets(), all.end());
}

namespace {

struct Compared {
  Answer chosen;
  Answer rejected;
  double slope = 0.0;
  PairStatistics statistics;
};

Result<Compared> compare(ModelGradient& model, const PreferencePair& pair,
                         const PreferenceOptions& options, double sft) {
  for (const Row* row : {&pair.chosen, &pair.rejected}) KRAIT_RETURN_IF_ERROR(validate(*row));
  const Index shared = std::min(pair.chosen.targets(), pair.rejected.targets());
  KRAIT_ASSIGN_OR_RETURN(Answer chosen,
                         find_answer(model, pair.chosen, pair.chosen_reference, options, shared));
  KRAIT_ASSIGN_OR_RETURN(
      Answer rejected, find_answer(model, pair.rejected, pair.rejected_reference, options, shared));
  const PairLoss found =
      pair_loss(options, chosen.ratio() / chosen.length - rejected.ratio() / rejected.length);
  const PairStatistics statistics{.count = 1,
                                  .loss = found.loss + sft * chosen.cross_entropy,
                                  .chosen_reward = options.beta * chosen.ratio(),
                                  .rejected_reward = options.beta * rejected.ratio(),
                                  .accuracy = chosen.ratio() > rejected.ratio() ? 1.0 : 0.0,
                                  .chosen_log_p = chosen.log_p,
                                  .rejected_log_p = rejected.log_p};
  return Compared{std::move(chosen), std::move(rejected), found.slope, statistics};
}

}  // namespace

Result<PairStatistics> pair_backward(ModelGradient& model, const PreferencePair& pair,
                                     const PreferenceOptions& options, const PairWeights& weights,
                                     float* gradients) {
  const FloatEnvironment environment;
  KRAIT_ASSIGN_OR_RETURN(const Compared found, compare(model, pair, options, weights.sft));
  // The loss moves both answers of an equal pair by opposite amounts.
  const bool is_equal = pair.chosen.tokens == pair.rejected.tokens;
  const double slope = is_equal ? 0.0 : found.slope;
  const auto add = [&](const Answer& answer, double slope_here, double sft) -> Result<void> {
    // The routers' losses do not depend on the pair's.
    const bool has_router_loss =
        model.has_experts() && (weights.balance != 0.0 || weights.z_loss != 0.0);
    if (slope_here == 0.0 && sft == 0.0 && (is_equal || !has_router_loss)) return {};
    const std::span<const Token> tokens = answer.row->tokens;
    std::vector<float> counts(tokens.size() - 1, 0.0F);
    const std::size_t first = counts.size() - answer.counts.size();
    for (std::size_t t = 0; t < answer.counts.size(); ++t) {
      counts[first + t] = static_cast<float>(sft - slope_here * answer.counts[t] / answer.length);
    }
    const double share = 0.5 / static_cast<double>(counts.size());
    const Result<double> loss = model.backward({.inputs = tokens.first(counts.size()),
                                                .targets = tokens.subspan(1),
                                                .weights = counts,
                                                .balance = weights.balance * share,
                                                .z_loss = weights.z_loss * share,
                                                .capacity = weights.capacity},
                                               gradients);
    return loss ? Result<void>() : Result<void>(loss.error());
  };
  KRAIT_RETURN_IF_ERROR(add(found.chosen, slope, weights.sft));
  KRAIT_RETURN_IF_ERROR(add(found.rejected, -slope, 0.0));
  return found.statistics;
}

Result<PairStatistics> pair_statistics(ModelGradient& model, const PreferencePair& pair,
                                       const PreferenceOptions& options, double sft) {
  const FloatEnvironment environment;
  KRAIT_ASSIGN_OR_RETURN(const Compared found, compare(model, pair, options, sft));
  return found.statistics;
}

Result<void> set_reference(ModelGradient& model, std::span<PreferencePair> pairs,
                           Progress progress) {
  Index done = 0;
  for (PreferencePair& pair : pairs) {
    KRAIT_ASSIGN_OR_RETURN(pair.chosen_reference, target_log_probabilities(model, pair.chosen));
    KRAIT_ASSIGN_OR_RETURN(pair.rejected_reference, target_log_probabilities(model, pair.rejected));
    if (progress && progress(++done, std::ssize(pairs)) == Flow::stop) {
      return Error{
          ErrorCode::cancelled,
          fmt::format("[training] reference: stopped after {} of {} pairs", done, pairs.size())};
    }
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
