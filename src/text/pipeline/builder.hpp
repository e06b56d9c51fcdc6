#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"
#include "text/models/byte_pairs.hpp"
#include "text/models/unigram.hpp"
#include "text/pipeline/pipeline.hpp"

namespace krait {
inline namespace v0_1 {

/// What a vocabulary says of a token, in the numbers of SentencePiece and GGUF.
enum class TokenType {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

/// What a tokenizer file describes, as it is found there: only types are checked. Texts must be
/// well-formed UTF-8 and outlive the build.
struct PipelineSource {
  enum class Kind { byte_pairs, unigram, word_piece, word_level, scored_pairs };
  struct Item {
    std::string_view text;
    Token id = 0;
  };

  Kind kind = Kind::byte_pairs;
  const char* vocab_name = "model.vocab";  ///< for messages
  const char* merges_name = "model.merges";
  std::vector<Item> items;  ///< the vocabulary; a text has one id but for Unigram's
  std::vector<AddedToken> added;
  std::vector<std::pair<std::string_view, std::string_view>> merges;  ///< by rank
  std::vector<double> scores;                                         ///< by id
  std::vector<TokenType> types;  ///< by id, of SentencePiece; or empty
  std::optional<Token> unknown_id;
  std::optional<std::string_view> unknown;  ///< or its text
  std::string prefix, suffix;               ///< of characters or words that go on; of last ones
  std::string word_prefix;                  ///< of words that begin, of WordPiece
  std::size_t longest_word = 100;
  bool falls_back_to_bytes = false, fuses_unknown = false, ignores_merges = false;

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
};

/// Builds the stages; what is put around texts is left to the caller. Errors: bad_format,
/// unsupported.
Result<std::unique_ptr<PipelineParts>> build_pipeline(PipelineSource source);

inline constexpr Index max_vocab = Index{1} << 24;
inline constexpr std::size_t max_token_bytes = 1024;  ///< added tokens, and those of tries

}  // namespace v0_1
}  // namespace krait
