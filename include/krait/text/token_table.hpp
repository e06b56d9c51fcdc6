#pragma once

/// \file
/// TokenTable: a vocabulary as GGUF files store it.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// The keys `tokenizer.ggml.…` of a GGUF file. What a file does not have is left empty; then the
/// defaults of llama.cpp for that kind of model hold.
struct TokenTable {
  /// "gpt2": byte-level BPE; "llama": SentencePiece BPE; "t5": SentencePiece Unigram; "bert":
  /// WordPiece.
  std::string model;
  std::string pre;                  ///< how "gpt2" cuts texts, such as "llama-bpe"
  std::vector<std::string> tokens;  ///< by id
  std::vector<float> scores;        ///< by id, or empty
  /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; by id, or empty: all normal.
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;         ///< "left right", of "gpt2"
  std::string precompiled_charsmap;        ///< of "t5"
  std::optional<Token> bos, eos, unknown;  ///< `bos_token_id` …
  std::optional<Token> separator;          ///< `seperator_token_id`
  /// Of other keys `…_token_id`, such as "eot" or "fim_pre"; the tokenizer has no use for them.
  std::vector<std::pair<std::string, Token>> more_marks;
  std::optional<bool> add_bos, add_eos, add_sep;  ///< `add_bos_token` …
  std::optional<bool> add_space_prefix, remove_extra_whitespaces;
  std::optional<bool> lowercase, strip_accents;  ///< `normalizer.lowercase` …, of "bert"
};

/// Makes the tokenizer of a vocabulary; it gives the ids llama.cpp gives. Errors: bad_format, with
/// the key; unsupported (a `model` or `pre` that is not known, by name).
KRAIT_API Result<std::shared_ptr<const Tokenizer>> read_token_table(const TokenTable& table);

}  // namespace v0_1
}  // namespace krait
