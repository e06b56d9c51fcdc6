// One run: rows of several sequences through the layers and the head.

#include <algorithm>
#include <cstring>

#include "krait/core/float_environment.hpp"
#include "krait/core/profile.hpp"
#include "krait/models/session.hpp"
#include "models/keep_embedding.hpp"

namespace krait {
inline namespace v0_1 {

BlockContext Session::context(MatrixView<float> x, std::span<const SequenceRows> sequences) {
  return {.x = x,
          .sequences = sequences,
          .executor = *executor_,
          .memory = scratch_,
          .workspace = workspace_.span(),
          .tasks = tasks_.span(),
          .task_floats = task_floats_,
          .state_floats = model_.parts().state_layout->floats};
}

void Session::advance(std::span<const RunItem> items) {
  const Model::Parts& parts = model_.parts();
  if (items.empty()) return;
  Index total = 0;
  std::size_t entries = 0;
  bool has_hooks = false;
  bool has_drafts = false;
  bool has_pairs = false;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const RunItem& item = items[i];
    SequenceRows& rows = rows_[entries++];
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
    if (!is_pair(item)) continue;
    SequenceRows& beside = rows_[entries++] = rows;
    beside.first = total;
    beside.state = beside_.data();
    beside.trail = -1;
    beside.is_beside = true;
    rows.hook = nullptr;
    has_pairs = true;
    total += beside.count;
  }
  const auto all = std::span<const SequenceRows>(rows_).first(entries);
  BlockContext ctx = context({x_.data(), total, model_.d_model()}, all);
  ctx.trail = has_drafts ? &trail_ : nullptr;
  ctx.has_hooks = has_hooks;
  ctx.has_pairs = has_pairs;
  {
    const profile::Zone zone("embedding");
    for (const SequenceRows& rows : all) {
      parts.embedding.lookup(items[static_cast<std::size_t>(rows.item)].tokens,
                             ctx.x.rows_from(rows.first, rows.count));
    }
  }
  keep_embedding(parts, ctx);
  for (const Residual& residual : parts.residuals) residual.forward(ctx);
  for (const RunItem& item : items) {
    item.state->set_position(item.state->position_ + std::ssize(item.tokens));
    item.state->cache_.set_rows(item.state->position_);
  }
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
  const float scale = parts.spec.logit_scale;
  for (Index t = 0; scale != 1.0F && t < logits.rows; ++t) {
    kernels::scale(scale, logits.row(t), logits.row(t));
  }
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
    draft.hook = is_pair(items[i])          ? nullptr
                 : items[i].hook != nullptr ? items[i].hook
                                            : options_.hook;
    draft.is_open = true;
  }
  return result;
}

Result<RunOutput> Session::output(std::span<const RunItem> items) {
  const Index d_model = model_.d_model();
  Index rows = 0;
  Index begin = -1;  // first row whose logits are wanted; such rows are moved together
  const SequenceRows* entry = rows_.data();
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (is_pair(items[i])) ++entry;
    const SequenceRows& own = *entry++;
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

}  // namespace v0_1
}  // namespace krait
