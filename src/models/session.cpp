#include "krait/models/session.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "krait/core/float_environment.hpp"
#include "krait/core/profile.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait::inline v0_1 {
namespace {

SessionOptions sane(SessionOptions options) {
  options.chunk = std::max<Index>(1, options.chunk);
  options.max_batch = std::max<Index>(1, options.max_batch);
  options.chunk = std::max(options.chunk, options.max_batch);  // a batch is one run, too
  return options;
}

}  // namespace

Session::Session(Model model, Executor& executor, const SessionOptions& options)
    : model_(std::move(model)),
      executor_(&executor),
      options_(sane(options)),
      scratch_(model_.parts().scratch, options_.chunk),
      workspace_(model_.parts().workspace_floats * options_.chunk),
      x_(options_.chunk * model_.d_model()),
      logits_(options_.max_batch * model_.vocab_padded()),
      rows_(static_cast<std::size_t>(options_.max_batch)) {}

std::size_t Session::bytes() const noexcept {
  return scratch_.bytes() + workspace_.bytes() + x_.bytes() + logits_.bytes();
}

void Session::check(std::span<const Token> tokens, const State& state) const {
  check_contract(!tokens.empty(), "[session] tokens: expected at least one, found none");
  const auto limit = static_cast<Token>(model_.vocab_padded());
  for (const Token token : tokens) {
    if (token < 0 || token >= limit) [[unlikely]] {
      detail::contract_failed("[session] token: expected 0 to " + std::to_string(limit - 1) +
                              ", found " + std::to_string(token));
    }
  }
  const StateLayout* own = model_.parts().state_layout.get();
  const StateLayout* given = state.layout().get();
  check_contract(given != nullptr && (given == own || given->fingerprint == own->fingerprint),
                 "[session] state: expected a state of this model, found one of another");
}

BlockContext Session::context(MatrixView<float> x, std::span<const SequenceRows> sequences) {
  return {.x = x,
          .sequences = sequences,
          .executor = *executor_,
          .memory = scratch_,
          .workspace = workspace_.span()};
}

void Session::forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences) {
  const Model::Parts& parts = model_.parts();
  BlockContext ctx =
      context({x_.data(), static_cast<Index>(tokens.size()), model_.d_model()}, sequences);
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

std::span<const float> Session::prefill(std::span<const Token> tokens, State& state) {
  return *prefill(tokens, state, Progress{});
}

Result<std::span<const float>> Session::prefill(std::span<const Token> tokens, State& state,
                                                Progress progress) {
  check(tokens, state);
  const FloatEnvironment environment;
  const auto total = static_cast<Index>(tokens.size());
  Index last_chunk = 0;
  for (Index first = 0; first < total; first += last_chunk) {
    last_chunk = std::min(options_.chunk, total - first);
    forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last_chunk)),
            state);
    if (progress && progress(first + last_chunk, total) == Flow::stop) {
      return Error{ErrorCode::cancelled, "[session] prefill: stopped after " +
                                             std::to_string(first + last_chunk) + " of " +
                                             std::to_string(total) + " tokens"};
    }
  }
  const MatrixView<float> logits(logits_.data(), 1, model_.vocab_padded());
  head(last_chunk - 1, logits);
  return std::span<const float>(logits.row(0));
}

std::span<const float> Session::step(Token token, State& state) {
  check({&token, 1}, state);
  const FloatEnvironment environment;
  forward({&token, 1}, state);
  const MatrixView<float> logits(logits_.data(), 1, model_.vocab_padded());
  head(0, logits);
  return logits.row(0);
}

MatrixView<const float> Session::step_batch(std::span<const Token> tokens,
                                            std::span<State* const> states) {
  const auto count = static_cast<Index>(tokens.size());
  check_contract(tokens.size() == states.size() && count <= options_.max_batch,
                 "[session] step_batch: expected as many states as tokens, at most max_batch");
  for (std::size_t i = 0; i < states.size(); ++i) {
    check(tokens, *states[i]);
    rows_[i] = {.first = static_cast<Index>(i),
                .count = 1,
                .position = states[i]->position(),
                .state = states[i]->block().data()};
  }
  const FloatEnvironment environment;
  forward(tokens, std::span(rows_).first(states.size()));
  for (State* state : states) state->set_position(state->position() + 1);
  const MatrixView<float> logits(logits_.data(), count, model_.vocab_padded());
  head(0, logits);
  return logits;
}

void Session::prefill_all(std::span<const Token> tokens, State& state, MatrixView<float> logits) {
  check(tokens, state);
  const auto total = static_cast<Index>(tokens.size());
  check_contract(logits.rows == total && logits.cols == model_.vocab_padded(),
                 "[session] prefill_all: expected logits [tokens, vocab_padded]");
  const FloatEnvironment environment;
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
            state);
    head(0, logits.rows_from(first, count));
    first += count;
  }
}

void Session::hidden(std::span<const Token> tokens, State& state, MatrixView<float> hidden) {
  check(tokens, state);
  const auto total = static_cast<Index>(tokens.size());
  check_contract(hidden.rows == total && hidden.cols == model_.d_model(),
                 "[session] hidden: expected [tokens, d_model]");
  const FloatEnvironment environment;
  for (Index first = 0; first < total;) {
    const Index count = std::min(options_.chunk, total - first);
    forward(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
            state);
    model_.parts().final_norm.apply({x_.data(), count, model_.d_model()},
                                    hidden.rows_from(first, count));
    first += count;
  }
}

void Session::score(std::span<const Token> tokens, State& state, std::span<float> log_probs) {
  check(tokens, state);
  check_contract(log_probs.size() + 1 == tokens.size(),
                 "[session] score: expected one log-probability less than tokens");
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
        const auto known = logits.row(i).first(vocab);
        // A padding id has no probability to speak of.
        log_probs[at] =
            static_cast<std::size_t>(tokens[at + 1]) < vocab
                ? known[static_cast<std::size_t>(tokens[at + 1])] - kernels::log_sum_exp(known)
                : -std::numeric_limits<float>::infinity();
      }
    }
    first += count;
  }
}

}  // namespace krait::inline v0_1
