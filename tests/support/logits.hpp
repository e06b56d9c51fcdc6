#pragma once

/// \file
/// What models say of a few tokens.

#include <gtest/gtest.h>

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
inline std::vector<float> all_logits(const Model& model, std::span<const Token> tokens,
                                     Executor& executor) {
  Session session(model, executor);
  State state = model.initial_state();
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(model.vocab_padded()));
  EXPECT_TRUE(session.prefill_all(tokens, state,
                                  {logits.data(), std::ssize(tokens), model.vocab_padded()}));
  return logits;
}

}  // namespace krait::test
