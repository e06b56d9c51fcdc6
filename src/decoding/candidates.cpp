#include "krait/decoding/candidates.hpp"

#include <bit>
#include <cmath>

#include "decoding/exact_math.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// An object rather than a function, so that the sorts inline it.
constexpr auto before = [](const Candidate& a, const Candidate& b) noexcept {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
};

}  // namespace

void Candidates::load(std::span<const float> logits) noexcept {
  for (std::size_t i = 0; i < all_.size(); ++i) {
    const double logit =
        std::isnan(logits[i]) ? forbidden : std::min(static_cast<double>(logits[i]), largest);
    all_[i] = {logit, 0.0, static_cast<Token>(i)};
  }
  kept_ = all_.size();
  order_ = Order::id;
  logits_changed();
}

bool Candidates::load(std::span<const float> logits, const TokenMask& allowed) noexcept {
  kept_ = 0;
  const auto words = allowed.words();
  for (std::size_t w = 0; w < words.size(); ++w) {
    for (std::uint64_t bits = words[w]; bits != 0; bits &= bits - 1) {
      const std::size_t token = 64 * w + static_cast<std::size_t>(std::countr_zero(bits));
      if (token >= all_.size()) break;
      const float x = logits[token];
      const double logit = std::isnan(x) ? forbidden : std::min(static_cast<double>(x), largest);
      all_[kept_++] = {logit, 0.0, static_cast<Token>(token)};
    }
  }
  order_ = Order::id;
  logits_changed();
  return kept_ > 0;
}

std::optional<std::size_t> Candidates::find(Token token) const noexcept {
  const auto known = span();
  if (order_ != Order::id) {
    const auto it = std::ranges::find(known, token, &Candidate::token);
    if (it == known.end()) return std::nullopt;
    return static_cast<std::size_t>(it - known.begin());
  }
  const auto at = static_cast<std::size_t>(token);
  if (token >= 0 && at < known.size() && known[at].token == token) return at;
  const auto it = std::ranges::lower_bound(known, token, {}, &Candidate::token);
  if (it == known.end() || it->token != token) return std::nullopt;
  return static_cast<std::size_t>(it - known.begin());
}

void Candidates::sort_first(std::size_t count) noexcept {
  if (order_ != Order::logit) {
    order_ = Order::logit;
    sorted_ = 0;
  }
  if (count <= sorted_) return;
  constexpr std::size_t least = 64;  // sorting so many costs less than another pass over the rest
  count = std::min(kept_, std::max({count, 2 * sorted_, least}));
  sort_range(sorted_, count, before);
  sorted_ = count;
}

void Candidates::keep_first(std::size_t count) noexcept {
  kept_ = std::clamp<std::size_t>(count, 1, kept_);
  sorted_ = std::min(sorted_, kept_);
}

void Candidates::keep_best() noexcept {
  const auto end = all_.begin() + static_cast<std::ptrdiff_t>(kept_);
  all_.front() = *std::min_element(all_.begin(), end, before);
  kept_ = 1;
  sorted_ = std::min<std::size_t>(sorted_, 1);
}

void Candidates::weigh() noexcept {
  if (is_weighed_) return;
  is_weighed_ = true;
  double best = forbidden;
  for (std::size_t i = 0; i < kept_; ++i) best = std::max(best, all_[i].logit);
  const bool is_all_forbidden = best == forbidden;  // then one is as good as another
  for (std::size_t i = 0; i < kept_; ++i) {
    if (is_all_forbidden) all_[i].logit = best = 0.0;
    all_[i].weight = exp_nonpositive(all_[i].logit - best);
  }
}

double Candidates::total() noexcept {
  weigh();
  // Where something is sorted, the rest is in no particular order.
  if (order_ == Order::logit) sort_first(kept_);
  double sum = 0.0;
  for (std::size_t i = 0; i < kept_; ++i) sum += all_[i].weight;
  return sum;
}

Token Candidates::draw(double part) noexcept {
  const double target = part * total();
  double sum = 0.0;
  Token last = all_[0].token;
  for (std::size_t i = 0; i < kept_; ++i) {
    if (order_ != Order::own) sort_first(i + 1);
    if (all_[i].weight <= 0.0) {
      if (order_ == Order::own) continue;
      break;  // nor has what follows
    }
    last = all_[i].token;
    sum += all_[i].weight;
    if (sum > target) break;
  }
  return last;  // where rounding kept the sum below the target, the least probable token
}

}  // namespace v0_1
}  // namespace krait
