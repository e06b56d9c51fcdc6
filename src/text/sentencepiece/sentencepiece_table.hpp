#pragma once

#include <string_view>

#include "krait/text/token_table.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// The vocabulary of a SentencePiece file as GGUF files have it: "llama" of BPE, "t5" of Unigram.
/// It gives the ids of the file, but where user-defined symbols or control tokens are spelled out
/// in a text: llama.cpp puts a space before what follows them. Errors: those of read_sentencepiece;
/// unsupported (what llama.cpp's tokenizers do not do).
KRAIT_API Result<TokenTable> sentencepiece_table(std::string_view model,
                                                 const SentencePieceOptions& options);

}  // namespace v0_1
}  // namespace krait
