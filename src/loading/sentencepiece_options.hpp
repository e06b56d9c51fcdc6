#pragma once

#include "krait/loading/checkpoint.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// A SentencePiece file does not say what goes around a text, and lacks tokens that were added
/// later; tokenizer_config.json and added_tokens.json may have both. Errors: bad_format,
/// bad_config.
Result<SentencePieceOptions> sentencepiece_options(const Checkpoint& checkpoint);

}  // namespace v0_1
}  // namespace krait
