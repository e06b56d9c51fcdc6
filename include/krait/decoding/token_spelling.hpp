#pragma once

/// \file
/// tokens_spelling: how a text may stand among tokens.

#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// Sequences of tokens in which a text is spelled out: every token that has it in its bytes, and
/// every token that ends with the beginning of it, followed by the tokens of the rest. What
/// `SamplerOptions::dry_sequence_breakers` takes, as llama.cpp finds them
/// (get_overlapping_token_sequences). Special tokens spell nothing. Errors: bad_argument (no text,
/// or those of `Tokenizer::encode`).
KRAIT_API Result<std::vector<std::vector<Token>>> tokens_spelling(const Tokenizer& tokenizer,
                                                                  std::string_view text);

}  // namespace v0_1
}  // namespace krait
