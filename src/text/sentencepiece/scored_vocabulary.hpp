#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"
#include "text/pipeline/builder.hpp"

namespace krait {
inline namespace v0_1 {

/// A vocabulary with scores, as SentencePiece files and GGUF files of their models hold it.
struct ScoredVocabulary {
  struct Piece {
    std::string_view text;
    float score = 0;
    TokenType type = TokenType::normal;
  };
  const char* name = "pieces";  ///< for messages
  std::vector<Piece> pieces;    ///< by id
  bool is_unigram = false;
  bool falls_back_to_bytes = false;
  /// User-defined symbols are taken out of a text first, as llama.cpp does it; else they are found
  /// within words.
  bool cuts_user_defined = false;
  std::string_view charsmap;
  Normalizer::SentencePiece spaces;
  std::optional<Token> unknown;
  TextEnds ends;
};

/// Errors: bad_format, with the place.
Result<std::shared_ptr<const Tokenizer>> make_scored_tokenizer(ScoredVocabulary vocabulary);

}  // namespace v0_1
}  // namespace krait
