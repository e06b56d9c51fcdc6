#include "decoding/draft_policy.hpp"

#include <algorithm>

namespace krait {
inline namespace v0_1 {
namespace {

// Upper bounds of the classes of confidence, but for the last.
constexpr double bounds[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98};

constexpr Index backlog_of_a_guess = 8;  // what is consumed along with a guess

}  // namespace

DraftPolicy::DraftPolicy(Index levels, Index most)
    : levels_(static_cast<std::size_t>(levels)), passes_(static_cast<std::size_t>(most) + 1) {
  for (Level& level : levels_) {
    double below = 0.0;
    for (std::size_t i = 0; i < classes; ++i) {
      const double bound = i + 1 < classes ? bounds[i] : 1.0;
      level.by_confidence[i].expected = 0.5 * (below + bound);
      below = bound;
    }
  }
}

void DraftPolicy::Average::add(double x) noexcept {
  if (count_ > 0) x = std::min(x, 2.0 * value_);
  if (count_ > 0 && 2.0 * x < value_) value_ = 2.0 * x;
  count_ = std::min(count_ + 1, 16);
  value_ += (x - value_) / count_;
}

void DraftPolicy::Frequency::add(bool is_hit) noexcept {
  hits += is_hit ? 1.0 : 0.0;
  trials += 1.0;
  if (trials <= 48.0) return;
  hits *= 0.5;
  trials *= 0.5;
}

void DraftPolicy::Frequency::fade() noexcept {
  constexpr double kept = 0.998;
  hits *= kept;
  trials *= kept;
}

std::size_t DraftPolicy::class_of(double confidence) noexcept {
  return static_cast<std::size_t>(std::ranges::upper_bound(bounds, confidence) - bounds);
}

bool DraftPolicy::is_open() const noexcept {
  constexpr Index first = 2;
  constexpr Index again = 128;
  return plain_ >= first && since_plain_ < again && credit_ > 0.0;
}

double DraftPolicy::acceptance(const DraftMark& mark) const noexcept {
  return at(mark.level).by_confidence[class_of(mark.confidence)].value();
}

double DraftPolicy::acceptance(Index level) const noexcept { return at(level).any.value(); }

// Widths that were not seen are thought of as a little cheaper than they will be, so that they are
// tried; a pass of one row takes no longer than any other.
double DraftPolicy::pass_seconds(Index rows) const noexcept {
  constexpr double per_row = 0.12;
  const auto wanted = static_cast<std::size_t>(rows - 1);
  double one = passes_.front().value();
  for (const Average& pass : passes_) {
    if (pass.is_known()) one = std::min(one, pass.value());
  }
  if (rows == 1) return one;
  if (passes_[wanted].is_known()) return passes_[wanted].value();
  std::size_t below = wanted;
  while (below > 0 && !passes_[below].is_known()) --below;
  const double at_below = below == 0 ? one : passes_[below].value();
  std::size_t above = wanted;
  while (above < passes_.size() && !passes_[above].is_known()) ++above;
  const auto beyond = static_cast<double>(wanted - below);
  if (above == passes_.size()) return at_below + per_row * one * beyond;
  return at_below +
         (passes_[above].value() - at_below) * beyond / static_cast<double>(above - below);
}

double DraftPolicy::guess_seconds(Index level, Index backlog) const noexcept {
  const Level& one = at(level);
  const double guess = one.guess.is_known() ? one.guess.value() : 0.02 * plain_seconds();
  if (backlog <= backlog_of_a_guess) return guess;
  const double consume = one.consume.is_known() ? one.consume.value() : 0.25 * guess;
  return guess + consume * static_cast<double>(backlog);
}

double DraftPolicy::rate(const Draft& draft, Index count, double spent) const noexcept {
  double survival = 1.0;
  double tokens = 1.0;
  for (Index i = 0; i < count; ++i) {
    survival *= acceptance(draft.marks[static_cast<std::size_t>(i)]);
    tokens += survival;
  }
  return tokens / (spent + pass_seconds(count + 1));
}

double DraftPolicy::rate_beyond(const Draft& draft, double spent, double acceptance, double seconds,
                                Index more) const noexcept {
  double survival = 1.0;
  double tokens = 1.0;
  for (const DraftMark& mark : draft.marks) {
    survival *= this->acceptance(mark);
    tokens += survival;
  }
  double best = 0.0;
  for (Index i = 1; i <= more; ++i) {
    survival *= acceptance;
    tokens += survival;
    spent += seconds;
    best = std::max(best, tokens / (spent + pass_seconds(draft.size() + i + 1)));
  }
  return best;
}

void DraftPolicy::guessed(Index level, Index tokens, Index backlog, double seconds) noexcept {
  Level& one = at(level);
  if (backlog > backlog_of_a_guess) {
    one.consume.add(seconds / static_cast<double>(backlog));
  } else {
    one.guess.add(seconds / static_cast<double>(std::max<Index>(1, tokens)));
  }
}

void DraftPolicy::verified(const Draft& draft, Index accepted, double spent,
                           double seconds) noexcept {
  for (Level& level : levels_) {
    for (Frequency& one : level.by_confidence) one.fade();
    level.any.fade();
  }
  for (Index i = 0; i < std::min(draft.size(), accepted + 1); ++i) {
    const DraftMark& mark = draft.marks[static_cast<std::size_t>(i)];
    at(mark.level).by_confidence[class_of(mark.confidence)].add(i < accepted);
    at(mark.level).any.add(i < accepted);
  }
  // A pass takes no longer than its rows one by one; one that did was held up by something else.
  const Index rows = draft.size() + 1;
  const double plain = plain_seconds();
  const double usual = pass_seconds(rows);
  if (!draft.empty()) seconds = std::min(seconds, plain * static_cast<double>(rows));
  Average& pass = passes_[static_cast<std::size_t>(draft.size())];
  if (!draft.empty() && !pass.is_known()) pass.expect(usual);
  pass.add(seconds);
  if (draft.empty()) {
    ++plain_;
    since_plain_ = 0;
  } else {
    ++since_plain_;
  }
  // What was lost against plain steps, in steps. If passes of this width take longer than they
  // used to, the average will say so soon; a single one that did proves nothing.
  constexpr double allowed = 0.02;
  constexpr double most = 8.0;
  if (!(plain > 0.0)) return;
  const double taken = draft.empty() ? plain : std::min(seconds, 1.5 * usual);
  const double gained = static_cast<double>(accepted + 1) - (spent + taken) / plain;
  credit_ = std::min(most, credit_ + allowed + gained);
}

}  // namespace v0_1
}  // namespace krait
