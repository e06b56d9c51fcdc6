#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "text/models/token_model.hpp"
#include "text/models/token_trie.hpp"

namespace krait {
inline namespace v0_1 {

/// What stands for the bytes of unknown characters: by value, -1 where there is none.
using ByteTokens = std::array<Token, 256>;

/// Appends the tokens of all bytes of `text`; nothing and false if one has none.
bool append_bytes(const ByteTokens& bytes, std::string_view text, std::vector<Token>& tokens);

struct UnigramParts {
  std::vector<std::pair<std::string_view, Token>> tokens;  ///< what texts are made of
  std::vector<double> scores;                              ///< log-probabilities, by id
  double unknown_score = 0;
  std::optional<Token> unknown;
  std::optional<ByteTokens> bytes;
  SpecialTokens special;
};

/// Unigram language model (Kudo 2018): of all ways to write a piece as tokens the one with the
/// highest sum of scores, by a Viterbi search. Time is the length of the piece times that of the
/// longest token.
class Unigram final : public TokenModel {
 public:
  explicit Unigram(UnigramParts parts);

  Result<void> encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                      std::vector<Token>& tokens) const override;

 private:
  bool find_paths(std::string_view piece, bool is_plain, std::vector<BestPath>& paths) const;
  void append_unknown(std::string_view part, std::vector<Token>& tokens) const;

  TokenTrie trie_;
  UnigramParts parts_;
};

}  // namespace v0_1
}  // namespace krait
