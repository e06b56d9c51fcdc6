// The sizes of a session, and its working memory.

#include "krait/models/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>

#include "models/session_error.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// The options that validate accepted, as the constructor needs them.
SessionOptions checked(SessionOptions options, const Model& model) {
  const Result<void> valid = validate(options, model);
  check_contract(valid.has_value(), valid ? "" : valid.error().message);
  options.max_batch = std::max<Index>(1, options.max_batch);
  options.max_verify_batch = std::min(options.max_verify_batch, options.max_verify);
  options.chunk = std::max({options.chunk, options.max_batch, options.max_verify});
  return options;
}

bool allocate(AlignedBuffer<float>& buffer, Index floats) {
#if KRAIT_HAS_EXCEPTIONS
  try {
    buffer = AlignedBuffer<float>(floats);
  } catch (const std::bad_alloc&) {
    return false;
  }
#else
  buffer = AlignedBuffer<float>(floats);
#endif
  return true;
}

std::size_t most_items(const SessionOptions& options) {
  return static_cast<std::size_t>(std::max(options.max_batch, options.max_verify_batch));
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
      rows_(2 * most_items(options_)),
      ends_(most_items(options_)),
      distinct_(ends_.size()),
      batch_(ends_.size()),
      trail_(model_.parts().trail, options_.max_verify),
      saved_(static_cast<std::size_t>(options_.max_verify_batch), model_.initial_state()),
      drafts_(ends_.size()) {}

std::size_t Session::bytes() const noexcept {
  std::size_t saved = 0;
  for (const State& state : saved_) saved += state.bytes();
  return scratch_.bytes() + workspace_.bytes() + x_.bytes() + logits_.bytes() + trail_.bytes() +
         beside_.bytes() + saved;
}

Result<void> Session::reserve(Index context) {
  const std::vector<Bookings::TaskMemory>& sizes = model_.parts().task_memories;
  if (context < 0 || context > State::largest_position) {
    return bad_argument("context", fmt::format("0 to {}", State::largest_position),
                        fmt::to_string(context));
  }
  if (context <= context_ || sizes.empty()) return {};
  Index floats = 0;
  for (const Bookings::TaskMemory& size : sizes) {
    floats = std::max(floats, round_up(size(options_.chunk, context), Index{16}));
  }
  const Error no_memory{
      ErrorCode::no_memory,
      fmt::format("[session] context: expected memory for {} tokens, found none", context)};
  constexpr Index most_floats = Index{1} << 38;  // more than any machine has
  if (floats > most_floats / executor_->width()) return no_memory;
  if (!allocate(tasks_, floats * executor_->width())) return no_memory;
  task_floats_ = floats;
  context_ = context;
  return {};
}

Result<void> Session::make_room(std::span<const RunItem> items) {
  const Index floats = model_.parts().state_layout->floats;
  for (const RunItem& item : items) {
    KRAIT_RETURN_IF_ERROR(make_room(item.tokens, *item.state));
    if (is_pair(item) && beside_.size() < floats && !allocate(beside_, floats)) {
      return Error{ErrorCode::no_memory,
                   "[session] run: expected memory for a second state, found none"};
    }
  }
  return {};
}

Result<void> Session::make_room(std::span<const Token> tokens, State& state) {
  return make_room(std::ssize(tokens), state);
}

Result<void> Session::make_room(Index tokens, State& state) {
  if (model_.parts().state_layout->cache.empty()) return {};
  const Index context = state.position() + tokens;
  // Twice as much as is needed, so that a text that grows asks for it a few times only.
  if (context > context_) {
    KRAIT_RETURN_IF_ERROR(reserve(std::min(State::largest_position, 2 * context + 64)));
  }
  return state.cache_.reserve(tokens);
}

}  // namespace v0_1
}  // namespace krait
