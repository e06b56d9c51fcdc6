#pragma once

/// \file
/// Drafter: guesses how a text goes on.

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/decoding/draft.hpp"
#include "krait/decoding/sampler.hpp"
#include "krait/models/model.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// How the tokens are drawn that a drafter guesses.
struct DraftSetting {
  SamplerOptions sampler = {};  ///< those of the text
  Acceptance acceptance = Acceptance::match;
  Index position = 0;  ///< of the first token that is observed
};

/// Guesses for one text at a time, which it follows token by token. An application's own:
///
///     // The token before, again.
///     class Again final : public Drafter {
///      public:
///       std::string_view name(Index) const noexcept override { return "again"; }
///       Result<void> begin(const DraftSetting&) override { return {}; }
///       Result<void> observe(std::span<const Token> tokens) override {
///         if (!tokens.empty()) last_ = tokens.back();
///         return {};
///       }
///       Result<void> propose(Draft& draft, Index most, Index) override {
///         for (Index i = 0; i < most; ++i) draft.append(last_, {});
///         return {};
///       }
///       std::unique_ptr<Drafter> clone() const override { return std::make_unique<Again>(*this); }
///      …
///     };
class KRAIT_API Drafter {
 public:
  virtual ~Drafter();

  /// How many drafters there are in it, of which the first is the largest.
  virtual Index levels() const noexcept { return 1; }
  virtual std::string_view name(Index level = 0) const noexcept = 0;

  /// Begins an empty text.
  virtual Result<void> begin(const DraftSetting& setting) = 0;

  /// The text goes on with these tokens, a prompt or what was accepted.
  virtual Result<void> observe(std::span<const Token> tokens) = 0;

  /// Guesses at most `most` more tokens, behind the text and the tokens that the draft has already,
  /// and appends them: none where it has no idea, or fewer than it could, if another call gives
  /// more. `level` says which of the drafters is to do it.
  virtual Result<void> propose(Draft& draft, Index most, Index level = 0) = 0;

  /// Tokens of the text that a level has not looked at yet: it has to before it can guess.
  virtual Index backlog(Index level) const noexcept;
  /// Looks at all of the text, so that the next guess costs no more than others.
  virtual Result<void> catch_up();

  /// One that guesses as this one would, on its own.
  virtual std::unique_ptr<Drafter> clone() const = 0;
};

/// What an n-gram drafter looks for.
struct NgramOptions {
  Index least = 3;          ///< shortest suffix of the text that counts, at least 1
  Index history = 1 << 16;  ///< tokens it remembers, at least 2; about 150 bytes each
};

/// Finds the longest suffix of the text that stands further in front too, and guesses what followed
/// it there, the last time it was found (a suffix automaton: time per token does not grow). Where
/// that runs into the end of the text, it goes on with its own guess, so that a period is continued
/// for any length. Errors: bad_argument.
KRAIT_API Result<std::unique_ptr<Drafter>> ngram_drafter(const NgramOptions& options = {});

/// What Max-Gram looks for.
struct MaxGramOptions {
  Index history = 1 << 16;  ///< tokens it remembers, at least 2
  /// For each token the one that follows it most often, of a large text; -1: unknown. Fills up a
  /// draft where the text itself has nothing to say.
  std::vector<Token> bigrams = {};
};

/// The statistical bottom of Cascade Speculative Drafting (Chen et al. 2024, arXiv:2312.11462,
/// Max-Gram): the longest suffix that stands further in front, of however few tokens, at its first
/// place; what followed it there; and the same again behind that, until the draft is full. Errors:
/// bad_argument.
KRAIT_API Result<std::unique_ptr<Drafter>> maxgram_drafter(const MaxGramOptions& options = {});

/// For each token below `vocab` the one that most often follows it in a text, -1 if none does; for
/// `MaxGramOptions::bigrams`. Errors: bad_argument.
KRAIT_API Result<std::vector<Token>> bigram_table(std::span<const Token> text, Index vocab);

/// A model among the drafters.
struct DraftModelOptions {
  Model model;
  std::string name;
};

/// How the levels of a cascade work together.
struct CascadeOptions {
  /// K of the paper without its first row, in increments: when model i reviews, it wants
  /// increments[i][j] tokens more from drafter j, for every j > i. As many rows and columns as
  /// there are drafters. Empty: 4 tokens of the drafter below. (The first row, the target's, is
  /// `SpeculationOptions::shares`.)
  std::vector<std::vector<Index>> increments = {};
  /// At least 1: how much more probable a guess of the level below is taken for than it is, in
  /// reviews by models of the cascade. Never in that by the target, and only where there is
  /// something to review.
  double lenience = 1.0;
};

/// Models, the largest first, each of which reviews what those below it guess (the vertical
/// cascade), and at the bottom a drafter that needs no model, which may be null: then the last
/// model guesses token by token, and a single model is the drafter of plain speculative decoding.
/// Whoever asks chooses by `level` who guesses which position (the horizontal cascade).
///
/// Each call of `propose` is one review. It runs the guesses through the model in one pass, keeps
/// those that are right by the rule of the setting and adds a token of the model's own. For
/// `Acceptance::match` a model draws with the random numbers that the target will use for the same
/// position, so that where their laws agree their tokens mostly do. For `Acceptance::rejection` it
/// draws with its own, and says the law: without lenience the reviewer's own, with lenience l the
/// law of what an l times too kind review puts out,
///     min(q(x), l p(x)) + (1 - Σ min(q, l p)) · max(0, l p(x) - q(x)) / Σ max(0, l p - q).
/// The sampler's penalties and the application's own steps are left out of what a model draws.
///
/// Each model keeps a state per pass since the last token that was observed. Errors: bad_argument
/// (no model, vocabularies of different sizes, a lenience below 1 or where nothing is reviewed,
/// increments that fit no such cascade).
KRAIT_API Result<std::unique_ptr<Drafter>> cascade_drafter(std::vector<DraftModelOptions> models,
                                                           std::unique_ptr<Drafter> bottom,
                                                           Executor& executor,
                                                           const CascadeOptions& options = {});

/// A drafter of another vocabulary. Only texts pass between the two: what is known of the text is
/// given to the drafter in tokens of its own, and what it guesses becomes tokens of the target. So
/// a model of subwords drafts for one of bytes (Wang et al. 2024, "MambaByte", arXiv:2401.13660,
/// section 3.3; that paper accepts a byte among the target's three most probable, which changes the
/// distribution and is not done here), one of bytes for one of subwords, and subwords for others.
///
/// The drafter is asked for the tokens that it thinks most probable; a guess of a determined token
/// is exact under every rule of acceptance. It goes on from the last place where a word begins,
/// with its own tokens if they spell what follows that place, else with those its tokenizer makes
/// of it. Special tokens end a guess, and those of the text are not shown to the drafter. Neither
/// tokenizer may be null.
KRAIT_API std::unique_ptr<Drafter> retokenizing_drafter(std::unique_ptr<Drafter> drafter,
                                                        std::shared_ptr<const Tokenizer> own,
                                                        std::shared_ptr<const Tokenizer> target);

/// Whether a drafter's tokens are those of the model it drafts for: as many, with the same bytes.
/// `name` says in the error whose they are. Errors: bad_argument.
KRAIT_API Result<void> check_same_tokens(const Tokenizer& drafter, const Tokenizer& target,
                                         std::string_view name);

}  // namespace v0_1
}  // namespace krait
