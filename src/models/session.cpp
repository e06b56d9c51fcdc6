#include "krait/models/session.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
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
  options.max_verify = std::max<Index>(0, options.max_verify);
  options.max_verify_batch = std::clamp<Index>(options.max_verify_batch, 0, options.max_verify);
  // A batch and a verification are one run, too.
  options.chunk = std::max({options.chunk, options.max_batch, options.max_verify});
  return options;
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

Session::Session(Model model, Executor& executor, const SessionOptions& options)
    : model_(std::move(model)),
      executor_(&executor),
      options_(sane(options)),
      scratch_(model_.parts().scratch, options_.chunk),
      workspace_(model_.parts().workspace_floats * options_.chunk),
      x_(options_.chunk * model_.d_model()),
      logits_(std::max(options_.max_batch, options_.max_verify) * model_.vocab_padded()),
      rows_(static_cast<std::size_t>(std::max(options_.max_batch, options_.max_verify_batch))),
      trail_(model_.parts().trail, options_.max_verify),
      verified_(options_.max_verify_batch * model_.parts().state_layout->floats),
      drafts_(static_cast<std::size_t>(options_.max_verify_batch)),
      tokens_(static_cast<std::size_t>(options_.max_verify)) {}

std::size_t Session::bytes() const noexcept {
  return scratch_.bytes() + workspace_.bytes() + x_.bytes() + logits_.bytes() + trail_.bytes() +
         verified_.bytes();
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
  check_model(state);
}

void Session::check_model(const State& state) const {
  const StateLayout* own = model_.parts().state_layout.get();
  const StateLayout* given = state.layout().get();
  check_contract(given != nullptr && (given == own || given->fingerprint == own->fingerprint),
                 "[session] state: expected a state of this model, found one of another");
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

std::span<float> Session::verified(Index draft) noexcept {
  const auto floats = static_cast<std::size_t>(model_.parts().state_layout->floats);
  return verified_.span().subspan(static_cast<std::size_t>(draft) * floats, floats);
}

MatrixView<const float> Session::verify(std::span<const Token> tokens, const State& state) {
  const State* const states[] = {&state};
  return verify_batch({&tokens, 1}, states);
}

MatrixView<const float> Session::verify_batch(std::span<const std::span<const Token>> drafts,
                                              std::span<const State* const> states) {
  check_contract(
      !drafts.empty() && drafts.size() == states.size() && drafts.size() <= drafts_.size(),
      "[session] verify: expected as many states as drafts, 1 to max_verify_batch");
  Index total = 0;
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    check(drafts[i], *states[i]);
    total += static_cast<Index>(drafts[i].size());
  }
  check_contract(total <= options_.max_verify,
                 "[session] verify: expected at most max_verify tokens in all");

  std::fill(drafts_.begin(), drafts_.end(), Draft{});
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
  const FloatEnvironment environment;
  forward(std::span(tokens_).first(static_cast<std::size_t>(total)),
          std::span(rows_).first(drafts.size()), {.memory = &trail_});
  const MatrixView<float> logits(logits_.data(), total, model_.vocab_padded());
  head(0, logits);
  return logits;
}

void Session::keep(Index n, State& state, Index draft) {
  check_contract(
      draft >= 0 && draft < std::ssize(drafts_) && drafts_[static_cast<std::size_t>(draft)].is_open,
      "[session] keep: expected a draft that was verified and not yet kept");
  Draft& open = drafts_[static_cast<std::size_t>(draft)];
  check_contract(n >= 0 && n <= open.count,
                 "[session] keep: expected at most as many tokens as were verified");
  check_model(state);
  check_contract(
      state.position() == open.position && checksum(*executor_, state.block()) == open.checksum,
      "[session] keep: expected the state that was verified, found another or one that "
      "has changed since");
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
