#pragma once

#include "krait/loading/checkpoint.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// A SentencePiece file does not say what goes around a text; what is beside it may.
Result<SentencePieceOptions> sentencepiece_options(const Checkpoint& checkpoint);

}  // namespace v0_1
}  // namespace krait
