#pragma once

#include "krait/core/metadata.hpp"
#include "krait/text/token_table.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether a tokenizer.json is one that was made of SentencePiece's BPE: pairs of characters, and
/// bytes for what has none.
bool has_scored_pairs(const Metadata& tokenizer);

/// Its vocabulary, of ids below `rows`, as GGUF files have it, with a score for each rank in place
/// of merges. llama.cpp merges any two neighbours that make a token: the merges must be all of
/// these, those of one token one after another. Errors: unsupported, with what is otherwise;
/// bad_format.
Result<TokenTable> scored_table_of(const Metadata& tokenizer, Index rows);

}  // namespace v0_1
}  // namespace krait
