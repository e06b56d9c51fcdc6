#pragma once

/// \file
/// Session: runs a model. Holds the working memory and borrows the threads.

#include <span>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/core/scratch.hpp"
#include "krait/models/model.hpp"

namespace krait::inline v0_1 {

/// Sizes of a session's working memory.
struct SessionOptions {
  Index chunk = 256;    ///< tokens of a prompt that run at once; results do not depend on it
  Index max_batch = 8;  ///< sequences that `step_batch` takes at once
};

/// Advances states of one model. Its memory is allocated by the constructor; no call allocates
/// after that. One call at a time; any number of sessions may share a model, and any number of
/// states may take turns in a session.
///
/// Logits are rows of `model.vocab_padded()` floats, valid until the next call.
///
/// Contracts (ContractError): tokens in [0, vocab_padded), states of this model, sizes that agree,
/// prompts that are not empty.
class KRAIT_API Session {
 public:
  /// The executor must outlive the session.
  Session(Model model, Executor& executor, const SessionOptions& options = {});

  const Model& model() const noexcept { return model_; }

  /// Consumes a prompt, or its continuation, and returns the logits after its last token.
  std::span<const float> prefill(std::span<const Token> tokens, State& state);

  /// The same, telling `progress` (tokens done, tokens in all) after every chunk. If that stops
  /// it, the result is the error `cancelled` and the state has consumed what was reported.
  Result<std::span<const float>> prefill(std::span<const Token> tokens, State& state,
                                         Progress progress);

  /// Consumes one token.
  std::span<const float> step(Token token, State& state);

  /// Consumes one token of each of several independent sequences in one pass over the weights:
  /// row i of the result belongs to states[i]. The states must be distinct.
  MatrixView<const float> step_batch(std::span<const Token> tokens, std::span<State* const> states);

  /// Consumes a prompt and writes the logits after every token to `logits` [tokens, vocab_padded].
  void prefill_all(std::span<const Token> tokens, State& state, MatrixView<float> logits);

  /// Consumes a prompt and writes the final norm's output for every token to `hidden`
  /// [tokens, d_model].
  void hidden(std::span<const Token> tokens, State& state, MatrixView<float> hidden);

  /// Natural logarithms of the probabilities that the model gives to tokens[1 …], each after all
  /// before it: log_probs[i] belongs to tokens[i + 1], so log_probs has one element less. Padding
  /// rows of the head take no probability. Consumes all tokens but the last.
  void score(std::span<const Token> tokens, State& state, std::span<float> log_probs);

  /// Bytes of working memory.
  std::size_t bytes() const noexcept;

 private:
  void check(std::span<const Token> tokens, const State& state) const;
  // Runs one chunk through the layers; afterwards x_ holds the residual stream.
  void forward(std::span<const Token> tokens, std::span<const SequenceRows> sequences);
  void forward(std::span<const Token> tokens, State& state);
  BlockContext context(MatrixView<float> x, std::span<const SequenceRows> sequences);
  // Logits of rows [first, first + logits.rows) of the chunk.
  void head(Index first, MatrixView<float> logits);

  Model model_;
  Executor* executor_;
  SessionOptions options_;
  Scratch scratch_;
  AlignedBuffer<float> workspace_;
  AlignedBuffer<float> x_;       // [chunk, d_model]
  AlignedBuffer<float> logits_;  // [max_batch, vocab_padded]
  std::vector<SequenceRows> rows_;
};

}  // namespace krait::inline v0_1
