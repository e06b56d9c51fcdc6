#include "krait/decoding/speculation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/bad_argument.hpp"
#include "decoding/clone_ptr.hpp"
#include "decoding/draft_policy.hpp"
#include "decoding/stopwatch.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Whether a drafter that began by one of them can go on by the other.
bool is_same(const DraftSetting& a, const DraftSetting& b) {
  const SamplerOptions& x = a.sampler;
  const SamplerOptions& y = b.sampler;
  return a.acceptance == b.acceptance && a.position == b.position && x.seed == y.seed &&
         x.sequence == y.sequence && x.greedy == y.greedy && x.gumbel == y.gumbel &&
         x.temperature == y.temperature && x.top_k == y.top_k && x.top_p == y.top_p &&
         x.min_p == y.min_p && x.typical_p == y.typical_p && x.logit_bias == y.logit_bias &&
         x.order == y.order;
}

}  // namespace

class Speculation::Impl {
 public:
  Impl(std::unique_ptr<Drafter> drafter, const SpeculationOptions& options)
      : drafter_(std::move(drafter)),
        options_(options),
        policy_(drafter_->levels(), most_chosen),
        is_unused_(true) {}

  Result<void> begin(const Sequence& text, const GenerationOptions& options);
  Result<void> propose(Generation& text, Index most);
  Result<void> observe(const Generation& text);
  const DraftStatistics& statistics() const noexcept { return statistics_; }

 private:
  Result<void> observe(std::span<const Token> tokens);
  Result<void> draft_fixed(Index length);
  Result<void> draft_chosen(Index most);
  Result<bool> extend(Index most);
  Result<void> guess(Draft& draft, Index most, Index level);
  void cut();
  void count(Index drafted, Index accepted);

  ClonePtr<Drafter> drafter_;
  SpeculationOptions options_;
  DraftPolicy policy_;
  DraftSetting setting_;
  bool is_unused_;           // the drafter has begun no text
  std::vector<Token> text_;  // what it has observed
  Index max_tokens_ = 0;
  Draft draft_;
  Draft look_;            // guesses that are looked at before they are taken
  double spent_ = 0.0;    // seconds of guessing
  bool is_step_ = false;  // whether the step is one behind the prompt
  Index drafted_ = 0;     // of the generation, before the step
  Index accepted_ = 0;
  Stopwatch watch_;
  DraftStatistics statistics_;
};

Result<void> Speculation::Impl::begin(const Sequence& text, const GenerationOptions& options) {
  const DraftSetting setting{
      .sampler = options.sampler,
      .acceptance = options.acceptance,
      .position = text.state.position() + text.pending - std::ssize(text.tokens)};
  const bool goes_on = !is_unused_ && is_same(setting, setting_) &&
                       text_.size() <= text.tokens.size() &&
                       std::equal(text_.begin(), text_.end(), text.tokens.begin());
  if (!goes_on) {
    is_unused_ = true;
    KRAIT_RETURN_IF_ERROR(drafter_->begin(setting));
    setting_ = setting;
    text_.clear();
    is_unused_ = false;
  }
  max_tokens_ = options.max_tokens;
  statistics_ = {};
  for (Index i = 0; i < drafter_->levels(); ++i) {
    statistics_.levels.push_back({std::string(drafter_->name(i)), {}});
  }
  draft_.truncate(0);
  KRAIT_RETURN_IF_ERROR(observe(text.tokens));
  return drafter_->catch_up();
}

// All tokens of the text, of which those at the front were observed.
Result<void> Speculation::Impl::observe(std::span<const Token> tokens) {
  const auto more = tokens.subspan(text_.size());
  text_.insert(text_.end(), more.begin(), more.end());
  return drafter_->observe(more);
}

Result<void> Speculation::Impl::propose(Generation& text, Index most) {
  draft_.truncate(0);
  spent_ = 0.0;
  drafted_ = std::as_const(text).result().drafted;
  accepted_ = std::as_const(text).result().accepted;
  // The step gives a token of its own in any case.
  const Index left = max_tokens_ - std::ssize(std::as_const(text).result().tokens) - 1;
  most = std::min(most, left);
  is_step_ = !text.is_finished() && text.sequence().pending == 1;
  if (most > 0 && is_step_) {
    if (options_.length) {
      KRAIT_RETURN_IF_ERROR(draft_fixed(std::min(most, *options_.length)));
    } else {
      KRAIT_RETURN_IF_ERROR(draft_chosen(std::min(most, most_chosen)));
    }
  }
  if (draft_.empty()) {
    text.withdraw();
  } else {
    KRAIT_RETURN_IF_ERROR(text.propose(draft_.tokens, draft_.laws));
  }
  watch_.lap();
  return {};
}

Result<void> Speculation::Impl::observe(const Generation& text) {
  const double seconds = watch_.lap();
  const GenerationResult& result = text.result();
  const Index drafted = result.drafted - drafted_;
  const Index accepted = result.accepted - accepted_;
  draft_.truncate(std::min(draft_.size(), drafted));
  if (text.kept() > 0) {
    count(drafted, accepted);
    if (!options_.length && is_step_) policy_.verified(draft_, accepted, spent_, seconds);
  }
  const std::vector<Token>& tokens = text.sequence().tokens;
  return tokens.size() > text_.size() ? observe(tokens) : Result<void>();
}

void Speculation::Impl::count(Index drafted, Index accepted) {
  if (std::ssize(statistics_.positions) < drafted) {
    statistics_.positions.resize(static_cast<std::size_t>(drafted));
  }
  for (Index i = 0; i < drafted; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const auto level = static_cast<std::size_t>(draft_.marks[at].level);
    for (DraftCount* const one : {&statistics_.levels[level].count, &statistics_.positions[at]}) {
      ++one->drafted;
      if (i < accepted) ++one->accepted;
    }
  }
}

Result<void> Speculation::Impl::guess(Draft& draft, Index most, Index level) {
  const Index before = draft.size();
  const Index backlog = drafter_->backlog(level);
  Stopwatch watch;
  KRAIT_RETURN_IF_ERROR(drafter_->propose(draft, most, level));
  const double seconds = watch.lap();
  if (draft.size() > before + most || std::ssize(draft.laws) != draft.size() ||
      std::ssize(draft.marks) != draft.size()) {
    return bad_argument("draft", "drafter",
                        fmt::format("at most {} tokens, each with law and mark", most),
                        fmt::format("{}, {} laws and {} marks", draft.size() - before,
                                    draft.laws.size(), draft.marks.size()));
  }
  for (Index i = before; i < draft.size(); ++i) {
    const Index found = draft.marks[static_cast<std::size_t>(i)].level;
    if (found < 0 || found >= drafter_->levels()) {
      return bad_argument("draft", "level", fmt::format("0 to {}", drafter_->levels() - 1),
                          fmt::to_string(found));
    }
  }
  policy_.guessed(level, draft.size() - before, backlog, seconds);
  spent_ += seconds;
  return {};
}

Result<void> Speculation::Impl::draft_fixed(Index length) {
  const Index levels = drafter_->levels();
  Index wanted = 0;
  for (Index i = 0; i < levels; ++i) {
    const Index part = options_.shares.empty() ? (length - wanted + levels - i - 1) / (levels - i)
                       : i < std::ssize(options_.shares)
                           ? options_.shares[static_cast<std::size_t>(i)]
                           : 0;
    wanted = std::min(length, wanted + part);
    while (draft_.size() < wanted) {
      const Index before = draft_.size();
      KRAIT_RETURN_IF_ERROR(guess(draft_, wanted - before, i));
      if (draft_.size() == before) break;
    }
  }
  return {};
}

Result<void> Speculation::Impl::draft_chosen(Index most) {
  if (!policy_.is_open()) return {};
  Stopwatch watch;
  while (draft_.size() < most) {
    KRAIT_ASSIGN_OR_RETURN(const bool goes_on, extend(most));
    if (!goes_on) break;
  }
  cut();
  spent_ = watch.lap();  // with the time that it took to decide
  return {};
}

// Lets the level that is worth most go on with the draft; false where none is worth it.
Result<bool> Speculation::Impl::extend(Index most) {
  const Index levels = drafter_->levels();
  const Index left = most - draft_.size();
  double best = 0.0;
  for (Index i = 0; i <= draft_.size(); ++i) best = std::max(best, policy_.rate(draft_, i, spent_));
  // The last level is the cheapest. If it needs no model, its guesses are there before it is
  // decided whether to take them; they follow from the text alone.
  const Index last = levels - 1;
  const bool is_free = policy_.guess_seconds(last, 0) < 0.002 * policy_.pass_seconds(1);
  Index chosen = -1;
  Index taken = 0;
  if (is_free && setting_.acceptance == Acceptance::match) {
    look_ = draft_;
    for (Index before = -1; look_.size() < most && look_.size() > before;) {
      before = look_.size();
      KRAIT_RETURN_IF_ERROR(guess(look_, most - before, last));
    }
    for (Index n = draft_.size() + 1; n <= look_.size(); ++n) {
      const double rate = policy_.rate(look_, n, spent_);
      if (rate <= best) continue;
      best = rate;
      chosen = last;
      taken = n;
    }
  }
  constexpr Index ahead = 8;
  for (Index i = 0; i < levels; ++i) {
    if (i == last && is_free && setting_.acceptance == Acceptance::match) continue;
    const double rate =
        policy_.rate_beyond(draft_, spent_, policy_.acceptance(i),
                            policy_.guess_seconds(i, drafter_->backlog(i)), std::min(left, ahead));
    if (rate <= best) continue;
    best = rate;
    chosen = i;
  }
  if (chosen < 0) return false;
  if (chosen == last && taken > 0) {
    look_.truncate(taken);
    std::swap(draft_, look_);
    return levels > 1;
  }
  constexpr Index block = 5;  // with what levels below guess; the cost is that of a pass
  const Index before = draft_.size();
  KRAIT_RETURN_IF_ERROR(guess(draft_, std::min(left, block), chosen));
  return draft_.size() > before;
}

// The time of the guesses is spent; whether all are worth verifying is another matter. Those that
// were drawn at random stay, since to drop them for what they are changes their law.
void Speculation::Impl::cut() {
  Index length = draft_.size();
  double best = 0.0;
  for (Index n = draft_.size(); n >= 0; --n) {
    const double rate = policy_.rate(draft_, n, spent_);
    if (rate > best) {
      best = rate;
      length = n;
    }
    const bool is_drawn = n > 0 && setting_.acceptance != Acceptance::match &&
                          !draft_.laws[static_cast<std::size_t>(n) - 1].is_one_hot();
    if (is_drawn) break;
  }
  draft_.truncate(length);
}

Speculation::Speculation(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Speculation::Speculation(const Speculation& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
Speculation::Speculation(Speculation&& other) noexcept = default;
Speculation& Speculation::operator=(const Speculation& other) {
  if (this != &other) *this = Speculation(other);
  return *this;
}
Speculation& Speculation::operator=(Speculation&& other) noexcept = default;
Speculation::~Speculation() = default;

Result<Speculation> Speculation::make(std::unique_ptr<Drafter> drafter,
                                      const SpeculationOptions& options) {
  if (drafter == nullptr) return bad_argument("draft", "drafter", "one", "a null pointer");
  const auto range = fmt::format("0 to {} tokens", most_tokens);
  if (options.length && (*options.length < 0 || *options.length > most_tokens)) {
    return bad_argument("draft", "length", range, fmt::to_string(*options.length));
  }
  if (!options.shares.empty() && std::ssize(options.shares) != drafter->levels()) {
    return bad_argument("draft", "shares", fmt::format("{} numbers", drafter->levels()),
                        fmt::to_string(options.shares.size()));
  }
  for (const Index share : options.shares) {
    if (share < 0 || share > most_tokens)
      return bad_argument("draft", "shares", range, fmt::to_string(share));
  }
  return Speculation(std::make_unique<Impl>(std::move(drafter), options));
}

Result<void> Speculation::begin(const Sequence& text, const GenerationOptions& options) {
  return impl_->begin(text, options);
}
Result<void> Speculation::propose(Generation& text, Index most) {
  return impl_->propose(text, most);
}
Result<void> Speculation::observe(const Generation& text) { return impl_->observe(text); }
const DraftStatistics& Speculation::statistics() const noexcept { return impl_->statistics(); }

}  // namespace v0_1
}  // namespace krait
