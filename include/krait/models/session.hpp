#pragma once

/// \file
/// Session: runs a model. It owns the working memory and borrows the threads.

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

/// Sizes of a session's working memory, and its hook.
struct SessionOptions {
  /// Most tokens of a run, at least 1. Longer prompts are cut into runs; results do not depend on
  /// it. Raised to max_batch and max_verify if those are larger.
  Index chunk = 256;
  Index max_batch = 8;  ///< most sequences of a run; 0 counts as 1
  /// Most tentative tokens of a run, in all its sequences together; 0: none. Each costs
  /// `ModelPlan::trail_bytes_per_token`.
  Index max_verify = 8;
  /// Most tentative sequences of a run. Each costs a state; more than max_verify are not needed and
  /// take no memory.
  Index max_verify_batch = 1;
  ActivationHook* hook = nullptr;  ///< for items without their own; must outlive the session
};

/// One sequence's part in a run.
struct RunItem {
  /// After which of the tokens logits are wanted.
  enum class Logits { none, last, all };

  std::span<const Token> tokens;  ///< at least one
  State* state = nullptr;         ///< advances by all tokens; each item has its own
  Logits logits = Logits::last;
  /// Whether the tokens may turn out to be wrong, as a draft's: `keep` can roll the last of them
  /// back.
  bool tentative = false;
  ActivationHook* hook = nullptr;  ///< called with this item's rows; null: SessionOptions::hook
  /// Whether what the hook changes is to reach the logits and not the state: every token then runs
  /// twice, in the same pass over the weights. Once without the hook, which advances the state;
  /// once with it, from the same state, which gives the logits. `keep` needs no hook. Each of the
  /// item's tokens counts twice for SessionOptions::chunk. Without hook or wanted logits: no
  /// difference.
  bool clean = false;
};

/// The logits that a run was asked for. Valid until the next run of the session.
class RunOutput {
 public:
  RunOutput(MatrixView<const float> logits, std::span<const Index> ends) noexcept
      : logits_(logits), ends_(ends) {}

  /// The item's rows of `model.vocab_padded()` floats: none, one, or one per token.
  MatrixView<const float> logits(Index item) const noexcept {
    const auto at = static_cast<std::size_t>(item);
    const Index first = item == 0 ? 0 : ends_[at - 1];
    return logits_.rows_from(first, ends_[at] - first);
  }
  /// The rows of all items, one after another.
  MatrixView<const float> logits() const noexcept { return logits_; }

 private:
  MatrixView<const float> logits_;
  std::span<const Index> ends_;  // [items] row behind the item's last
};

/// Whether every size is in its range (at most 2^20 tokens or sequences) and the working memory can
/// be counted. Errors: bad_argument, naming the first bad size.
KRAIT_API Result<void> validate(const SessionOptions& options, const Model& model);

/// Runs tokens through a model and advances the states of their sequences. The constructor
/// allocates the working memory; calls allocate only for models with attention (see `reserve`) and
/// for errors. One call at a time; several sessions may share a model, and a session may serve any
/// number of states.
///
/// Logits are rows of `model.vocab_padded()` floats, valid until the next call that returns some.
///
/// Errors of every call, which leave states, logits and drafts unchanged:
///   bad_argument        no tokens, a token outside [0, vocab_padded), sizes that do not agree,
///   more
///                       than the session has room for, a state given twice, a text beyond 2^48
///                       tokens
///   incompatible_state  a state of another model, or of none
/// Others:
///   no_memory           no room for the cache rows of the tokens (only models with attention). The
///                       states are unchanged; drafts of an earlier verification are forgotten.
///   not_finite          a logit is NaN or infinite. The message names the first layer whose output
///                       is not finite. States of tentative items are unchanged; other states have
///                       consumed the tokens and are of no use.
class KRAIT_API Session {
 public:
  /// The executor must outlive the session. Throws std::bad_alloc. Options that `validate` refuses
  /// are a contract breach.
  Session(Model model, Executor& executor, const SessionOptions& options = {});

  const Model& model() const noexcept { return model_; }

  /// What there is room for: the sizes asked for, those made larger that others need larger.
  const SessionOptions& options() const noexcept { return options_; }

  /// Advances several sequences in one pass over the weights: chunks of prompts, single steps and
  /// drafts, in any mixture. Each gets the bits that it would get alone. Without items: no logits.
  ///
  /// At most SessionOptions::chunk tokens in all (max_batch and max_verify are the limits where
  /// they are larger), as many items as the larger of max_batch and max_verify_batch,
  /// max_verify_batch of them tentative with max_verify tokens, and as many rows of logits as the
  /// larger of max_batch and max_verify.
  Result<RunOutput> run(std::span<const RunItem> items);

  /// Consumes a prompt, or its continuation, and returns the logits after its last token.
  ///
  /// `progress(tokens done, tokens in all)` is called after every chunk, under the caller's
  /// floating-point mode. If it stops or throws, the state has consumed the reported tokens; the
  /// error is `cancelled`. Its answer after the last chunk is ignored.
  Result<std::span<const float>> prefill(std::span<const Token> tokens, State& state,
                                         Progress progress = {});

  /// Consumes one token.
  Result<std::span<const float>> step(Token token, State& state);

  /// Consumes one token of each of several independent sequences in one pass over the weights:
  /// row i of the result belongs to states[i]. The states must be distinct. Without tokens: no
  /// rows.
  Result<MatrixView<const float>> step_batch(std::span<const Token> tokens,
                                             std::span<State* const> states);

  /// Runs a draft (1 … max_verify tokens) in one pass over the weights: row i of the result has the
  /// logits after tokens[i]. The state does not advance; `keep` advances it by the tokens that were
  /// right. As long as reading weights takes longer than the arithmetic, this costs little more
  /// than `step`. After not_finite there is nothing to keep.
  Result<MatrixView<const float>> verify(std::span<const Token> tokens, const State& state);

  /// The same for several drafts, up to max_verify tokens in all, each after its own state. The
  /// rows of the result follow one another. Several drafts may follow the same state. Without
  /// drafts: no rows.
  Result<MatrixView<const float>> verify_batch(std::span<const std::span<const Token>> drafts,
                                               std::span<const State* const> states);

  /// Sets `state` to what it would be after the first n tokens (0 … all) of a tentative item, or of
  /// a draft of the last verification: the bits of n steps. The recurrences run again, but no
  /// matrix product (except in blocks without their own `Block::replay`, and in runs with a hook).
  ///
  /// `state` must be the item's state as it was before the run or as the run left it, or a copy of
  /// either; with another one the error is bad_argument, and the item can still be kept. An item
  /// can be kept once, until the next tentative run; other calls may come between.
  Result<void> keep(Index n, State& state, Index item = 0);

  /// Consumes a prompt and writes the logits after every token to `logits` [tokens, vocab_padded].
  Result<void> prefill_all(std::span<const Token> tokens, State& state, MatrixView<float> logits);

  /// Consumes a prompt and writes the final norm's output for every token to `hidden`
  /// [tokens, d_model].
  Result<void> hidden(std::span<const Token> tokens, State& state, MatrixView<float> hidden);

  /// Natural logarithms of the probabilities of tokens[1 …], each given all tokens before it:
  /// log_probs[i] belongs to tokens[i + 1], so log_probs has one element less than tokens. Padding
  /// ids have no probability. The state consumes all tokens but the last.
  Result<void> score(std::span<const Token> tokens, State& state, std::span<float> log_probs);

  /// The rows of the embedding for these tokens, x [tokens, d_model]. With `run_layers` and
  /// `unembed` it is what `prefill_all` does, for tools that keep the activations between layers.
  Result<void> embed(std::span<const Token> tokens, MatrixView<float> x);

  /// Runs layers [begin, end) of the model on x [tokens, d_model], the residual stream, which
  /// becomes their output. `state` advances in these layers alone: it is of use for the same layers
  /// only. SessionOptions::hook sees the blocks. Numbers that are not finite are no error here.
  /// Layers that read the embedding too need the `tokens` of the rows.
  Result<void> run_layers(Range layers, MatrixView<float> x, State& state,
                          std::span<const Token> tokens = {});

  /// Logits [tokens, vocab_padded] of the residual stream behind the last layer, x [tokens,
  /// d_model]: final norm and head.
  Result<void> unembed(MatrixView<const float> x, MatrixView<float> logits);

  /// Makes room for runs in sequences of up to `context` tokens, so that they do not allocate. Only
  /// models with attention need it, whose working memory grows with the text; a run that needs more
  /// reserves it, in growing steps. Errors: bad_argument, no_memory.
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
    std::uint64_t after = 0;      // version of the state after all tokens
    bool is_after_saved = false;  // whether saved_ has the state after the tokens, not before them
    std::size_t slot = 0;         // index into saved_
    ActivationHook* hook = nullptr;
    bool is_open = false;  // until it is kept
  };

  Result<void> check(std::span<const Token> tokens, const State& state) const;
  Result<void> check_tokens(std::span<const Token> tokens) const;
  Result<void> check_state(Index tokens, const State& state) const;  // that it has room for them
  Result<void> check_model(const State& state) const;
  // Room for the items' tokens in the caches of their states and in tasks_.
  Result<void> make_room(std::span<const RunItem> items);
  Result<void> make_room(std::span<const Token> tokens, State& state);
  Result<void> make_room(Index tokens, State& state);
  // The logits that belong to tokens.
  std::span<const float> known(std::span<const float> row) const noexcept {
    return row.first(static_cast<std::size_t>(model_.vocab()));
  }
  // Whether `row`, the logits or final activations of `token`, is finite. If not, the error names
  // the layer, if it can be found. Row `at` of x_ is the final norm's output for the token; `state`
  // is the state after it.
  Result<void> check_finite(std::string_view what, std::span<const float> row, Index at,
                            Token token, const State& state);
  std::optional<std::string> first_bad_layer(Token token, const State& state);
  // Checks all items of a run: each with `check`, then their sums and that states are distinct.
  Result<void> check_run(std::span<const RunItem> items);
  // Runs items that were checked through the layers. Their rows, one after another, end up in x_.
  void advance(std::span<const RunItem> items);
  void advance(std::span<const Token> tokens, State& state);
  // Runs items that were checked and have room, and opens a draft for each tentative one. With
  // `on_copies`, their states are the elements of saved_; otherwise their values are saved there.
  Result<RunOutput> execute(std::span<const RunItem> items, bool on_copies);
  // The logits that the items ask for, from what advance left in x_.
  Result<RunOutput> output(std::span<const RunItem> items);
  BlockContext context(MatrixView<float> x, std::span<const SequenceRows> sequences);
  // Whether each of the item's tokens has two rows.
  bool is_pair(const RunItem& item) const noexcept {
    return item.clean && item.logits != RunItem::Logits::none &&
           (item.hook != nullptr || options_.hook != nullptr);
  }
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
  AlignedBuffer<float> beside_;         // a state for rows beside others; empty before there are
  std::vector<SequenceRows> rows_;      // [2 items]
  std::vector<Index> ends_;             // [items], for RunOutput
  std::vector<const State*> distinct_;  // [items], to find a state that is given twice
  std::vector<RunItem> batch_;          // [items], of step_batch and verify_batch
  Scratch trail_;
  std::vector<State> saved_;   // [max_verify_batch], of tentative items
  std::vector<Draft> drafts_;  // [items]
};

}  // namespace v0_1
}  // namespace krait
