#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/models/token_model.hpp"
#include "text/models/token_trie.hpp"

namespace krait {
inline namespace v0_1 {

struct WordPieceParts {
  std::vector<std::pair<std::string_view, Token>> tokens;
  std::optional<Token> unknown;
  std::string word_prefix;         ///< stands before tokens that begin a word; "" or U+2581
  std::string continuing_prefix;   ///< stands before the other tokens, such as "##"
  std::size_t longest_word = 100;  ///< in characters; longer ones are unknown
  bool takes_whole_words = false;  ///< WordLevel: a word is one token
  SpecialTokens special;
};

/// WordPiece: from the begin of a word on always the longest token; a word that cannot be taken
/// apart so is unknown. WordLevel: a word is one token or unknown.
class WordPiece final : public TokenModel {
 public:
  explicit WordPiece(WordPieceParts parts);

  Result<void> encode(std::string_view word, bool is_plain, ModelScratch& scratch,
                      std::vector<Token>& tokens) const override;

 private:
  TokenTrie::Node behind(std::string_view prefix) const noexcept;
  bool append(std::string_view word, bool is_plain, std::vector<Token>& tokens) const;

  TokenTrie trie_;
  WordPieceParts parts_;
  TokenTrie::Node begin_, continuing_;  // where tokens that begin or continue a word stand
};

}  // namespace v0_1
}  // namespace krait
