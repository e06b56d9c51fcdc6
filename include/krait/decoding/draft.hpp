#pragma once

/// \file
/// Draft: a guess how a text goes on, and how it was drawn.

#include <span>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// When a drafted token is accepted. Each rule is exact: what comes out has the distribution of the
/// model alone, after every step of the sampler and under its mask.
enum class Acceptance {
  /// The sampler draws as it always does, and a guess that is what it drew is right. The text is
  /// the same with any guess and without: a function of the seed.
  match,
  /// Accepts a token x with probability min(1, p(x) / q(x)), where p is the sampler's law and q the
  /// one that x was drawn from, and otherwise draws from what p has more than q (Leviathan et al.
  /// 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318). No rule accepts more. The text
  /// depends on the draft, its length included.
  rejection,
};

/// The distribution that a token was drawn from: of one token, of a few, or of all.
class KRAIT_API TokenLaw {
 public:
  using Number = double;

  /// Of no token at all; only to be assigned to.
  TokenLaw() = default;
  /// Of a token that was not drawn, but determined.
  static TokenLaw one_hot(Token token);
  /// Of the tokens named; every other one has probability 0.
  static TokenLaw sparse(std::vector<std::pair<Token, double>> tokens);
  /// Of all tokens in the order of their ids.
  static TokenLaw dense(std::vector<double> probabilities);

  bool is_one_hot() const noexcept { return only_ >= 0; }

  double operator()(Token token) const noexcept;

  /// Calls f(token, probability) for every token that may have one above 0, in ascending order.
  template <class F>
  void for_each(F f) const {
    if (is_one_hot()) f(only_, 1.0);
    for (const std::pair<Token, double>& one : sparse_) f(one.first, one.second);
    for (std::size_t i = 0; i < dense_.size(); ++i) f(static_cast<Token>(i), dense_[i]);
  }

 private:
  Token only_ = -1;
  std::vector<std::pair<Token, double>> sparse_;  // ascending
  std::vector<double> dense_;
};

/// Whether a law can be one of tokens below `vocab`: numbers from 0 to 1 that add up to 1, each
/// token once.
KRAIT_API Result<void> validate(const TokenLaw& law, Index vocab);

/// Where a drafted token comes from.
struct DraftMark {
  Index level = 0;  ///< which of the drafter's levels guessed it
  /// How probable the drafter thinks it is that the token is right, from 0 to 1. Of use for
  /// deciding how much to draft, and for nothing else.
  double confidence = 0.5;
};

/// Tokens that are to follow a text.
///
/// Each law must be the one that its token was really drawn from, after the drafter's own filters;
/// whoever cannot say it says `one_hot`, which is always right. A drafter may stop for any reason
/// that follows from the tokens it keeps; one that keeps or drops a token because of what that
/// token is has drawn from another law than it says.
struct Draft {
  std::vector<Token> tokens = {};
  std::vector<TokenLaw> laws = {};    ///< of each token; empty: every one is one_hot
  std::vector<DraftMark> marks = {};  ///< of each token; may be empty

  Index size() const noexcept { return std::ssize(tokens); }
  bool empty() const noexcept { return tokens.empty(); }
  void append(Token token, TokenLaw law, const DraftMark& mark) {
    tokens.push_back(token);
    laws.push_back(std::move(law));
    marks.push_back(mark);
  }
  /// The same with the law one_hot.
  void append(Token token, const DraftMark& mark) { append(token, TokenLaw::one_hot(token), mark); }
  /// Leaves the first `count`, which there must be.
  void truncate(Index count) {
    const auto size = static_cast<std::size_t>(count);
    tokens.resize(size);
    if (laws.size() > size) laws.resize(size);
    if (marks.size() > size) marks.resize(size);
  }
};

}  // namespace v0_1
}  // namespace krait
