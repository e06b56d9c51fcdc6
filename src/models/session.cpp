#include "krait/models/session.hpp"

#include <fmt/format.h>

#include <algorithm>
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
#include "models/session_error.hpp"

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

std::size_t most_items(const SessionOptions& options) {
  return static_cast<std::size_t>(std::max(options.max_batch, options.max_verify_batch));
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
      rows_(most_items(options_)),
      ends_(rows_.size()),
      distinct_(rows_.size()),
      batch_(rows_.size()),
      trail_(model_.parts().trail, options_.max_verify),
      saved_(static_cast<std::size_t>(options_.max_verify_batch), model_.initial_state()),
      drafts_(rows_.size()) {}

std::size_t Session::bytes() const noexcept {
  std::size_t saved = 0;
  for (const State& state : saved_) saved += state.bytes();
  return scratch_.bytes() + workspace_.bytes() + x_.bytes() + logits_.bytes() + trail_.bytes() +
         saved;
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
  if (state.cache_.floats_per_token() > 0 && state.cache_.rows() != state.position()) [[unlikely]] {
    return bad_argument("cache", fmt::format("rows of {} tokens", state.position()),
                        fmt::to_string(state.cache_.rows()));
  }
  return {};
}

Result<void> Session::reserve(Index context) {
  const std::vector<Plan::TaskMemory>& sizes = model_.parts().task_memories;
  if (context < 0 || context > State::largest_position) {
    return bad_argument("context", fmt::format("0 to {}", State::largest_position),
                        fmt::to_string(context));
  }
  if (context <= context_ || sizes.empty()) return {};
  Index floats = 0;
  for (const Plan::TaskMemory& size : sizes) {
    floats = std::max(floats, round_up(size(options_.chunk, context), Index{16}));
  }
  const auto fail = [&] {
    return Error{
        ErrorCode::no_memory,
        fmt::format("[session] context: expected memory for {} tokens, found none", context)};
  };
  constexpr Index most_floats = Index{1} << 38;  // more than any machine has
  if (floats > most_floats / executor_->width()) return fail();
#if KRAIT_HAS_EXCEPTIONS
  try {
    tasks_ = AlignedBuffer<float>(floats * executor_->width());
  } catch (const std::bad_alloc&) {
    return fail();
  }
#else
  tasks_ = AlignedBuffer<float>(floats * executor_->width());
#endif
  task_floats_ = floats;
  context_ = context;
  return {};
}

Result<void> Session::make_room(std::span<const RunItem> items) {
  if (model_.parts().state_layout->cache.empty()) return {};
  Index context = 0;
  for (const RunItem& item : items) {
    context = std::max(context, item.state->position_ + std::ssize(item.tokens));
  }
  // Twice as much as is needed, so that a text that grows asks for it a few times only.
  if (context > context_) {
    KRAIT_RETURN_IF_ERROR(reserve(std::min(State::largest_position, 2 * context + 64)));
  }
  for (const RunItem& item : items) {
    KRAIT_RETURN_IF_ERROR(item.state->cache_.reserve(std::ssize(item.tokens)));
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

BlockContext Session::context(MatrixView<float> x, std::span<const SequenceRows> sequences) {
  return {.x = x,
          .sequences = sequences,
          .executor = *executor_,
          .memory = scratch_,
          .workspace = workspace_.span(),
          .tasks = tasks_.span(),
          .task_floats = task_floats_};
}

void Session::advance(std::span<const RunItem> items) {
  const Model::Parts& parts = model_.parts();
  if (items.empty()) return;
  Index total = 0;
  bool has_hooks = false;
  bool has_drafts = false;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const RunItem& item = items[i];
    SequenceRows& rows = rows_[i];
    rows = {.first = total,
            .count = static_cast<Index>(item.tokens.size()),
            .position = item.state->position_,
            .state = item.state->block_.data(),
            .pages = item.state->cache_.pages().data(),
            .hook = item.hook != nullptr ? item.hook : options_.hook,
            .item = static_cast<Index>(i),
            .trail = item.tentative ? drafts_[i].first : -1};
    has_hooks |= rows.hook != nullptr;
    has_drafts |= item.tentative;
    total += rows.count;
  }
  BlockContext ctx =
      context({x_.data(), total, model_.d_model()}, std::span(rows_).first(items.size()));
  ctx.trail = has_drafts ? &trail_ : nullptr;
  ctx.has_hooks = has_hooks;
  {
    const profile::Zone zone("embedding");
    for (std::size_t i = 0; i < items.size(); ++i) {
      parts.embedding.lookup(items[i].tokens, ctx.x.rows_from(rows_[i].first, rows_[i].count));
    }
  }
  for (const Residual& residual : parts.residuals) residual.forward(ctx);
  for (std::size_t i = 0; i < items.size(); ++i) {
    items[i].state->set_position(rows_[i].position + rows_[i].count);
    items[i].state->cache_.set_rows(items[i].state->position_);
  }
}

Result<void> Session::make_room(std::span<const Token> tokens, State& state) {
  const RunItem item{.tokens = tokens, .state = &state};
  return make_room({&item, 1});
}

void Session::advance(std::span<const Token> tokens, State& state) {
  const RunItem item{.tokens = tokens, .state = &state};
  advance({&item, 1});
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
  if (!make_room({&token, 1}, copy)) return std::nullopt;
  const SequenceRows rows{.first = 0,
                          .count = 1,
                          .position = state.position(),
                          .state = copy.block_.data(),
                          .pages = copy.cache_.pages().data()};
  const MatrixView<float> x(x_.data(), 1, model_.d_model());
  BlockContext ctx = context(x, {&rows, 1});
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

Result<void> Session::check_run(std::span<const RunItem> items) {
  if (items.size() > rows_.size()) {
    return bad_argument("run", fmt::format("at most {} items", rows_.size()),
                        fmt::to_string(items.size()));
  }
  Index tokens = 0;
  Index drafts = 0;
  Index tentative = 0;
  Index rows = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const RunItem& item = items[i];
    if (item.state == nullptr) return bad_argument("state", "states", "a null pointer");
    KRAIT_RETURN_IF_ERROR(check(item.tokens, *item.state));
    const auto count = static_cast<Index>(item.tokens.size());
    tokens += count;
    drafts += item.tentative ? 1 : 0;
    tentative += item.tentative ? count : 0;
    rows += item.logits == RunItem::Logits::all ? count : item.logits == RunItem::Logits::last;
    distinct_[i] = item.state;
  }
  struct Limit {
    std::string_view what;
    Index found;
    Index most;
  };
  for (const Limit& limit :
       {Limit{"tokens in all", tokens, options_.chunk},
        Limit{"tentative items", drafts, options_.max_verify_batch},
        Limit{"tentative tokens in all", tentative, options_.max_verify},
        Limit{"rows of logits", rows, std::max(options_.max_batch, options_.max_verify)}}) {
    if (limit.found <= limit.most) continue;
    return bad_argument("run", fmt::format("at most {} {}", limit.most, limit.what),
                        fmt::to_string(limit.found));
  }
  const std::span<const State*> states = std::span(distinct_).first(items.size());
  std::ranges::sort(states, std::less<const State*>());
  if (std::ranges::adjacent_find(states) != states.end()) {
    return bad_argument("run", "distinct states", "one of them twice");
  }
  return {};
}

Result<RunOutput> Session::run(std::span<const RunItem> items) {
  KRAIT_RETURN_IF_ERROR(check_run(items));
  KRAIT_RETURN_IF_ERROR(make_room(items));
  return execute(items, false);
}

Result<RunOutput> Session::execute(std::span<const RunItem> items, bool on_copies) {
  if (std::ranges::any_of(items, &RunItem::tentative)) forget_drafts();
  Index first = 0;
  std::size_t slot = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const RunItem& item = items[i];
    if (!item.tentative) continue;
    if (!on_copies) saved_[slot].save_from(*item.state);
    drafts_[i] = {.first = first,
                  .count = std::ssize(item.tokens),
                  .position = item.state->position(),
                  .before = item.state->version(),
                  .is_after_saved = on_copies,
                  .slot = slot++};
    first += drafts_[i].count;
  }
  {
    const FloatEnvironment environment;
    advance(items);
  }
  auto result = output(items);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!items[i].tentative) continue;
    Draft& draft = drafts_[i];
    if (!result) {
      if (!on_copies) items[i].state->restore_from(saved_[draft.slot]);
      continue;
    }
    draft.after = items[i].state->version();
    draft.hook = rows_[i].hook;
    draft.is_open = true;
  }
  return result;
}

Result<RunOutput> Session::output(std::span<const RunItem> items) {
  const Index d_model = model_.d_model();
  Index rows = 0;
  Index begin = -1;  // of the rows whose logits are wanted, which are moved behind one another
  for (std::size_t i = 0; i < items.size(); ++i) {
    const SequenceRows& own = rows_[i];
    const Index count = items[i].logits == RunItem::Logits::all    ? own.count
                        : items[i].logits == RunItem::Logits::last ? 1
                                                                   : 0;
    const Index from = own.first + own.count - count;
    if (count > 0 && begin < 0) begin = from;
    if (count > 0 && begin + rows != from) {
      std::memmove(x_.data() + (begin + rows) * d_model, x_.data() + from * d_model,
                   static_cast<std::size_t>(count * d_model) * sizeof(float));
    }
    rows += count;
    ends_[i] = rows;
  }
  const MatrixView<float> logits(logits_.data(), rows, model_.vocab_padded());
  if (rows > 0) {
    const FloatEnvironment environment;
    head(begin, logits);
  }
  Index row = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Index count = ends_[i] - row;
    const std::span<const Token> tokens = items[i].tokens.last(static_cast<std::size_t>(count));
    for (const Token token : tokens) {
      KRAIT_RETURN_IF_ERROR(
          check_finite("logits", known(logits.row(row)), begin + row, token, *items[i].state));
      ++row;
    }
  }
  return RunOutput(logits, std::span(ends_).first(items.size()));
}

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
