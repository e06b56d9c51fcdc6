#pragma once

/// \file
/// DraftModel: a model that guesses, and reviews the guesses of others.

#include <string>
#include <vector>

#include "krait/decoding/drafter.hpp"
#include "krait/models/session.hpp"

namespace krait {
inline namespace v0_1 {

/// A model with a state that follows a text and what is tentatively put behind it. A state cannot
/// be rolled back, so one is kept from before every pass since the text was last observed: the
/// models are small. What of a pass turns out right is kept by the session; what lies between two
/// of the states is run again, at the head of the next pass.
class DraftModel {
 public:
  /// `level` tells its random numbers from those of others.
  DraftModel(DraftModelOptions options, Executor& executor, Index level);
  DraftModel(const DraftModel& other);
  DraftModel& operator=(const DraftModel&) = delete;

  const std::string& name() const noexcept { return name_; }
  const Model& model() const noexcept { return session_.model(); }

  Result<void> begin(const DraftSetting& setting);
  void observe(std::span<const Token> tokens);
  /// Tokens of the text that it has not consumed.
  Index backlog() const noexcept { return static_cast<Index>(text_); }
  Result<void> catch_up();

  /// Reviews the guesses in `draft` from `from` on, of which there may be none: those that are
  /// right stay, behind them comes a token of its own.
  Result<void> review(Draft& draft, Index from, double lenience);

  /// Most guesses of a review.
  static constexpr Index most_guesses = 32;

 private:
  struct Checkpoint {
    State state;
    std::size_t consumed = 0;  // of tokens_
  };

  Error named(Error error) const;
  // Puts tokens behind the text in the place of those that were there.
  void follow(std::span<const Token> ahead);
  // A copy of the last checkpoint, to be advanced.
  Checkpoint& push();
  void pop_beyond(std::size_t agreed) noexcept;
  // Drops what lies before the last checkpoint.
  void rebase();
  Result<void> consume(std::size_t end);
  // The token at a place of the text, drawn from its logits, with the law of it; and what becomes
  // of a guess for it.
  void draw(std::span<const float> logits, std::size_t place, Draft& draft);
  bool judge(std::span<const float> logits, std::size_t place, double lenience, Draft& draft,
             std::size_t guess);
  void own(Token token, TokenLaw law, std::span<const float> logits, Draft& draft) const;
  Index position(std::size_t place) const noexcept {
    return setting_.position + origin_ + static_cast<Index>(place);
  }

  std::string name_;
  Executor* executor_;
  Index level_;
  Session session_;
  DraftSetting setting_;
  Sampler sampler_;
  // The text behind what the first checkpoint has consumed, then what is tentatively behind it.
  std::vector<Token> tokens_;
  std::size_t text_ = 0;  // how many of them are text
  Index origin_ = 0;      // tokens of the text before them
  std::vector<Checkpoint> checkpoints_;
  std::size_t live_ = 1;  // checkpoints in use; more are kept for their memory
};

}  // namespace v0_1
}  // namespace krait
