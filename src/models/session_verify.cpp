// Drafts: running them, and rolling back the tokens that were wrong (docs/verification.md).

#include <fmt/format.h>

#include "krait/core/float_environment.hpp"
#include "krait/models/session.hpp"
#include "models/session_error.hpp"

namespace krait {
inline namespace v0_1 {

Result<MatrixView<const float>> Session::verify(std::span<const Token> tokens, const State& state) {
  const State* const states[] = {&state};
  return verify_batch({&tokens, 1}, states);
}

Result<MatrixView<const float>> Session::verify_batch(
    std::span<const std::span<const Token>> drafts, std::span<const State* const> states) {
  if (drafts.size() != states.size() || drafts.size() > saved_.size()) {
    return bad_argument("verify",
                        fmt::format("as many states as drafts, at most {}", saved_.size()),
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

  // The callers' states stay as they are: copies of them, with the same versions, advance.
  forget_drafts();
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    saved_[i].copy_from(*states[i]);
    batch_[i] = {.tokens = drafts[i],
                 .state = &saved_[i],
                 .logits = RunItem::Logits::all,
                 .tentative = true};
  }
  const auto items = std::span(batch_).first(drafts.size());
  KRAIT_RETURN_IF_ERROR(make_room(items));
  KRAIT_ASSIGN_OR_RETURN(const RunOutput result, execute(items, true));
  return result.logits();
}

void Session::forget_drafts() noexcept {
  for (Draft& draft : drafts_) draft.is_open = false;
}

Session::Draft* Session::draft_of(Index item) noexcept {
  if (item < 0 || item >= std::ssize(drafts_)) return nullptr;
  Draft& draft = drafts_[static_cast<std::size_t>(item)];
  return draft.is_open ? &draft : nullptr;
}

Result<void> Session::keep(Index n, State& state, Index item) {
  Draft* const draft = draft_of(item);
  if (draft == nullptr) {
    return bad_argument("keep", "a draft that was verified and not yet kept",
                        fmt::format("draft {}", item));
  }
  if (n < 0 || n > draft->count) {
    return bad_argument("keep",
                        fmt::format("0 to {} tokens, as many as were verified", draft->count),
                        fmt::to_string(n));
  }
  KRAIT_RETURN_IF_ERROR(check_model(state));
  const bool is_before = state.version() == draft->before;
  const bool is_after = state.version() == draft->after;
  if (!is_before && !is_after) {
    return bad_argument("keep", "the state that was verified",
                        "another, or one that has changed since");
  }
  const State& saved = saved_[draft->slot];
  if (is_before ? n == 0 : n == draft->count) {
    draft->is_open = false;
    return {};
  }
  if (n == draft->count && draft->is_after_saved) {
    state.copy_from(saved);
    draft->is_open = false;
    return {};
  }
  // Replay writes the cache rows of the kept tokens, on pages that no copy shares.
  const Index ahead = is_after ? draft->count : 0;
  if (state.cache_.floats_per_token() > 0) {
    state.cache_.set_rows(draft->position);
    const Result<void> room = state.cache_.reserve(n);
    if (!room) {
      state.cache_.set_rows(draft->position + ahead);
      return room.error();
    }
  }
  draft->is_open = false;
  if (is_after) state.restore_from(saved);
  if (n == 0) return {};
  const FloatEnvironment environment;
  const SequenceRows rows{.first = 0,
                          .count = n,
                          .position = draft->position,
                          .state = state.block_.data(),
                          .pages = state.cache_.pages().data(),
                          .hook = draft->hook,
                          .item = item,
                          .trail = draft->first};
  BlockContext ctx = context({x_.data(), n, model_.d_model()}, {&rows, 1});
  ctx.trail = &trail_;
  ctx.has_hooks = rows.hook != nullptr;
  ctx.again = true;
  for (const Residual& residual : model_.parts().residuals) residual.replay(ctx);
  state.set_position(draft->position + n);
  state.cache_.set_rows(state.position_);
  return {};
}

}  // namespace v0_1
}  // namespace krait
