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
  /// Tokens of a prompt that run at once, at least 1; results do not depend on it. A batch and a
  /// verification are one run, too: room is made for the largest of the three.
  Index chunk = 256;
  Index max_batch = 8;  ///< sequences that `step_batch` takes at once; there is room for one always
  /// Tokens that one verification takes, of all its sequences together; 0: none. Each costs
  /// `ModelPlan::trail_bytes_per_token`.
  Index max_verify = 8;
  /// Sequences that one verification takes; each costs a state. More than max_verify are never
  /// needed, so no memory is held for them.
  Index max_verify_batch = 1;
  RoutingObserver* routing =
      nullptr;  ///< told of every choice of experts; must outlive the session
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
/// not_finite: a logit that is NaN or infinite. The message names the first layer whose output is
/// not finite. The states have then consumed the tokens, and what they hold is of no use.
class KRAIT_API Session {
 public:
  /// The executor must outlive the session. Throws std::bad_alloc; options that `validate` refuses
  /// are a broken contract.
  Session(Model model, Executor& executor, const SessionOptions& options = {});

  const Model& model() const noexcept { return model_; }

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

  /// Advances the state by the first n tokens (0 … all) of draft `draft` of the last verification,
  /// to the bits that n steps would have given. Runs the recurrences again, no matrix product
  /// (blocks without their own `Block::replay` excepted). Once per draft. Other calls may lie
  /// between, but the state, or the copy of it that is given, must hold what was verified: another
  /// position or other bits are an error (bad_argument), after which the draft can still be kept.
  Result<void> keep(Index n, State& state, Index draft = 0);

  /// Consumes a prompt and writes the logits after every token to `logits` [tokens, vocab_padded].
  Result<void> prefill_all(std::span<const Token> tokens, State& state, MatrixView<float> logits);

  /// Consumes a prompt and writes the final norm's output for every token to `hidden`
  /// [tokens, d_model].
  Result<void> hidden(std::span<const Token> tokens, State& state, MatrixView<float> hidden);

  /// Natural logarithms of the probabilities that the model gives to tokens[1 …], each after all
  /// before it: log_probs[i] belongs to tokens[i + 1], so log_probs has one element less. Padding
  /// rows of the head take no probability. Consumes all tokens but the last.
  Result<void> score(std::span<const Token> tokens, State& state, std::span<float> log_probs);

  /// Bytes of working memory.
  std::size_t bytes() const noexcept;

 private:
  // A draft of the last verification: rows [first, first + count) of the trail.
  struct Draft {
    Index first = 0;
    Index count = 0;
    Index position = 0;          // of the state before it
    std::uint64_t checksum = 0;  // of that state's bits
    bool is_open = false;        // until it is kept
  };

  Result<void> check(std::span<const Token> tokens, const State& state) const;
  Result<void> check_model(const State& state) const;
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
  // Runs one chunk through the layers; afterwards x_ holds the residual stream.
  void forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences,
               Trail trail = {});
  void forward(std::span<const Token> tokens, State& state);
  BlockContext context(MatrixView<float> x, std::span<const SequenceRows> sequences,
                       Trail trail = {});
  std::span<float> verified(Index draft) noexcept;
  // Logits of rows [first, first + logits.rows) of the chunk.
  void head(Index first, MatrixView<float> logits);

  Model model_;
  Executor* executor_;
  SessionOptions options_;
  Scratch scratch_;
  AlignedBuffer<float> workspace_;
  AlignedBuffer<float> x_;       // [chunk, d_model]
  AlignedBuffer<float> logits_;  // [max(max_batch, max_verify), vocab_padded]
  std::vector<SequenceRows> rows_;
  std::vector<const State*> distinct_;  // [max_batch], to find a state that is given twice
  Scratch trail_;
  AlignedBuffer<float> verified_;  // [max_verify_batch, state]: states after all of their drafts
  std::vector<Draft> drafts_;
  std::vector<Token> tokens_;  // [max_verify], the drafts one after another
};

}  // namespace v0_1
}  // namespace krait
