#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/models/byte_pairs.hpp"
#include "text/models/token_model.hpp"
#include "text/models/unigram.hpp"
#include "text/pipeline/vocabulary.hpp"

namespace krait {
inline namespace v0_1 {

struct BytePairParts {
  BytePairs pairs;
  /// The same without merges that make special tokens, if there are such.
  std::optional<BytePairs> plain_pairs;
  /// Tokens by their texts: those a piece is taken for at once, and those of single characters.
  const TokenBytes* texts = nullptr;
  const TokenIndex* by_text = nullptr;
  bool ignores_merges = false;  ///< a piece that is a token is not taken apart
  SpecialTokens special;

  // Where pieces are characters, not bytes:
  std::string prefix, suffix;  ///< of characters that do not begin a word; of the last one
  std::optional<Token> unknown;
  bool fuses_unknown = false;
  std::optional<ByteTokens> bytes;
};

/// Byte-pair encoding.
class BytePairModel : public TokenModel {
 public:
  explicit BytePairModel(BytePairParts parts) : parts_(std::move(parts)) {}

  Result<void> encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                      std::vector<Token>& tokens) const override;

 protected:
  std::optional<Token> find(std::string_view text) const {
    return parts_.by_text->find(text, [&](Token id) { return (*parts_.texts)[id]; });
  }
  const BytePairs& pairs(bool is_plain) const {
    return is_plain && parts_.plain_pairs ? *parts_.plain_pairs : parts_.pairs;
  }
  std::optional<Token> whole(std::string_view piece, bool is_plain) const;

  BytePairParts parts_;
};

/// Byte-pair encoding that begins with characters instead of bytes.
class CharacterPairModel final : public BytePairModel {
 public:
  explicit CharacterPairModel(BytePairParts parts) : BytePairModel(std::move(parts)) {}

  Result<void> encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                      std::vector<Token>& tokens) const override;
};

}  // namespace v0_1
}  // namespace krait
