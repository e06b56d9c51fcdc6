// The calls that run one text, or one token of each of several.

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/models/session.hpp"
#include "models/session_error.hpp"

namespace krait {
inline namespace v0_1 {

Result<std::span<const float>> Session::prefill(std::span<const Token> tokens, State& state,
                                                Progress progress) {
  KRAIT_RETURN_IF_ERROR(check(tokens, state));
  KRAIT_RETURN_IF_ERROR(make_room(tokens, state));
  const auto total = static_cast<Index>(tokens.size());
  const MatrixView<float> logits(logits_.data(), 1, model_.vocab_padded());
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    const bool is_last = first + count == total;
    {
      const FloatEnvironment environment;
      advance(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
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
  const RunItem item{.tokens = {&token, 1}, .state = &state};
  KRAIT_RETURN_IF_ERROR(make_room({&item, 1}));
  const MatrixView<float> logits(logits_.data(), 1, model_.vocab_padded());
  {
    const FloatEnvironment environment;
    advance({&item, 1});
    head(0, logits);
  }
  KRAIT_RETURN_IF_ERROR(check_finite("logits", known(logits.row(0)), 0, token, state));
  return std::span<const float>(logits.row(0));
}

Result<MatrixView<const float>> Session::step_batch(std::span<const Token> tokens,
                                                    std::span<State* const> states) {
  if (tokens.size() != states.size() || std::ssize(tokens) > options_.max_batch) {
    return bad_argument("step_batch",
                        fmt::format("as many states as tokens, at most {}", options_.max_batch),
                        fmt::format("{} tokens and {} states", tokens.size(), states.size()));
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    batch_[i] = {.tokens = tokens.subspan(i, 1), .state = states[i]};
  }
  KRAIT_ASSIGN_OR_RETURN(const RunOutput output, run(std::span(batch_).first(tokens.size())));
  return output.logits();
}

Result<void> Session::prefill_all(std::span<const Token> tokens, State& state,
                                  MatrixView<float> logits) {
  KRAIT_RETURN_IF_ERROR(check(tokens, state));
  KRAIT_RETURN_IF_ERROR(make_room(tokens, state));
  const auto total = static_cast<Index>(tokens.size());
  if (logits.rows != total || logits.cols != model_.vocab_padded()) {
    return bad_argument("prefill_all", fmt::format("logits [{}, {}]", total, model_.vocab_padded()),
                        fmt::format("[{}, {}]", logits.rows, logits.cols));
  }
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    {
      const FloatEnvironment environment;
      advance(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
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
  KRAIT_RETURN_IF_ERROR(make_room(tokens, state));
  const auto total = static_cast<Index>(tokens.size());
  if (hidden.rows != total || hidden.cols != model_.d_model()) {
    return bad_argument("hidden", fmt::format("rows [{}, {}]", total, model_.d_model()),
                        fmt::format("[{}, {}]", hidden.rows, hidden.cols));
  }
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    {
      const FloatEnvironment environment;
      advance(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
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
  KRAIT_RETURN_IF_ERROR(make_room(tokens, state));
  if (log_probs.size() + 1 != tokens.size()) {
    return bad_argument("score", fmt::format("{} log-probabilities", tokens.size() - 1),
                        fmt::to_string(log_probs.size()));
  }
  const FloatEnvironment environment;
  const auto vocab = static_cast<std::size_t>(model_.vocab());
  const auto total = static_cast<Index>(log_probs.size());
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    advance(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
            state);
    for (Index row = 0; row < count; row += options_.max_batch) {
      const MatrixView<float> logits(logits_.data(), std::min(options_.max_batch, count - row),
                                     model_.vocab_padded());
      head(row, logits);
      for (Index i = 0; i < logits.rows; ++i) {
        const auto at = static_cast<std::size_t>(first + row + i);
        const auto known_logits = known(logits.row(i));
        KRAIT_RETURN_IF_ERROR(check_finite("logits", known_logits, row + i, tokens[at], state));
        // A padding id has no probability.
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
