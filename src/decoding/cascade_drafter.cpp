// Cascade Speculative Drafting: models that review what smaller ones guess.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "core/bad_argument.hpp"
#include "decoding/clone_ptr.hpp"
#include "decoding/draft_model.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class CascadeDrafter final : public Drafter {
 public:
  CascadeDrafter(std::vector<DraftModelOptions> models, std::unique_ptr<Drafter> bottom,
                 Executor& executor, const CascadeOptions& options)
      : bottom_(std::move(bottom)), options_(options) {
    for (DraftModelOptions& model : models) {
      models_.emplace_back(std::move(model), executor, std::ssize(models_));
    }
  }

  Index levels() const noexcept override { return std::ssize(models_) + (bottom_ ? 1 : 0); }
  std::string_view name(Index level) const noexcept override {
    return is_model(level) ? std::string_view(at(level).name()) : bottom_->name();
  }

  Result<void> begin(const DraftSetting& setting) override {
    for (DraftModel& model : models_) KRAIT_RETURN_IF_ERROR(model.begin(setting));
    return bottom_ ? bottom_->begin(setting) : Result<void>();
  }
  Result<void> observe(std::span<const Token> tokens) override {
    for (DraftModel& model : models_) model.observe(tokens);
    return bottom_ ? bottom_->observe(tokens) : Result<void>();
  }
  Result<void> catch_up() override {
    for (DraftModel& model : models_) KRAIT_RETURN_IF_ERROR(model.catch_up());
    return bottom_ ? bottom_->catch_up() : Result<void>();
  }
  Index backlog(Index level) const noexcept override {
    return is_model(level) ? at(level).backlog() : bottom_->backlog(0);
  }

  Result<void> propose(Draft& draft, Index most, Index level) override {
    const Index from = draft.size();
    if (most < 1) return {};
    if (is_model(level)) {
      KRAIT_RETURN_IF_ERROR(guess(draft, most - 1, level));
      return models_[static_cast<std::size_t>(level)].review(draft, from, options_.lenience);
    }
    KRAIT_RETURN_IF_ERROR(bottom_->propose(draft, most));
    for (Index i = from; i < draft.size(); ++i) {
      draft.marks[static_cast<std::size_t>(i)].level = level;
    }
    return {};
  }

  std::unique_ptr<Drafter> clone() const override {
    return std::make_unique<CascadeDrafter>(*this);
  }

 private:
  bool is_model(Index level) const noexcept { return level < std::ssize(models_); }
  const DraftModel& at(Index level) const noexcept {
    return models_[static_cast<std::size_t>(level)];
  }

  Index increment(Index reviewer, Index drafter) const noexcept {
    constexpr Index block = 4;
    if (options_.increments.empty()) return drafter == reviewer + 1 ? block : 0;
    return options_
        .increments[static_cast<std::size_t>(reviewer)][static_cast<std::size_t>(drafter)];
  }

  // What a reviewer gets to review: at most `room` tokens, of the drafters below it, each of which
  // is asked until those before it and it have made as many as the reviewer wants.
  Result<void> guess(Draft& draft, Index room, Index reviewer) {
    const Index from = draft.size();
    room = std::min(room, DraftModel::most_guesses);
    Index wanted = 0;
    for (Index j = reviewer + 1; j < levels(); ++j) {
      wanted = std::min(room, wanted + increment(reviewer, j));
      while (draft.size() - from < wanted) {
        const Index before = draft.size();
        KRAIT_RETURN_IF_ERROR(propose(draft, wanted - (before - from), j));
        if (draft.size() == before) break;
      }
    }
    return {};
  }

  std::deque<DraftModel> models_;
  ClonePtr<Drafter> bottom_;
  CascadeOptions options_;
};

Result<void> check_increments(const CascadeOptions& options, Index levels) {
  if (options.increments.empty()) return {};
  constexpr Index most = 1024;
  const auto expected = fmt::format("{} rows of {} numbers from 0 to {}", levels, levels, most);
  if (std::ssize(options.increments) != levels) {
    return bad_argument("draft", "increments", expected,
                        fmt::format("{} rows", options.increments.size()));
  }
  for (const std::vector<Index>& row : options.increments) {
    if (std::ssize(row) != levels) {
      return bad_argument("draft", "increments", expected, fmt::format("a row of {}", row.size()));
    }
    for (const Index entry : row) {
      if (entry < 0 || entry > most)
        return bad_argument("draft", "increments", expected, fmt::to_string(entry));
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Drafter>> cascade_drafter(std::vector<DraftModelOptions> models,
                                                 std::unique_ptr<Drafter> bottom,
                                                 Executor& executor,
                                                 const CascadeOptions& options) {
  if (models.empty()) return bad_argument("draft", "cascade", "at least one model", "none");
  const Index levels = std::ssize(models) + (bottom ? 1 : 0);
  for (const DraftModelOptions& one : models) {
    if (one.model.vocab() == models.front().model.vocab()) continue;
    return bad_argument("draft", "cascade",
                        fmt::format("models of {} tokens", models.front().model.vocab()),
                        fmt::format("one of {} ({})", one.model.vocab(), one.name));
  }
  if (bottom && bottom->levels() != 1) {
    return bad_argument("draft", "cascade", "one drafter at the bottom",
                        fmt::format("{}", bottom->levels()));
  }
  if (!(options.lenience >= 1.0 && std::isfinite(options.lenience))) {
    return bad_argument("draft", "lenience", "a number of at least 1",
                        fmt::to_string(options.lenience));
  }
  if (options.lenience > 1.0 && levels == 1) {
    return bad_argument("draft", "lenience", "1, where no model reviews another's guesses",
                        fmt::to_string(options.lenience));
  }
  KRAIT_RETURN_IF_ERROR(check_increments(options, levels));
  return std::unique_ptr<Drafter>(
      std::make_unique<CascadeDrafter>(std::move(models), std::move(bottom), executor, options));
}

Result<void> check_same_tokens(const Tokenizer& drafter, const Tokenizer& target,
                               std::string_view name) {
  const auto fail = [&](std::string_view expected, std::string_view found) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[draft] vocabulary: expected that of the model ({}), found {} ({})",
                             expected, found, printable(name))};
  };
  if (drafter.vocab() != target.vocab()) {
    return fail(fmt::format("{} tokens", target.vocab()), fmt::to_string(drafter.vocab()));
  }
  for (Token token = 0; token < target.vocab(); ++token) {
    if (drafter.bytes(token) == target.bytes(token)) continue;
    return fail(fmt::format("token {} is '{}'", token, printable(target.bytes(token))),
                fmt::format("'{}'", printable(drafter.bytes(token))));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
