#pragma once

#include <vector>

#include "krait/core/error.hpp"
#include "krait/decoding/generation.hpp"
#include "krait/decoding/sequence.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// Appends what a reply lacks of the tokens that end a turn: all of them if it was cut, few or none
/// if the model wrote them itself.
void end_turn(Sequence& sequence, const std::vector<Token>& end, const std::vector<Token>& stops);

/// Half a character at the end is in the sequence but was not shown. Then the sequence is put
/// together again from the tokens whose text was.
Result<void> keep_what_was_shown(Sequence& sequence, const Sequence& asked,
                                 const GenerationResult& reply, const Tokenizer& tokenizer);

}  // namespace v0_1
}  // namespace krait
