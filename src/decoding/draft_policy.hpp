#pragma once

/// \file
/// DraftPolicy: how much to draft, and who is to guess.

#include <array>
#include <vector>

#include "krait/decoding/draft.hpp"

namespace krait {
inline namespace v0_1 {

/// Weighs what drafted tokens are worth against what they cost, by measurements alone: how often
/// those of a level and a confidence were accepted, how long passes of each width took, and how
/// long the levels took to guess. A function of what it was told; it looks at no clock.
///
/// With s_i the probability that the first i tokens of a draft are all accepted, a step gives
/// 1 + Σ s_i tokens on average and takes the time of the guesses and of a pass of n + 1 rows. What
/// is wanted is the largest quotient, the draft of no tokens included.
class DraftPolicy {
 public:
  DraftPolicy(Index levels, Index most);

  /// Whether a draft may be tried: not before plain steps were timed, nor while more time was lost
  /// than is allowed, and now and then not, so that plain steps are timed again.
  bool is_open() const noexcept;

  /// How probably a token is accepted: one that was guessed with a confidence; the next one of a
  /// level, whatever it will be.
  double acceptance(const DraftMark& mark) const noexcept;
  double acceptance(Index level) const noexcept;

  /// Seconds of a pass over so many rows, at least 1.
  double pass_seconds(Index rows) const noexcept;
  /// Seconds of a level's next guess, where it has to consume so many tokens before.
  double guess_seconds(Index level, Index backlog) const noexcept;

  /// Tokens per second of a step that took `spent` seconds to draft, by the first `count` tokens.
  double rate(const Draft& draft, Index count, double spent) const noexcept;
  /// The best rate of a draft that goes on with tokens of one level, in how many it may, each
  /// accepted with the given probability.
  double rate_beyond(const Draft& draft, double spent, double acceptance, double seconds,
                     Index more) const noexcept;

  /// A level guessed `tokens` tokens, having consumed so many before that.
  void guessed(Index level, Index tokens, Index backlog, double seconds) noexcept;
  /// A draft was verified, of which so many tokens were accepted. `spent` and `seconds`: of the
  /// guesses, and of the pass.
  void verified(const Draft& draft, Index accepted, double spent, double seconds) noexcept;

 private:
  // An average of times that follows the last few dozen. What is held up takes any time, but
  // nothing takes less than it needs: one that took long counts as twice the average, and no
  // average is more than twice the least.
  class Average {
   public:
    bool is_known() const noexcept { return count_ > 0; }
    double value() const noexcept { return value_; }
    void add(double x) noexcept;
    // What is expected before anything was measured counts as one measurement.
    void expect(double x) noexcept {
      value_ = x;
      count_ = 1;
    }

   private:
    double value_ = 0.0;
    int count_ = 0;
  };
  // How often something came true, of the last few dozen times. What was expected at first counts
  // as three of them, and as more and more the longer nothing was heard.
  struct Frequency {
    double expected = 0.5;
    double hits = 0.0;
    double trials = 0.0;
    double value() const noexcept { return (hits + 3.0 * expected) / (trials + 3.0); }
    void add(bool is_hit) noexcept;
    void fade() noexcept;
  };
  static constexpr std::size_t classes = 12;
  struct Level {
    std::array<Frequency, classes> by_confidence;
    Frequency any{.expected = 0.6};
    Average guess;    // seconds per token
    Average consume;  // seconds per token of a backlog
  };

  static std::size_t class_of(double confidence) noexcept;
  double plain_seconds() const noexcept { return pass_seconds(1); }
  Level& at(Index level) noexcept { return levels_[static_cast<std::size_t>(level)]; }
  const Level& at(Index level) const noexcept { return levels_[static_cast<std::size_t>(level)]; }

  std::vector<Level> levels_;
  std::vector<Average> passes_;  // by rows - 1
  double credit_ = 3.0;          // steps that may be lost
  Index plain_ = 0;              // plain steps so far
  Index since_plain_ = 0;        // drafts since the last of them
};

}  // namespace v0_1
}  // namespace krait
