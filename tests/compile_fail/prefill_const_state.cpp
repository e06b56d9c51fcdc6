// error: discards qualifiers|no matching
#include "krait/models/session.hpp"

#ifdef KRAIT_WRONG
using GivenState = const krait::State;
#else
using GivenState = krait::State;
#endif

void use(krait::Session& session, GivenState& state, std::span<const krait::Token> tokens) {
  session.prefill(tokens, state).value();
}
