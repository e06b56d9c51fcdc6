#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "text/models/token_model.hpp"
#include "text/models/token_trie.hpp"
#include "text/models/unigram.hpp"

namespace krait {
inline namespace v0_1 {

struct ScoredPairsParts {
  struct Piece {
    std::string_view text;
    Token token = 0;
    float score = 0;
    bool is_whole = false;   ///< stands for itself and joins nothing: a user-defined symbol
    bool is_unused = false;  ///< is taken apart again at the end
  };
  std::vector<Piece> pieces;  ///< texts are distinct
  std::optional<Token> unknown;
  std::optional<ByteTokens> bytes;
  bool joins_unknown = true;  ///< unknown characters that follow each other are one token
};

/// Byte-pair encoding as SentencePiece does it: neighbours may be joined if the text of both is a
/// token; of those with the highest score the leftmost goes first.
class ScoredPairs final : public TokenModel {
 public:
  explicit ScoredPairs(const ScoredPairsParts& parts);

  Result<void> encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                      std::vector<Token>& tokens) const override;

 private:
  struct Entry {
    Token token = 0;
    std::uint32_t rank = 0;  // of the score: equal ones are equal
    bool is_whole = false, is_unused = false;
  };

  static constexpr Token frozen = -3;  // a symbol that joins nothing

  void start(std::string_view piece, ModelScratch& scratch) const;
  void append(std::string_view text, bool& was_unknown, std::vector<Token>& tokens) const;

  TokenTrie trie_;     // gives places in `entries_`
  TokenTrie symbols_;  // those that stand for themselves
  std::vector<Entry> entries_;
  std::optional<Token> unknown_;
  std::optional<ByteTokens> bytes_;
  bool joins_unknown_ = true;
  bool has_unused_ = false;
};

}  // namespace v0_1
}  // namespace krait
