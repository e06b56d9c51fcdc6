#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"
#include "text/models/token_model.hpp"
#include "text/pipeline/added_tokens.hpp"
#include "text/pipeline/vocabulary.hpp"
#include "text/stages/decoder.hpp"
#include "text/stages/normalizer.hpp"
#include "text/stages/post_processor.hpp"
#include "text/stages/pretokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// The stages of a tokenizer, checked.
struct PipelineParts {
  TokenBytes bytes;     // of tokens inside a text
  TokenIndex by_bytes;  // tokens of the model
  TokenBytes contents;  // as the vocabulary writes them, where that is needed; or empty
  TokenIndex by_content;
  std::vector<Token> special;     // ascending
  std::vector<AddedToken> added;  // by content, ascending
  AddedTokenMatcher raw_matcher, normalized_matcher;
  AddedTokenMatcher raw_plain_matcher, normalized_plain_matcher;  // without special tokens
  TextEnds ends;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<const TokenModel> model;
  TokenDecoder decoder;
  /// The model never joins anything with a U+2581 behind it, so that pieces may be cut there.
  bool cuts_at_marks = false;
};

/// A tokenizer of stages: added tokens, normalizer, pre-tokenizer, model, post-processor.
class Pipeline final : public Tokenizer {
 public:
  /// The model may refer to the tables of the parts, which stay where they are.
  explicit Pipeline(std::unique_ptr<const PipelineParts> parts) : parts_(std::move(parts)) {}

  Result<std::vector<Token>> encode(std::string_view text,
                                    const EncodeOptions& options) const override;
  std::string decode(const std::vector<Token>& tokens, bool with_special) const override;
  std::string_view bytes(Token token) const noexcept override;
  Index vocab() const noexcept override { return static_cast<Index>(parts_->bytes.size()); }
  bool is_special(Token token) const noexcept override;
  std::optional<Token> find(std::string_view text) const override;

 private:
  class Run;  // one call of encode

  std::unique_ptr<const PipelineParts> parts_;
};

}  // namespace v0_1
}  // namespace krait
