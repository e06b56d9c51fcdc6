#include "krait/models/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "krait/core/float_environment.hpp"
#include "krait/core/profile.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// What validate let pass, as the constructor needs it.
SessionOptions checked(SessionOptions options, const Model& model) {
  const Result<void> valid = validate(options, model);
  check_contract(valid.has_value(), valid ? "" : valid.error().message);
  options.max_batch = std::max<Index>(1, options.max_batch);
  options.max_verify_batch = std::min(options.max_verify_batch, options.max_verify);
  options.chunk = std::max({options.chunk, options.max_batch, options.max_verify});
  return options;
}

Error bad_argument(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_argument,
          fmt::format("[session] {}: expected {}, found {}", what, expected, found)};
}

// NaN and infinity are the numbers whose exponent is all ones: adding one to it then carries into
// the sign's place. On integers, since the caller's floating-point mode is in force here. Sixteen
// lanes, so that the compiler uses vectors.
bool is_finite(std::span<const float> x) noexcept {
  constexpr std::size_t lanes = 16;
  constexpr std::uint32_t magnitude = 0x7FFFFFFFU;
  constexpr std::uint32_t one_exponent = 0x00800000U;
  const auto carry = [](float v) {
    return (std::bit_cast<std::uint32_t>(v) & magnitude) + one_exponent;
  };
  std::uint32_t found[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= x.size(); i += lanes) {
    for (std::size_t k = 0; k < lanes; ++k) found[k] |= carry(x[i + k]);
  }
  for (; i < x.size(); ++i) found[0] |= carry(x[i]);
  std::uint32_t any = 0;
  for (const std::uint32_t bits : found) any |= bits;
  return (any & ~magnitude) == 0;
}

// Floats of a state that a task copies or adds up at least: 64 KiB.
constexpr Index state_block = 16384;

void copy(Executor& executor, std::span<const float> from, std::span<float> to) {
  parallel_for(executor, static_cast<Index>(from.size()), state_block, [&](Range range) {
    std::memcpy(to.data() + range.begin, from.data() + range.begin,
                static_cast<std::size_t>(range.size()) * sizeof(float));
  });
}

// Of every bit of a state. Integers, so the order in which the tasks add is free.
std::uint64_t checksum(Executor& executor, std::span<const float> state) {
  std::atomic<std::uint64_t> total{0};
  parallel_for(executor, static_cast<Index>(state.size()), state_block, [&](Range range) {
    std::uint64_t sum = 0;
    for (Index i = range.begin; i < range.end; i += 2) {  // a layout has an even number of floats
      std::uint64_t bits = 0;
      std::memcpy(&bits, state.data() + i, sizeof bits);
      const std::uint64_t mixed = (bits ^ static_cast<std::uint64_t>(i)) * 0x9E3779B97F4A7C15ULL;
      sum += mixed ^ (mixed >> 32);
    }
    total.fetch_add(sum, std::memory_order_relaxed);
  });
  return total.load();
}

}  // namespace

Result<void> validate(const SessionOptions& options, const Model& model) {
  constexpr Index most = Index{1} << 20;
  struct Field {
    std::string_view name;
    Index value;
    Index least;
  };
  for (const Field& field :
       {Field{"chunk", options.chunk, 1}, Field{"max_batch", options.max_batch, 0},
        Field{"max_verify", options.max_verify, 0},
        Field{"max_verify_batch", options.max_verify_batch, 0}}) {
    if (field.value < field.least || field.value > most) {
      return bad_argument(field.name, fmt::format("{} to {}", field.least, most),
                          fmt::to_string(field.value));
    }
  }
  const Model::Parts& parts = model.parts();
  const Index tokens = std::max({options.chunk, options.max_batch, options.max_verify});
  const Index states = std::min(options.max_verify_batch, options.max_verify);
  constexpr Index most_floats = Index{1} << 56;
  for (const auto& [floats, count] :
       {std::pair{parts.scratch.floats_per_token(), tokens},
        std::pair{parts.workspace_floats, tokens}, std::pair{model.d_model(), tokens},
        std::pair{model.vocab_padded(), tokens},
        std::pair{parts.trail.floats_per_token(), options.max_verify},
        std::pair{parts.state_layout->floats, states}}) {
    if (count > 0 && floats > most_floats / count) {
      return bad_argument("working memory", fmt::format("at most {} floats", most_floats),
                          fmt::format("{} times {}", count, floats));
    }
  }
  return {};
}

Session::Session(Model model, Executor& executor, const SessionOptions& options)
    : model_(std::move(model)),
      executor_(&executor),
      options_(checked(options, model_)),
      scratch_(model_.parts().scratch, options_.chunk),
      workspace_(model_.parts().workspace_floats * options_.chunk),
      x_(options_.chunk * model_.d_model()),
      logits_(std::max(options_.max_batch, options_.max_verify) * model_.vocab_padded()),
      rows_(static_cast<std::size_t>(std::max(options_.max_batch, options_.max_verify_batch))),
      distinct_(static_cast<std::size_t>(options_.max_batch)),
      trail_(model_.parts().trail, options_.max_verify),
      verified_(options_.max_verify_batch * model_.parts().state_layout->floats),
      drafts_(static_cast<std::size_t>(options_.max_verify_batch)),
      tokens_(static_cast<std::size_t>(options_.max_verify)) {}

std::size_t Session::bytes() const noexcept {
  return scratch_.bytes() + workspace_.bytes() + x_.bytes() + logits_.bytes() + trail_.bytes() +
         verified_.bytes();
}

Result<void> Session::check(std::span<const Token> tokens, const State& state) const {
  if (tokens.empty()) return bad_argument("tokens", "at least one", "none");
  const auto limit = static_cast<Token>(model_.vocab_padded());
  for (const Token token : tokens) {
    if (token < 0 || token >= limit) [[unlikely]] {
      return bad_argument("token", fmt::format("0 to {}", limit - 1), fmt::to_string(token));
    }
  }
  KRAIT_RETURN_IF_ERROR(check_model(state));
  const Index room = State::largest_position - static_cast<Index>(tokens.size());
  if (state.position() < 0 || state.position() > room) [[unlikely]] {
    return bad_argument("position", fmt::format("0 to {}", room), fmt::to_string(state.position()));
  }
  return {};
}

Result<void> Session::check_model(const State& state) const {
  const StateLayout* own = model_.parts().state_layout.get();
  const StateLayout* given = state.layout().get();
  if (given == own) return {};
  if (given != nullptr && given->fingerprint == own->fingerprint && given->floats == own->floats) {
    return {};
  }
  return Error{
      ErrorCode::incompatible_state,
      fmt::format("[session] state: expected one of the model {}, found {}", own->fingerprint,
                  given == nullptr ? "one of no model" : given->fingerprint)};
}

BlockContext Session::context(MatrixView<float> x, std::span<const SequenceRows> sequences,
                              Trail trail) {
  return {.x = x,
          .sequences = sequences,
          .executor = *executor_,
          .memory = scratch_,
          .workspace = workspace_.span(),
          .trail = trail,
          .routing = options_.routing};
}

void Session::forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences,
                      Trail trail) {
  const Model::Parts& parts = model_.parts();
  BlockContext ctx =
      context({x_.data(), static_cast<Index>(tokens.size()), model_.d_model()}, sequences, trail);
  {
    const profile::Zone zone("embedding");
    parts.embedding.lookup(tokens, ctx.x);
  }
  for (const Residual& residual : parts.residuals) residual.forward(ctx);
}

void Session::forward(std::span<const Token> tokens, State& state) {
  const SequenceRows rows{.first = 0,
                          .count = static_cast<Index>(tokens.size()),
                          .position = state.position(),
                          .state = state.block().data()};
  forward(tokens, {&rows, 1});
  state.set_position(state.position() + rows.count);
}

void Session::head(Index first, MatrixView<float> logits) {
  const Model::Parts& parts = model_.parts();
  const MatrixView<float> x(x_.data() + first * model_.d_model(), logits.rows, model_.d_model());
  profile::Zone zone("norm");
  parts.final_norm.apply(x, x);
  zone.next("head");
  parts.head.apply(context(x, {}), x, logits);
}

// Runs the token once more, after the state as it is, and looks at every layer. The state may have
// consumed the token already: what is not finite stays in it, and what is does no harm. Only
// numbers at the very edge may be finite this time; then nothing can be said.
std::optional<std::string> Session::first_bad_layer(Token token, const State& state) {
  const ModelSpec& spec = model_.spec();
  State copy = state;
  const SequenceRows rows{
      .first = 0, .count = 1, .position = state.position(), .state = copy.block().data()};
  const MatrixView<float> x(x_.data(), 1, model_.d_model());
  BlockContext ctx = context(x, {&rows, 1});
  ctx.routing = nullptr;
  const FloatEnvironment environment;
  model_.parts().embedding.lookup({&token, 1}, x);
  if (!is_finite(x.row(0))) return spec.embedding_name;
  auto residual = model_.parts().residuals.begin();
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    for (const ResidualSpec& part : spec.layers[i].residuals) {
      (residual++)->forward(ctx);
      if (!is_finite(x.row(0))) {
        return fmt::format("{}.{}.{}", spec.layers_name, i, part.block_name);
      }
    }
  }
  model_.parts().final_norm.apply(x, x);
  if (!is_finite(x.row(0))) return spec.final_norm_name;
  return std::nullopt;
}

Result<void> Session::check_finite(std::string_view what, std::span<const float> row, Index at,
                                   Token token, const State& state) {
  if (is_finite(row)) [[likely]] {
    return {};
  }
  const float value = *std::ranges::find_if(row, [](float x) { return !std::isfinite(x); });
  const ModelSpec& spec = model_.spec();
  const Index d_model = model_.d_model();
  const auto normed =
      x_.span().subspan(static_cast<std::size_t>(at * d_model), static_cast<std::size_t>(d_model));
  const bool is_of_head = what == "logits" && is_finite(normed);
  const std::optional<std::string> layer =
      is_of_head ? (spec.tied_head ? spec.embedding_name : spec.head_name)
                 : first_bad_layer(token, state);
  return Error{ErrorCode::not_finite,
               fmt::format("[session] {}: expected finite numbers, found {}{}", what, value,
                           layer ? fmt::format(" (first in {})", *layer) : "")};
}

Result<std::span<const float>> Session::prefill(std::span<const Token> tokens, State& state,
                                                Progress progress) {
  KRAIT_RETURN_IF_ERROR(check(tokens, state));
  const auto total = static_cast<Index>(tokens.size());
  const MatrixView<float> logits(logits_.data(), 1, model_.vocab_padded());
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    const bool is_last = first + count == total;
    {
      const FloatEnvironment environment;
      forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
              state);
      if (is_last) head(count - 1, logits);
    }
    first += count;
    if (is_last) {
      KRAIT_RETURN_IF_ERROR(
          check_finite("logits", known(logits.row(0)), count - 1, tokens.back(), state));
    }
    if (progress && progress(first, total) == Flow::stop && !is_last) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[session] prefill: stopped after {} of {} tokens", first, total)};
    }
  }
  return std::span<const float>(logits.row(0));
}

Result<std::span<const float>> Session::step(Token token, State& state) {
  KRAIT_RETURN_IF_ERROR(check({&token, 1}, state));
  const MatrixView<float> logits(logits_.data(), 1, model_.vocab_padded());
  {
    const FloatEnvironment environment;
    forward({&token, 1}, state);
    head(0, logits);
  }
  KRAIT_RETURN_IF_ERROR(check_finite("logits", known(logits.row(0)), 0, token, state));
  return std::span<const float>(logits.row(0));
}

Result<MatrixView<const float>> Session::step_batch(std::span<const Token> tokens,
                                                    std::span<State* const> states) {
  const auto count = static_cast<Index>(tokens.size());
  const MatrixView<float> logits(logits_.data(), count, model_.vocab_padded());
  if (tokens.size() != states.size() || count > options_.max_batch) {
    return bad_argument("step_batch",
                        fmt::format("as many states as tokens, at most {}", options_.max_batch),
                        fmt::format("{} tokens and {} states", tokens.size(), states.size()));
  }
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (states[i] == nullptr) return bad_argument("state", "states", "a null pointer");
    KRAIT_RETURN_IF_ERROR(check(tokens.subspan(i, 1), *states[i]));
    rows_[i] = {.first = static_cast<Index>(i),
                .count = 1,
                .position = states[i]->position(),
                .state = states[i]->block().data()};
    distinct_[i] = states[i];
  }
  const std::span<const State*> sorted = std::span(distinct_).first(states.size());
  std::ranges::sort(sorted, std::less<const State*>());
  if (std::ranges::adjacent_find(sorted) != sorted.end()) {
    return bad_argument("step_batch", "distinct states", "one of them twice");
  }
  if (count == 0) return MatrixView<const float>(logits);
  {
    const FloatEnvironment environment;
    forward(tokens, std::span(rows_).first(states.size()));
    for (State* state : states) state->set_position(state->position() + 1);
    head(0, logits);
  }
  for (Index i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    KRAIT_RETURN_IF_ERROR(check_finite("logits", known(logits.row(i)), i, tokens[at], *states[at]));
  }
  return MatrixView<const float>(logits);
}

std::span<float> Session::verified(Index draft) noexcept {
  const auto floats = static_cast<std::size_t>(model_.parts().state_layout->floats);
  return verified_.span().subspan(static_cast<std::size_t>(draft) * floats, floats);
}

Result<MatrixView<const float>> Session::verify(std::span<const Token> tokens, const State& state) {
  const State* const states[] = {&state};
  return verify_batch({&tokens, 1}, states);
}

Result<MatrixView<const float>> Session::verify_batch(
    std::span<const std::span<const Token>> drafts, std::span<const State* const> states) {
  if (drafts.size() != states.size() || drafts.size() > drafts_.size()) {
    return bad_argument("verify",
                        fmt::format("as many states as drafts, at most {}", drafts_.size()),
                        fmt::format("{} drafts and {} states", drafts.size(), states.size()));
  }
  Index total = 0;
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    if (states[i] == nullptr) return bad_argument("state", "states", "a null pointer");
    KRAIT_RETURN_IF_ERROR(check(drafts[i], *states[i]));
    total += static_cast<Index>(drafts[i].size());
  }
  if (total > options_.max_verify) {
    return bad_argument("verify", fmt::format("at most {} tokens in all", options_.max_verify),
                        fmt::to_string(total));
  }

  std::fill(drafts_.begin(), drafts_.end(), Draft{});
  const MatrixView<float> logits(logits_.data(), total, model_.vocab_padded());
  if (total == 0) return MatrixView<const float>(logits);
  Index first = 0;
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    const auto count = static_cast<Index>(drafts[i].size());
    const std::span<const float> before = states[i]->block();
    const std::span<float> after = verified(static_cast<Index>(i));
    drafts_[i] = {.first = first,
                  .count = count,
                  .position = states[i]->position(),
                  .checksum = checksum(*executor_, before),
                  .is_open = true};
    copy(*executor_, before, after);
    rows_[i] = {
        .first = first, .count = count, .position = states[i]->position(), .state = after.data()};
    std::ranges::copy(drafts[i], tokens_.begin() + first);
    first += count;
  }
  {
    const FloatEnvironment environment;
    forward(std::span(tokens_).first(static_cast<std::size_t>(total)),
            std::span(rows_).first(drafts.size()), {.memory = &trail_});
    head(0, logits);
  }
  for (Index row = 0; row < total; ++row) {
    if (is_finite(known(logits.row(row)))) continue;
    std::size_t i = 0;
    while (row >= drafts_[i].first + drafts_[i].count) ++i;
    State after = *states[i];
    std::ranges::copy(verified(static_cast<Index>(i)), after.block().begin());
    std::fill(drafts_.begin(), drafts_.end(), Draft{});
    KRAIT_RETURN_IF_ERROR(check_finite("logits", known(logits.row(row)), row,
                                       tokens_[static_cast<std::size_t>(row)], after));
  }
  return MatrixView<const float>(logits);
}

Result<void> Session::keep(Index n, State& state, Index draft) {
  if (draft < 0 || draft >= std::ssize(drafts_) ||
      !drafts_[static_cast<std::size_t>(draft)].is_open) {
    return bad_argument("keep", "a draft that was verified and not yet kept",
                        fmt::format("draft {}", draft));
  }
  Draft& open = drafts_[static_cast<std::size_t>(draft)];
  if (n < 0 || n > open.count) {
    return bad_argument("keep", fmt::format("0 to {} tokens, as many as were verified", open.count),
                        fmt::to_string(n));
  }
  KRAIT_RETURN_IF_ERROR(check_model(state));
  if (state.position() != open.position || checksum(*executor_, state.block()) != open.checksum) {
    return bad_argument("keep", "the state that was verified",
                        "another, or one that has changed since");
  }
  open.is_open = false;
  if (n == open.count) {
    copy(*executor_, verified(draft), state.block());
  } else if (n > 0) {
    const FloatEnvironment environment;
    const SequenceRows rows{
        .first = 0, .count = n, .position = open.position, .state = state.block().data()};
    BlockContext ctx = context({x_.data(), n, model_.d_model()}, {&rows, 1},
                               {.memory = &trail_, .first = open.first});
    for (const Residual& residual : model_.parts().residuals) residual.replay(ctx);
  }
  state.set_position(open.position + n);
  return {};
}

Result<void> Session::prefill_all(std::span<const Token> tokens, State& state,
                                  MatrixView<float> logits) {
  KRAIT_RETURN_IF_ERROR(check(tokens, state));
  const auto total = static_cast<Index>(tokens.size());
  if (logits.rows != total || logits.cols != model_.vocab_padded()) {
    return bad_argument("prefill_all", fmt::format("logits [{}, {}]", total, model_.vocab_padded()),
                        fmt::format("[{}, {}]", logits.rows, logits.cols));
  }
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    {
      const FloatEnvironment environment;
      forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
              state);
      head(0, logits.rows_from(first, count));
    }
    for (Index row = first; row < first + count; ++row) {
      KRAIT_RETURN_IF_ERROR(check_finite("logits", known(logits.row(row)), row - first,
                                         tokens[static_cast<std::size_t>(row)], state));
    }
    first += count;
  }
  return {};
}

Result<void> Session::hidden(std::span<const Token> tokens, State& state,
                             MatrixView<float> hidden) {
  KRAIT_RETURN_IF_ERROR(check(tokens, state));
  const auto total = static_cast<Index>(tokens.size());
  if (hidden.rows != total || hidden.cols != model_.d_model()) {
    return bad_argument("hidden", fmt::format("rows [{}, {}]", total, model_.d_model()),
                        fmt::format("[{}, {}]", hidden.rows, hidden.cols));
  }
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    {
      const FloatEnvironment environment;
      forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
              state);
      model_.parts().final_norm.apply({x_.data(), count, model_.d_model()},
                                      hidden.rows_from(first, count));
    }
    for (Index row = first; row < first + count; ++row) {
      KRAIT_RETURN_IF_ERROR(check_finite("hidden", hidden.row(row), row - first,
                                         tokens[static_cast<std::size_t>(row)], state));
    }
    first += count;
  }
  return {};
}

Result<void> Session::score(std::span<const Token> tokens, State& state,
                            std::span<float> log_probs) {
  KRAIT_RETURN_IF_ERROR(check(tokens, state));
  if (log_probs.size() + 1 != tokens.size()) {
    return bad_argument("score", fmt::format("{} log-probabilities", tokens.size() - 1),
                        fmt::to_string(log_probs.size()));
  }
  const FloatEnvironment environment;
  const auto vocab = static_cast<std::size_t>(model_.vocab());
  const auto total = static_cast<Index>(log_probs.size());
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
            state);
    for (Index row = 0; row < count; row += options_.max_batch) {
      const MatrixView<float> logits(logits_.data(), std::min(options_.max_batch, count - row),
                                     model_.vocab_padded());
      head(row, logits);
      for (Index i = 0; i < logits.rows; ++i) {
        const auto at = static_cast<std::size_t>(first + row + i);
        const auto known_logits = known(logits.row(i));
        KRAIT_RETURN_IF_ERROR(check_finite("logits", known_logits, row + i, tokens[at], state));
        // A padding id has no probability to speak of.
        log_probs[at] = static_cast<std::size_t>(tokens[at + 1]) < vocab
                            ? known_logits[static_cast<std::size_t>(tokens[at + 1])] -
                                  kernels::log_sum_exp(known_logits)
                            : -std::numeric_limits<float>::infinity();
      }
    }
    first += count;
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
