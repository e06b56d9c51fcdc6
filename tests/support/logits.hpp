#pragma once

/// \file
/// What models say of a few tokens.

#include <span>
#include <vector>

#include "krait/models/session.hpp"

namespace krait::test {

/// The logits behind the last token.
inline std::vector<float> last_logits(const Model& model, std::span<const Token> tokens) {
  SerialExecutor serial;
  Session session(model, serial);
  State state = model.initial_state();
  const auto logits = session.prefill(tokens, state).value();
  return {logits.begin(), logits.end()};
}

/// The logits behind every token, [tokens, vocab_padded].
inline std::vector<float> all_logits(Session& session, std::span<const Token> tokens,
                                     State& state) {
  const Index vocab = session.model().vocab_padded();
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(vocab));
  session.prefill_all(tokens, state, {logits.data(), std::ssize(tokens), vocab}).value();
  return logits;
}

/// As above, of a text from its beginning.
inline std::vector<float> all_logits(const Model& model, std::span<const Token> tokens,
                                     Executor& executor, const SessionOptions& options = {}) {
  Session session(model, executor, options);
  State state = model.initial_state();
  return all_logits(session, tokens, state);
}

inline std::vector<float> all_logits(const Model& model, std::span<const Token> tokens,
                                     const SessionOptions& options = {}) {
  SerialExecutor serial;
  return all_logits(model, tokens, serial, options);
}

}  // namespace krait::test
