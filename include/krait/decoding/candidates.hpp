#pragma once

/// \file
/// Candidates: the tokens that a sampler's steps choose among.

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "krait/core/config.hpp"
#include "krait/decoding/token_mask.hpp"

namespace krait {
inline namespace v0_1 {

/// A token that may be drawn.
struct Candidate {
  double logit = 0.0;   ///< natural logarithm of the probability, up to a constant
  double weight = 0.0;  ///< exp(logit - largest logit); of use after `Candidates::weigh`
  Token token = 0;
};

/// The tokens that take part in a draw, at least one, with their logits: each a finite number, or
/// -infinity for a token that is forbidden. A step takes tokens out or changes logits.
///
/// They stand in ascending order of their ids until something sorts them. `sort_first` sorts no
/// more than is looked at: a draw usually needs a few dozen of a large vocabulary. What is seen
/// through it, and every sum, is the same on every machine.
class KRAIT_API Candidates {
 public:
  /// Room for so many tokens. Nothing allocates after this, but for copies.
  explicit Candidates(Index vocab = 0) : all_(static_cast<std::size_t>(vocab)) {}

  /// All tokens in the order of their ids. Logits of NaN count as -infinity.
  void load(std::span<const float> logits) noexcept;
  /// Those that a mask allows; false if it allows none.
  bool load(std::span<const float> logits, const TokenMask& allowed) noexcept;

  std::size_t size() const noexcept { return kept_; }
  const Candidate& operator[](std::size_t i) const noexcept { return all_[i]; }
  std::span<const Candidate> span() const noexcept { return std::span(all_).first(kept_); }

  /// Where the candidate of a token stands; nothing if it takes no part.
  std::optional<std::size_t> find(Token token) const noexcept;

  /// Gives every candidate the logit change(candidate). What is forbidden stays so, -infinity and
  /// NaN forbid, and infinity becomes the largest number.
  template <class Change>
  void change_logits(Change change) noexcept {
    for (std::size_t i = 0; i < kept_; ++i) change_logit(all_[i], change(all_[i]));
    logits_changed();
  }
  /// The same for the candidate at `i`, which stays there.
  void change_logit(std::size_t i, double logit) noexcept {
    change_logit(all_[i], logit);
    logits_changed();
  }

  /// Brings the `count` best to the front: those of the largest logits, ties by the lowest id.
  void sort_first(std::size_t count) noexcept;
  /// Brings the `count` first in an order of the step's own, of those that stand at `begin` and
  /// behind it, to `begin`. The draw then runs through the candidates as they stand: what was not
  /// sorted is not to be kept. Who sorts by logits afterwards, sorts anew.
  template <class Before>
  void sort_from(std::size_t begin, std::size_t count, Before before) noexcept {
    order_ = Order::own;
    sort_range(begin, std::min(kept_, begin + count), before);
  }

  /// Leaves the first `count` as they stand, at least one.
  void keep_first(std::size_t count) noexcept;
  /// Leaves the best.
  void keep_best() noexcept;
  /// Leaves those for which keep(candidate) is true, as they stand; if there are none, the best.
  template <class Keep>
  void keep_if(Keep keep) noexcept {
    std::size_t count = 0;
    std::size_t sorted = 0;
    for (std::size_t i = 0; i < kept_; ++i) {
      if (!keep(std::as_const(all_[i]))) continue;
      sorted += i < sorted_ ? 1 : 0;
      all_[count++] = all_[i];
    }
    if (count == 0) return keep_best();
    kept_ = count;
    sorted_ = sorted;
  }

  /// Brings the weights up to date with the logits. If all are forbidden, one is as good as
  /// another.
  void weigh() noexcept;
  /// Sum of the weights, which it brings up to date; over the ids in ascending order as long as
  /// nothing was sorted, and else in the order that was asked for last.
  double total() noexcept;

  /// The token that `part` of the total falls on, in [0, 1).
  Token draw(double part) noexcept;

 private:
  enum class Order { id, logit, own };

  static constexpr double forbidden = -std::numeric_limits<double>::infinity();
  static constexpr double largest = std::numeric_limits<double>::max();

  template <class Before>
  void sort_range(std::size_t begin, std::size_t end, Before before) noexcept {
    const auto at = [&](std::size_t i) { return all_.begin() + static_cast<std::ptrdiff_t>(i); };
    if (end < kept_) std::nth_element(at(begin), at(end), at(kept_), before);
    std::sort(at(begin), at(end), before);
  }
  static void change_logit(Candidate& candidate, double logit) noexcept {
    if (candidate.logit == forbidden) return;
    candidate.logit = logit <= largest ? logit : logit > largest ? largest : forbidden;
  }
  void logits_changed() noexcept {
    sorted_ = 0;
    is_weighed_ = false;
  }

  std::vector<Candidate> all_;  // [vocab]; the first `kept_` take part
  std::size_t kept_ = 0;
  // By logit: the first so many are in descending order, all others are below them.
  std::size_t sorted_ = 0;
  Order order_ = Order::id;
  bool is_weighed_ = false;
};

}  // namespace v0_1
}  // namespace krait
