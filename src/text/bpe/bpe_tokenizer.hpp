#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"
#include "text/bpe/added_tokens.hpp"
#include "text/bpe/bpe.hpp"
#include "text/bpe/vocabulary.hpp"
#include "text/stages/normalizer.hpp"
#include "text/stages/post_processor.hpp"
#include "text/stages/pretokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// What a tokenizer file describes, checked.
struct BpeParts {
  TokenBytes bytes;
  TokenIndex by_bytes;            // tokens of the model
  std::vector<Token> special;     // ascending
  std::vector<AddedToken> added;  // by content, ascending
  AddedTokenMatcher raw_matcher, normalized_matcher;
  AddedTokenMatcher raw_plain_matcher, normalized_plain_matcher;  // without special tokens
  TextEnds ends;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BytePairs pairs;
  bool ignores_merges = false;  // a piece that is a token is not taken apart
};

/// Byte-level byte-pair encoding.
class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeParts parts) : parts_(std::move(parts)) {}

  Result<std::vector<Token>> encode(std::string_view text,
                                    const EncodeOptions& options) const override;
  std::string_view bytes(Token token) const noexcept override;
  Index vocab() const noexcept override { return static_cast<Index>(parts_.bytes.size()); }
  bool is_special(Token token) const noexcept override;
  std::optional<Token> find(std::string_view text) const override;

 private:
  class Run;  // one call of encode

  BpeParts parts_;
};

}  // namespace v0_1
}  // namespace krait
