#pragma once

/// \file
/// Session: runs a model. Holds the working memory and borrows the threads.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/core/scratch.hpp"
#include "krait/models/model.hpp"

namespace krait {
inline namespace v0_1 {

/// Sizes of a session's working memory, and who watches it.
struct SessionOptions {
  /// Tokens that one run takes, at least 1; longer prompts are cut. Results do not depend on it.
  /// Room is made for max_batch and for max_verify tokens, too.
  Index chunk = 256;
  Index max_batch = 8;  ///< sequences that one run takes; there is room for one always
  /// Tentative tokens that one run takes, of all its sequences together; 0: none. Each costs
  /// `ModelPlan::trail_bytes_per_token`.
  Index max_verify = 8;
  /// Tentative sequences that one run takes; each costs a state. More than max_verify are never
  /// needed, so no memory is held for them.
  Index max_verify_batch = 1;
  ActivationHook* hook = nullptr;  ///< of every item without its own; must outlive the session
};

/// One sequence's part in a run.
struct RunItem {
  /// After which of the tokens logits are wanted.
  enum class Logits { none, last, all };

  std::span<const Token> tokens;  ///< at least one
  State* state = nullptr;         ///< advanced by all of them; of no other item
  Logits logits = Logits::last;
  /// Whether the tokens may turn out to be wrong: `keep` can take the last of them back.
  bool tentative = false;
  ActivationHook* hook = nullptr;  ///< sees this item's rows; null: SessionOptions::hook
};

/// The logits that a run was asked for, until the next run of the session.
class RunOutput {
 public:
  RunOutput(MatrixView<const float> logits, std::span<const Index> ends) noexcept
      : logits_(logits), ends_(ends) {}

  /// Rows of `model.vocab_padded()` floats: none, one, or one per token of the item.
  MatrixView<const float> logits(Index item) const noexcept {
    const auto at = static_cast<std::size_t>(item);
    const Index first = item == 0 ? 0 : ends_[at - 1];
    return logits_.rows_from(first, ends_[at] - first);
  }
  /// Of all items, one after another.
  MatrixView<const float> logits() const noexcept { return logits_; }

 private:
  MatrixView<const float> logits_;
  std::span<const Index> ends_;  // [items] row behind the item's last
};

/// Whether every size is in its range (at most 2^20 tokens or sequences) and their working memory
/// can be counted; the error names the first that is not.
KRAIT_API Result<void> validate(const SessionOptions& options, const Model& model);

/// Advances states of one model. Its memory is allocated by the constructor; no call allocates
/// after that, unless it fails. One call at a time; any number of sessions may share a model, and
/// any number of states may take turns in a session.
///
/// Logits are rows of `model.vocab_padded()` floats, valid until the next call that gives some:
/// copy what is to be kept.
///
/// Errors of every call: bad_argument (no tokens, a token that is not in [0, vocab_padded), sizes
/// that do not agree, more than the session has room for, a state taken twice, a text beyond 2^48
/// tokens), incompatible_state (a state of another model, or of none). They are found before
/// anything is touched: states, logits and drafts are as they were.
///
/// no_memory: no room for the cache rows of the tokens (only models with attention). The states are
/// as they were; drafts that `verify` would have replaced are forgotten.
///
/// not_finite: a logit that is NaN or infinite. The message names the first layer whose output is
/// not finite. The states have then consumed the tokens, and what they hold is of no use; those of
/// tentative items are as they were before.
class KRAIT_API Session {
 public:
  /// The executor must outlive the session. Throws std::bad_alloc; options that `validate` refuses
  /// are a broken contract.
  Session(Model model, Executor& executor, const SessionOptions& options = {});

  const Model& model() const noexcept { return model_; }

  /// What there is room for: the sizes asked for, those made larger that others need larger.
  const SessionOptions& options() const noexcept { return options_; }

  /// Advances several sequences in one pass over the weights: chunks of prompts, single steps and
  /// drafts, in any mixture. Each gets the bits that it would get alone. Of no items: no logits.
  ///
  /// At most SessionOptions::chunk tokens in all (max_batch and max_verify are the limits where
  /// they are larger), as many items as the larger of max_batch and max_verify_batch,
  /// max_verify_batch of them tentative with max_verify tokens, and as many rows of logits as the
  /// larger of max_batch and max_verify.
  Result<RunOutput> run(std::span<const RunItem> items);

  /// Consumes a prompt, or its continuation, and returns the logits after its last token.
  ///
  /// `progress` (tokens done, tokens in all) is told after every chunk, under the caller's own
  /// floating-point mode. If it stops or throws, the state has consumed what was reported; the
  /// error is `cancelled`. What it answers after the last chunk stops nothing: the logits are
  /// there.
  Result<std::span<const float>> prefill(std::span<const Token> tokens, State& state,
                                         Progress progress = {});

  /// Consumes one token.
  Result<std::span<const float>> step(Token token, State& state);

  /// Consumes one token of each of several independent sequences in one pass over the weights:
  /// row i of the result belongs to states[i]. The states must be distinct. Of no tokens: no rows.
  Result<MatrixView<const float>> step_batch(std::span<const Token> tokens,
                                             std::span<State* const> states);

  /// Runs tokens (1 … max_verify) that may turn out to be wrong, in one pass over the weights: row
  /// i of the result are the logits after tokens[i]. The state does not advance until `keep` says
  /// how many of them are right. Costs little more than `step` as long as reading weights, not
  /// arithmetic, is what takes time. After not_finite there is nothing to keep.
  Result<MatrixView<const float>> verify(std::span<const Token> tokens, const State& state);

  /// The same for drafts of several sequences, max_verify tokens in all, each after its own state;
  /// the rows of the result follow one another. The same state may take part several times. Of no
  /// drafts: no rows.
  Result<MatrixView<const float>> verify_batch(std::span<const std::span<const Token>> drafts,
                                               std::span<const State* const> states);

  /// Makes of a tentative item, or of a draft of the last verification, what its first n tokens
  /// (0 … all) would have made of the state, with the bits of n steps. Runs the recurrences again,
  /// no matrix product (blocks without their own `Block::replay`, and runs with a hook, excepted).
  ///
  /// `state` holds what the run left of it, or what it was before, or is a copy of one of them; any
  /// other is an error (bad_argument), after which the item can still be kept. Once per item: then,
  /// and when another tentative run begins, the rest of it is forgotten. Other calls may lie
  /// between.
  Result<void> keep(Index n, State& state, Index item = 0);

  /// Consumes a prompt and writes the logits after every token to `logits` [tokens, vocab_padded].
  Result<void> prefill_all(std::span<const Token> tokens, State& state, MatrixView<float> logits);

  /// Consumes a prompt and writes the final norm's output for every token to `hidden`
  /// [tokens, d_model].
  Result<void> hidden(std::span<const Token> tokens, State& state, MatrixView<float> hidden);

  /// Natural logarithms of the probabilities that the model gives to tokens[1 …], each after all
  /// before it: log_probs[i] belongs to tokens[i + 1], so log_probs has one element less. Padding
  /// rows of the head take no probability. Consumes all tokens but the last.
  Result<void> score(std::span<const Token> tokens, State& state, std::span<float> log_probs);

  /// Makes room for runs of sequences of up to so many tokens, so that none of them allocates; of
  /// use to models with attention, whose working memory grows with the text. A run does it itself,
  /// ever more ahead, where it was not done. Errors: bad_argument, no_memory.
  Result<void> reserve(Index context);

  /// Bytes of working memory.
  std::size_t bytes() const noexcept;

 private:
  // A tentative item: rows [first, first + count) of the trail.
  struct Draft {
    Index first = 0;
    Index count = 0;
    Index position = 0;           // of the state before it
    std::uint64_t before = 0;     // version of that state
    std::uint64_t after = 0;      // version of the state behind all tokens
    bool is_after_saved = false;  // what saved_ has: the state behind the tokens, or before them
    std::size_t slot = 0;         // of saved_
    ActivationHook* hook = nullptr;
    bool is_open = false;  // until it is kept
  };

  Result<void> check(std::span<const Token> tokens, const State& state) const;
  Result<void> check_model(const State& state) const;
  // Room for the items' tokens in the caches of their states and in tasks_.
  Result<void> make_room(std::span<const RunItem> items);
  Result<void> make_room(std::span<const Token> tokens, State& state);
  // The logits that belong to tokens.
  std::span<const float> known(std::span<const float> row) const noexcept {
    return row.first(static_cast<std::size_t>(model_.vocab()));
  }
  // Whether `row`, made of `token`, is finite; if not, the error names the layer where it can be
  // told. Row `at` of x_ is what the final norm made of the token, unless `row` is that itself;
  // `state` is the one after the token.
  Result<void> check_finite(std::string_view what, std::span<const float> row, Index at,
                            Token token, const State& state);
  std::optional<std::string> first_bad_layer(Token token, const State& state);
  // What run lets pass, beyond `check` of each item.
  Result<void> check_run(std::span<const RunItem> items);
  // Runs items that were checked: their rows, one after another, through the layers, into x_.
  void advance(std::span<const RunItem> items);
  void advance(std::span<const Token> tokens, State& state);
  // Runs items that were checked and have room, and opens a draft for each that is tentative. The
  // states of `on_copies` are saved_ themselves, in order; of others the value before goes there.
  Result<RunOutput> execute(std::span<const RunItem> items, bool on_copies);
  // The logits that the items ask for, of what advance left in x_.
  Result<RunOutput> output(std::span<const RunItem> items);
  BlockContext context(MatrixView<float> x, std::span<const SequenceRows> sequences);
  void forget_drafts() noexcept;
  Draft* draft_of(Index item) noexcept;
  // Logits of rows [first, first + logits.rows) of the chunk.
  void head(Index first, MatrixView<float> logits);

  Model model_;
  Executor* executor_;
  SessionOptions options_;
  Scratch scratch_;
  AlignedBuffer<float> workspace_;
  AlignedBuffer<float> tasks_;  // [threads, task_floats_]
  Index task_floats_ = 0;
  Index context_ = 0;                   // tokens of a sequence that tasks_ has room for
  AlignedBuffer<float> x_;              // [chunk, d_model]
  AlignedBuffer<float> logits_;         // [max(max_batch, max_verify), vocab_padded]
  std::vector<SequenceRows> rows_;      // [items]
  std::vector<Index> ends_;             // [items], for RunOutput
  std::vector<const State*> distinct_;  // [items], to find a state that is given twice
  std::vector<RunItem> batch_;          // [items], of step_batch and verify_batch
  Scratch trail_;
  std::vector<State> saved_;   // [max_verify_batch], of tentative items
  std::vector<Draft> drafts_;  // [items]
};

}  // namespace v0_1
}  // namespace krait
