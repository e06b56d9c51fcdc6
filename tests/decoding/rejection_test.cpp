// Exact rejection: all choices are gone through with fractions, and what comes out has the law of
// the target to the last digit. Procedures that are known to be wrong are found to be.
#include "krait/decoding/rejection.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <numeric>

namespace krait::rejection_test {
namespace {

// A fraction in lowest terms.
class Fraction {
 public:
  __extension__ using Int = __int128;

  Fraction(std::int64_t above = 0, std::int64_t below = 1) : above_(above), below_(below) {}

  friend Fraction operator+(const Fraction& a, const Fraction& b) {
    return reduced(a.above_ * b.below_ + b.above_ * a.below_, a.below_ * b.below_);
  }
  friend Fraction operator-(const Fraction& a, const Fraction& b) {
    return reduced(a.above_ * b.below_ - b.above_ * a.below_, a.below_ * b.below_);
  }
  friend Fraction operator*(const Fraction& a, const Fraction& b) {
    return reduced(a.above_ * b.above_, a.below_ * b.below_);
  }
  friend Fraction operator/(const Fraction& a, const Fraction& b) {
    const Fraction c = reduced(a.above_ * b.below_, a.below_ * b.above_);
    return c.below_ < 0 ? reduced(-c.above_, -c.below_) : c;
  }
  friend bool operator==(const Fraction& a, const Fraction& b) = default;
  friend bool operator<(const Fraction& a, const Fraction& b) {
    return a.above_ * b.below_ < b.above_ * a.below_;
  }
  friend bool operator>(const Fraction& a, const Fraction& b) { return b < a; }
  double value() const { return static_cast<double>(above_) / static_cast<double>(below_); }

 private:
  static Int gcd(Int a, Int b) {
    while (b != 0) {
      const Int rest = a % b;
      a = b;
      b = rest;
    }
    return a < 0 ? -a : a;
  }
  static Fraction reduced(Int above, Int below) {
    const Int divisor = gcd(above, below);
    Fraction result;
    result.above_ = above / divisor;
    result.below_ = below / divisor;
    return result;
  }

  Int above_;
  Int below_;
};

constexpr Token vocab = 3;

struct FractionLaw {
  using Number = Fraction;
  std::vector<Fraction> p = std::vector<Fraction>(vocab);

  static FractionLaw sparse(const std::vector<std::pair<Token, Fraction>>& tokens) {
    FractionLaw law;
    for (const auto& [token, probability] : tokens) {
      law.p[static_cast<std::size_t>(token)] = probability;
    }
    return law;
  }
  static FractionLaw one_hot(Token token) { return sparse({{token, Fraction(1)}}); }
  Fraction operator()(Token token) const { return p[static_cast<std::size_t>(token)]; }
  template <class F>
  void for_each(F f) const {
    for (Token token = 0; token < vocab; ++token) f(token, (*this)(token));
  }
};

using Tokens = std::vector<Token>;

// Goes through all sequences of choices that a procedure can make, with their probabilities.
class AllChoices {
 public:
  Token pick(const std::vector<std::pair<Token, Fraction>>& weights) {
    Fraction sum;
    std::vector<std::pair<Token, Fraction>> possible;
    for (const auto& weight : weights) {
      if (!(weight.second > Fraction(0))) continue;
      possible.push_back(weight);
      sum = sum + weight.second;
    }
    const std::size_t chosen = choose(possible.size());
    probability_ = probability_ * (possible[chosen].second / sum);
    return possible[chosen].first;
  }
  Token pick(const FractionLaw& law) {
    std::vector<std::pair<Token, Fraction>> weights;
    law.for_each([&](Token token, const Fraction& p) { weights.emplace_back(token, p); });
    return pick(weights);
  }
  bool accepts(const Fraction& a, const Fraction& b) {
    if (a == Fraction(0)) return false;
    if (!(a < b)) return true;
    const bool is_accepted = choose(2) == 0;
    probability_ = probability_ * (is_accepted ? a / b : Fraction(1) - a / b);
    return is_accepted;
  }

  // The law of the first two tokens that the procedure puts out.
  std::map<Tokens, Fraction> law_of(const std::function<Tokens(AllChoices&)>& procedure) {
    std::map<Tokens, Fraction> law;
    path_.clear();
    do {
      depth_ = 0;
      probability_ = Fraction(1);
      Tokens tokens = procedure(*this);
      tokens.resize(2);
      law[tokens] = law[tokens] + probability_;
    } while (advance());
    return law;
  }

 private:
  struct Choice {
    std::size_t taken;
    std::size_t count;
  };
  std::size_t choose(std::size_t count) {
    if (depth_ == path_.size()) path_.push_back({0, count});
    return path_[depth_++].taken;
  }
  bool advance() {
    while (!path_.empty() && path_.back().taken + 1 == path_.back().count) path_.pop_back();
    if (path_.empty()) return false;
    ++path_.back().taken;
    return true;
  }

  std::vector<Choice> path_;
  std::size_t depth_ = 0;
  Fraction probability_ = Fraction(1);
};

// A law for every text, of small fractions that are a function of a seed; some are 0.
class Source {
 public:
  explicit Source(std::uint32_t seed) : seed_(seed) {}
  FractionLaw operator()(const Tokens& text) const {
    std::uint64_t place = seed_;
    for (const Token token : text) place = place * 7 + static_cast<std::uint64_t>(token) + 1;
    const auto bits = random_bits({.seed = seed_, .position = place});
    std::int64_t weights[vocab];
    for (std::size_t i = 0; i < vocab; ++i) weights[i] = static_cast<std::int64_t>(bits[i] % 5);
    if (seed_ % 3 != 0) {  // no zeros
      for (std::int64_t& weight : weights) ++weight;
    } else if (weights[0] + weights[1] + weights[2] == 0) {
      weights[place % 3] = 1;
    }
    const std::int64_t sum = weights[0] + weights[1] + weights[2];
    FractionLaw law;
    for (std::size_t i = 0; i < vocab; ++i) law.p[i] = Fraction(weights[i], sum);
    return law;
  }

 private:
  std::uint32_t seed_;
};

Tokens operator+(Tokens text, const Tokens& more) {
  text.insert(text.end(), more.begin(), more.end());
  return text;
}

struct Guesses {
  Tokens tokens;
  std::vector<FractionLaw> laws;
  void append(Token token, FractionLaw law) {
    tokens.push_back(token);
    laws.push_back(std::move(law));
  }
};

// The reviewer keeps what it accepts and adds a token of its own; the laws are those of what comes
// out.
Guesses review(const Source& p, const Tokens& text, const Guesses& guesses, Fraction lenience,
               AllChoices& oracle) {
  Guesses out;
  for (std::size_t i = 0; i < guesses.tokens.size(); ++i) {
    auto reviewed =
        review_guess(p(text + out.tokens), guesses.tokens[i], guesses.laws[i], lenience, oracle);
    out.append(reviewed.token, std::move(reviewed.law));
    if (!reviewed.is_accepted) return out;
  }
  const FractionLaw law = p(text + out.tokens);
  out.append(oracle.pick(law), law);
  return out;
}

Guesses draw(const Source& q, const Tokens& text, int count, AllChoices& oracle) {
  Guesses out;
  for (int i = 0; i < count; ++i) {
    const FractionLaw law = q(text + out.tokens);
    out.append(oracle.pick(law), law);
  }
  return out;
}

using Drafting = std::function<Guesses(const Tokens& text, AllChoices& oracle)>;

// Decodes two tokens of p, or some more.
std::function<Tokens(AllChoices&)> decode(const Source& p, const Drafting& draft,
                                          Fraction lenience = Fraction(1)) {
  return [=](AllChoices& oracle) {
    Tokens text;
    while (text.size() < 2) {
      text = text + review(p, text, draft(text, oracle), lenience, oracle).tokens;
    }
    return text;
  };
}

std::map<Tokens, Fraction> law_of_target(const Source& p) {
  std::map<Tokens, Fraction> law;
  for (Token a = 0; a < vocab; ++a) {
    for (Token b = 0; b < vocab; ++b) law[{a, b}] = p({})(a) * p({a})(b);
  }
  return law;
}

// Total variation from the target's law; 0 only where the two are the same.
double distance(const Source& p, const std::function<Tokens(AllChoices&)>& procedure) {
  std::map<Tokens, Fraction> expected = law_of_target(p);
  std::map<Tokens, Fraction> found = AllChoices().law_of(procedure);
  Fraction sum;
  for (Token a = 0; a < vocab; ++a) {
    for (Token b = 0; b < vocab; ++b) {
      const Fraction x = expected[{a, b}];
      const Fraction y = found[{a, b}];
      sum = sum + (x < y ? y - x : x - y);
    }
  }
  return sum == Fraction(0) ? 0.0 : std::max(1e-300, 0.5 * sum.value());
}

// Three sources with a seed each; those of seeds divisible by 3 have zeros.
struct Sources {
  Source p;
  Source q1;
  Source q2;
};
std::vector<Sources> all_sources() {
  std::vector<Sources> all;
  for (std::uint32_t seed = 1; seed < 13; ++seed) {
    all.push_back({Source(seed), Source(seed + 100), Source(seed + 200)});
  }
  all.push_back({Source(5), Source(5), Source(5)});  // the same
  all.push_back({Source(9), Source(9), Source(30)});
  return all;
}

TEST(Rejection, OfPlainDraftsIsExact) {
  for (const auto& [p, q1, q2] : all_sources()) {
    for (const int count : {0, 1, 2}) {
      const Source& q = q1;
      EXPECT_EQ(distance(p, decode(p, [=](const auto& text,
                                          auto& o) { return draw(q, text, count, o); })),
                0.0);
    }
  }
}

TEST(Rejection, OfDeterminedTokensIsExact) {
  for (const auto& [p, q1, q2] : all_sources()) {
    for (Token token = 0; token < vocab; ++token) {
      EXPECT_EQ(distance(p, decode(p,
                                   [=](const auto&, auto&) {
                                     Guesses guesses;
                                     guesses.append(token, FractionLaw::one_hot(token));
                                     guesses.append((token + 1) % vocab,
                                                    FractionLaw::one_hot((token + 1) % vocab));
                                     return guesses;
                                   })),
                0.0);
    }
  }
}

// An inner review of q2's guesses by q1; what comes out is reviewed by p.
Drafting nest(const Source& q1, const Source& q2, int count, Fraction lenience, int times = 1) {
  return [=](const Tokens& text, AllChoices& oracle) {
    Guesses out;
    for (int i = 0; i < times; ++i) {
      const Tokens before = text + out.tokens;
      const Guesses more = review(q1, before, draw(q2, before, count, oracle), lenience, oracle);
      out.tokens = out.tokens + more.tokens;
      out.laws.insert(out.laws.end(), more.laws.begin(), more.laws.end());
    }
    return out;
  };
}

TEST(Rejection, OfAVerticalCascadeIsExact) {
  for (const auto& [p, q1, q2] : all_sources()) {
    EXPECT_EQ(distance(p, decode(p, nest(q1, q2, 1, Fraction(1)))), 0.0);
    EXPECT_EQ(distance(p, decode(p, nest(q1, q2, 2, Fraction(1)))), 0.0);
  }
  for (const std::uint32_t seed : {1U, 3U}) {  // two reviews, one behind the other
    const Source p(seed);
    EXPECT_EQ(
        distance(p, decode(p, nest(Source(seed + 100), Source(seed + 200), 1, Fraction(1), 2))),
        0.0);
  }
}

TEST(Rejection, OfAHorizontalCascadeIsExact) {
  for (const auto& [p, q1, q2] : all_sources()) {
    const Drafting head = nest(q1, q2, 1, Fraction(1));
    EXPECT_EQ(distance(p, decode(p,
                                 [=](const Tokens& text, AllChoices& oracle) {
                                   Guesses guesses = head(text, oracle);
                                   guesses.append(1, FractionLaw::one_hot(1));
                                   return guesses;
                                 })),
              0.0);
  }
}

TEST(Rejection, OfALenientInnerReviewIsExactByTheLawThatItHas) {
  for (const auto& [p, q1, q2] : all_sources()) {
    for (const Fraction lenience : {Fraction(3, 2), Fraction(2), Fraction(4)}) {
      EXPECT_EQ(distance(p, decode(p, nest(q1, q2, 1, lenience))), 0.0);
      EXPECT_EQ(distance(p, decode(p, nest(q1, q2, 2, lenience))), 0.0);
    }
  }
}

// What looks right and is not: each of these changes the law of some text.
TEST(Rejection, FindsWhatIsWrong) {
  const Source p(1);
  const Source q1(101);
  const Source q2(201);
  constexpr double visible = 1e-3;
  // The reviewer's own law, said of what came out of a lenient review.
  EXPECT_GT(distance(p, decode(p,
                               [=](const Tokens& text, AllChoices& oracle) {
                                 Guesses out = nest(q1, q2, 1, Fraction(3))(text, oracle);
                                 for (std::size_t i = 0; i < out.laws.size(); ++i) {
                                   const Tokens before(
                                       out.tokens.begin(),
                                       out.tokens.begin() + static_cast<std::ptrdiff_t>(i));
                                   out.laws[i] = q1(text + before);
                                 }
                                 return out;
                               })),
            visible);
  // Lenience of the target.
  const Drafting plain = [=](const Tokens& text, AllChoices& o) { return draw(q1, text, 2, o); };
  EXPECT_GT(distance(p, decode(p, plain, Fraction(2))), visible);
  // Drawn from another law than is said.
  EXPECT_GT(distance(p, decode(p,
                               [=](const Tokens& text, AllChoices& oracle) {
                                 Guesses out = draw(q1, text, 1, oracle);
                                 out.laws[0] = q2(text);
                                 return out;
                               })),
            visible);
  // The better of two.
  EXPECT_GT(distance(p, decode(p,
                               [=](const Tokens& text, AllChoices& oracle) {
                                 Guesses a = draw(q1, text, 1, oracle);
                                 Guesses b = draw(q1, text, 1, oracle);
                                 return q1(text)(a.tokens[0]) < q1(text)(b.tokens[0]) ? b : a;
                               })),
            visible);
  // A token that is dropped for what it is.
  EXPECT_GT(distance(p, decode(p,
                               [=](const Tokens& text, AllChoices& oracle) {
                                 Guesses out = draw(q1, text, 1, oracle);
                                 if (out.laws[0](out.tokens[0]) < Fraction(1, 2)) out = {};
                                 return out;
                               })),
            visible);
  // But to stop behind a token for what it is, is right.
  EXPECT_EQ(distance(p, decode(p,
                               [=](const Tokens& text, AllChoices& oracle) {
                                 Guesses out = draw(q1, text, 1, oracle);
                                 if (out.laws[0](out.tokens[0]) < Fraction(1, 2)) return out;
                                 const Guesses more = draw(q1, text + out.tokens, 1, oracle);
                                 out.append(more.tokens[0], more.laws[0]);
                                 return out;
                               })),
            0.0);
}

// In the place of a refused token, one of the target's law instead of what that has more.
TEST(Rejection, FindsAMissingResidual) {
  class FromP {
   public:
    FromP(AllChoices& choices, FractionLaw p) : choices_(choices), p_(std::move(p)) {}
    bool accepts(const Fraction& a, const Fraction& b) { return choices_.accepts(a, b); }
    Token pick(const std::vector<std::pair<Token, Fraction>>&) { return choices_.pick(p_); }

   private:
    AllChoices& choices_;
    FractionLaw p_;
  };
  const Source p(1);
  const Source q(101);
  EXPECT_GT(distance(p,
                     [&](AllChoices& choices) {
                       Tokens text;
                       while (text.size() < 2) {
                         FromP oracle(choices, p(text));
                         const Guesses guesses = draw(q, text, 1, choices);
                         text.push_back(review_guess(p(text), guesses.tokens[0], guesses.laws[0],
                                                     Fraction(1), oracle)
                                            .token);
                       }
                       return text;
                     }),
            1e-3);
}

// The same function with numbers of double, over a grid of random numbers: the probability of each
// token, and that of acceptance, which is 1 - TV(p, q).
TEST(Rejection, OfDoublesHasTheLawToRounding) {
  class Grid {
   public:
    explicit Grid(double u) : u_(u) {}
    bool accepts(double a, double b) {
      probability_ = b > 0.0 ? std::min(1.0, a / b) : 1.0;
      return u_ < probability_;
    }
    Token pick(const std::vector<std::pair<Token, double>>& weights) {
      weights_ = weights;
      return weights.front().first;
    }
    double probability_ = 0.0;
    double u_;
    std::vector<std::pair<Token, double>> weights_;
  };
  const TokenLaw p = TokenLaw::dense({0.1, 0.55, 0.05, 0.0, 0.3});
  for (const TokenLaw& q : {TokenLaw::dense({0.4, 0.2, 0.1, 0.2, 0.1}), TokenLaw::one_hot(4),
                            TokenLaw::sparse({{1, 0.25}, {3, 0.75}}), p, TokenLaw::one_hot(3)}) {
    std::vector<double> out(5, 0.0);
    double accepted = 0.0;
    double overlap = 0.0;
    q.for_each([&](Token token, double q_x) {
      overlap += std::min(q_x, p(token));
      if (q_x <= 0.0) return;
      Grid yes(-1.0);
      review_guess(p, token, q, 1.0, yes);
      Grid no(2.0);
      review_guess(p, token, q, 1.0, no);
      out[static_cast<std::size_t>(token)] += q_x * yes.probability_;
      accepted += q_x * yes.probability_;
      double sum = 0.0;
      for (const auto& weight : no.weights_) sum += weight.second;
      for (const auto& [other, weight] : no.weights_) {
        out[static_cast<std::size_t>(other)] += q_x * (1.0 - yes.probability_) * weight / sum;
      }
    });
    for (Token token = 0; token < 5; ++token) {
      EXPECT_NEAR(out[static_cast<std::size_t>(token)], p(token), 1e-12);
    }
    EXPECT_NEAR(accepted, overlap, 1e-12);
  }
}

TEST(TokenLaw, OfEachKindSaysItsProbabilities) {
  const TokenLaw one = TokenLaw::one_hot(2);
  EXPECT_EQ(one(2), 1.0);
  EXPECT_EQ(one(1), 0.0);
  const TokenLaw few = TokenLaw::sparse({{7, 0.25}, {3, 0.75}});
  EXPECT_EQ(few(3), 0.75);
  EXPECT_EQ(few(7), 0.25);
  EXPECT_EQ(few(5), 0.0);
  EXPECT_EQ(few(-1), 0.0);
  const TokenLaw all = TokenLaw::dense({0.5, 0.0, 0.5});
  EXPECT_EQ(all(2), 0.5);
  EXPECT_EQ(all(3), 0.0);
  EXPECT_EQ(all(-1), 0.0);
  EXPECT_TRUE(validate(one, 3));
  EXPECT_TRUE(validate(few, 8));
  EXPECT_TRUE(validate(all, 3));
  const auto message = [](const TokenLaw& law, Index size) {
    return validate(law, size).error().message;
  };
  EXPECT_EQ(message(one, 2), "[draft] law: expected tokens from 0 to 1, each once, found 2");
  EXPECT_EQ(message(TokenLaw::sparse({{1, 0.5}, {1, 0.5}}), 4),
            "[draft] law: expected tokens from 0 to 3, each once, found 1");
  EXPECT_EQ(message(TokenLaw::dense({0.5, -0.5, 1.0}), 3),
            "[draft] law: expected probabilities from 0 to 1, found -0.5");
  EXPECT_EQ(message(TokenLaw::dense({0.5, 0.25}), 2),
            "[draft] law: expected probabilities that add up to 1, found 0.75");
  EXPECT_EQ(message(TokenLaw::dense({0.5, std::nan("")}), 2),
            "[draft] law: expected probabilities from 0 to 1, found nan");
  EXPECT_FALSE(validate(TokenLaw(), 2));
}

}  // namespace
}  // namespace krait::rejection_test
