#include "krait/decoding/sampler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "decoding/exact_math.hpp"
#include "decoding/steps/steps.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error bad_order(std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_argument,
          fmt::format("[sampler] order: expected {}, found {}", expected, found)};
}

// A step of the application's by its name; null if there is none.
const SamplerStep* find_own(const SamplerOptions& options, std::string_view name) noexcept {
  for (const auto& step : options.steps) {
    if (step->name() == name) return step.get();
  }
  return nullptr;
}

const StepKind* find_kind(std::string_view name) noexcept {
  for (const StepKind* kind : step_kinds()) {
    if (kind->name == name) return kind;
  }
  return nullptr;
}

Result<void> check_own_steps(const SamplerOptions& options) {
  for (std::size_t i = 0; i < options.steps.size(); ++i) {
    if (options.steps[i] == nullptr) {
      return Error{ErrorCode::bad_argument, "[sampler] steps: expected a step, found null"};
    }
    const std::string_view name = options.steps[i]->name();
    bool is_taken = name.empty() || find_kind(name) != nullptr;
    for (std::size_t j = 0; j < i; ++j) is_taken |= options.steps[j]->name() == name;
    if (is_taken) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[sampler] steps: expected a name that no other step has, found "
                               "'{}'",
                               name)};
    }
  }
  return {};
}

Result<void> check_order(const SamplerOptions& options) {
  const auto& order = options.order;
  if (order.empty()) return {};
  for (auto name = order.begin(); name != order.end(); ++name) {
    if (find_kind(*name) == nullptr && find_own(options, *name) == nullptr) {
      std::string known;
      for (const StepKind* kind : step_kinds()) known.append(kind->name).append(", ");
      for (const auto& step : options.steps) known.append(step->name()).append(", ");
      known.resize(known.size() - 2);
      return bad_order(fmt::format("names of steps ({})", known), fmt::format("'{}'", *name));
    }
    if (std::find(order.begin(), name, *name) != name) {
      return bad_order("every step once", fmt::format("'{}' twice", *name));
    }
  }
  const auto is_missing = [&](std::string_view name) {
    return std::ranges::find(order, name) == order.end();
  };
  for (const StepKind* kind : step_kinds()) {
    if (is_missing(kind->name) && kind->is_on(options)) {
      return bad_order(fmt::format("'{}', which is on", kind->name), "an order without it");
    }
  }
  for (const auto& step : options.steps) {
    if (is_missing(step->name())) {
      return bad_order(fmt::format("'{}', which is given", step->name()), "an order without it");
    }
  }
  return {};
}

// The allowed token of the largest logit, the first of several; NaN counts as -infinity.
std::optional<Token> best_of(std::span<const float> logits, const TokenMask& allowed) noexcept {
  std::optional<Token> best;
  float largest = -std::numeric_limits<float>::infinity();
  const auto words = allowed.words();
  for (std::size_t w = 0; w < words.size(); ++w) {
    for (std::uint64_t bits = words[w]; bits != 0; bits &= bits - 1) {
      const std::size_t token = 64 * w + static_cast<std::size_t>(std::countr_zero(bits));
      if (token >= logits.size()) break;
      if (best && !(logits[token] > largest)) continue;
      best = static_cast<Token>(token);
      if (logits[token] > largest) largest = logits[token];
    }
  }
  return best;
}

// Uniform in (0, 1), a number for each token at a position. No counter of `random_bits` ends in a
// number above 0.
double random_of_token(const RandomCounter& at, Token token) noexcept {
  const auto bits =
      philox4x32({static_cast<std::uint32_t>(at.position),
                  static_cast<std::uint32_t>(at.position >> 32U) << 16U, at.sequence,
                  1U + static_cast<std::uint32_t>(token)},
                 {static_cast<std::uint32_t>(at.seed), static_cast<std::uint32_t>(at.seed >> 32U)});
  const auto high = (std::uint64_t{bits[0]} << 32U) | bits[1];
  return (static_cast<double>(high >> 12U) + 0.5) * 0x1p-52;
}

}  // namespace

SamplerStep::~SamplerStep() = default;
void SamplerStep::observe(std::span<const Token> /*tokens*/) noexcept {}

Error out_of_range(std::string_view what, std::string_view expected, double found) {
  return {ErrorCode::bad_argument,
          fmt::format("[sampler] {}: expected {}, found {}", what, expected, found)};
}

std::span<const StepKind* const> step_kinds() noexcept {
  static constexpr const StepKind* kinds[] = {
      &penalties_step,  &dry_step,         &logit_bias_step,  &bad_words_step,
      &min_length_step, &top_n_sigma_step, &temperature_step, &top_k_step,
      &top_p_step,      &min_p_step,       &typical_p_step,   &epsilon_cutoff_step,
      &eta_cutoff_step, &xtc_step,         &mirostat_step,
  };
  return kinds;
}

Result<void> validate(const SamplerOptions& options, Index vocab) {
  for (const StepKind* kind : step_kinds()) KRAIT_RETURN_IF_ERROR(kind->check(options, vocab));
  KRAIT_RETURN_IF_ERROR(check_own_steps(options));
  return check_order(options);
}

Result<Sampler> Sampler::make(const SamplerOptions& options, Index vocab) {
  if (vocab < 1) {
    return out_of_range("vocabulary", "at least 1 token", static_cast<double>(vocab));
  }
  KRAIT_RETURN_IF_ERROR(validate(options, vocab));
  Sampler sampler;
  sampler.options_ = options;
  sampler.vocab_ = vocab;
  if (options.greedy) return sampler;
  const auto add = [&](const StepKind& kind) {
    if (kind.is_on(options)) sampler.steps_.push_back(kind.make(options, vocab));
  };
  if (options.order.empty()) {
    for (const StepKind* kind : step_kinds()) add(*kind);
    for (const auto& step : options.steps) sampler.steps_.push_back(step->clone());
  }
  for (const std::string& name : options.order) {
    if (const StepKind* kind = find_kind(name)) {
      add(*kind);
    } else {
      sampler.steps_.push_back(find_own(options, name)->clone());
    }
  }
  sampler.candidates_ = Candidates(vocab);
  return sampler;
}

Sampler::Sampler(const Sampler& other)
    : options_(other.options_), vocab_(other.vocab_), candidates_(other.candidates_) {
  for (const auto& step : other.steps_) steps_.push_back(step->clone());
}

Sampler& Sampler::operator=(Sampler other) noexcept {
  options_ = std::move(other.options_);
  vocab_ = other.vocab_;
  steps_ = std::move(other.steps_);
  candidates_ = std::move(other.candidates_);
  return *this;
}

void Sampler::observe(std::span<const Token> tokens) noexcept {
  for (const auto& step : steps_) step->observe(tokens);
}

Token Sampler::sample(std::span<const float> logits, Index position) noexcept {
  const FloatEnvironment environment;
  logits = logits.first(static_cast<std::size_t>(vocab_));
  if (options_.greedy) return static_cast<Token>(kernels::argmax(logits));
  candidates_.load(logits);
  return choose(position);
}

std::optional<Token> Sampler::sample(std::span<const float> logits, Index position,
                                     const TokenMask& allowed) noexcept {
  const FloatEnvironment environment;
  logits = logits.first(static_cast<std::size_t>(vocab_));
  if (options_.greedy) return best_of(logits, allowed);
  if (!candidates_.load(logits, allowed)) return std::nullopt;
  return choose(position);
}

std::span<const Candidate> Sampler::best(std::span<const float> logits, Index position,
                                         std::size_t count, const TokenMask& allowed) noexcept {
  const FloatEnvironment environment;
  if (!candidates_.load(logits.first(static_cast<std::size_t>(vocab_)), allowed)) return {};
  apply_steps(position);
  count = std::min(count, candidates_.size());
  candidates_.sort_first(count);
  const std::span<const Candidate> all = candidates_.span().first(count);
  const auto is_forbidden = [](const Candidate& c) {
    return c.logit == -std::numeric_limits<double>::infinity();
  };
  return {all.begin(), std::ranges::find_if(all, is_forbidden)};
}

void Sampler::apply_steps(Index position) noexcept {
  const SamplerContext context{
      .position = position, .seed = options_.seed, .sequence = options_.sequence};
  for (const auto& step : steps_) step->apply(candidates_, context);
}

Token Sampler::choose(Index position) noexcept {
  apply_steps(position);
  if (options_.gumbel) return choose_by_gumbel(position);
  return candidates_.draw(random_uniform({.seed = options_.seed,
                                          .sequence = options_.sequence,
                                          .position = static_cast<std::uint64_t>(position)}));
}

// The largest log p - log E is the smallest E / p, where E = -log u is the token's own number.
Token Sampler::choose_by_gumbel(Index position) noexcept {
  candidates_.weigh();
  std::optional<Token> best;
  double least = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates_.span()) {
    if (candidate.weight <= 0.0) continue;
    const double u = random_of_token({.seed = options_.seed,
                                      .sequence = options_.sequence,
                                      .position = static_cast<std::uint64_t>(position)},
                                     candidate.token);
    const double key = -log_positive(u) / candidate.weight;
    if (best && (key > least || (key == least && candidate.token > *best))) continue;
    best = candidate.token;
    least = key;
  }
  return *best;  // the best one has the weight 1
}

TokenLaw Sampler::law(std::span<const float> logits, Index position) {
  const FloatEnvironment environment;
  logits = logits.first(static_cast<std::size_t>(vocab_));
  if (options_.greedy) return TokenLaw::one_hot(static_cast<Token>(kernels::argmax(logits)));
  candidates_.load(logits);
  apply_steps(position);
  return current_law();
}

TokenLaw Sampler::law(std::span<const float> logits, Index position, const TokenMask& allowed) {
  const FloatEnvironment environment;
  logits = logits.first(static_cast<std::size_t>(vocab_));
  if (options_.greedy) return TokenLaw::one_hot(best_of(logits, allowed).value_or(0));
  candidates_.load(logits, allowed);
  apply_steps(position);
  return current_law();
}

TokenLaw Sampler::current_law() {
  const double total = candidates_.total();
  const auto known = candidates_.span();
  if (2 * std::ssize(known) > vocab_) {
    std::vector<double> probabilities(static_cast<std::size_t>(vocab_), 0.0);
    for (const Candidate& one : known) {
      probabilities[static_cast<std::size_t>(one.token)] = one.weight / total;
    }
    return TokenLaw::dense(std::move(probabilities));
  }
  std::vector<std::pair<Token, double>> probabilities;
  probabilities.reserve(known.size());
  for (const Candidate& one : known) {
    if (one.weight > 0.0) probabilities.emplace_back(one.token, one.weight / total);
  }
  if (probabilities.size() == 1) return TokenLaw::one_hot(probabilities.front().first);
  return TokenLaw::sparse(std::move(probabilities));
}

}  // namespace v0_1
}  // namespace krait
