#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "text/pattern/pattern.hpp"

namespace krait {
inline namespace v0_1 {

/// What a tokenizer does to the texts of tokens to make a text of them: the `decoder` of its file.
///
/// Bytes that are no UTF-8 stay as they are, where the original writes U+FFFD.
class TokenDecoder {
 public:
  /// `null` is the decoder of byte-level tokenizers if `is_byte_level`; else it puts spaces between
  /// the tokens.
  static Result<TokenDecoder> read(const Metadata& decoder, bool is_byte_level);

  /// Whether the bytes of tokens, one after another, are the text: then `decode` is not needed.
  bool is_plain() const noexcept;

  /// Whether it reads the byte alphabet and does nothing else.
  bool gives_bytes() const noexcept;

  /// Whether `<0x41>` stands for a byte.
  bool has_bytes() const noexcept;

  /// What a token stands for inside a text, neither first nor last. `content` is the token as the
  /// vocabulary writes it. Errors: unsupported, from patterns and from steps that make it many
  /// times as long.
  Result<std::string> inside(std::string_view content) const;

  /// The text of the tokens, each as the vocabulary writes it.
  Result<std::string> decode(std::vector<std::string> tokens) const;

 private:
  enum class Kind {
    byte_level,
    byte_fallback,
    metaspace,
    word_piece,
    suffix,  // BPEDecoder
    ctc,
    fuse,
    strip,
    replace,
    spaces,  // between tokens
  };

  struct Step {
    Kind kind = Kind::fuse;
    std::optional<Pattern> pattern;   // replace
    std::string content;              // replace: by what; others: prefix, suffix, mark, pad token
    std::string delimiter;            // ctc
    std::size_t start = 0, stop = 0;  // strip
    bool is_cleaned = false;          // word_piece, ctc
    bool drops_first = false;         // metaspace: marks of the first token
  };

  Result<void> add(std::string_view type, const Metadata& decoder, const std::string& where);
  static Result<void> apply(const Step& step, std::vector<std::string>& tokens, std::size_t room);
  static Result<std::string> replaced(const Step& step, std::string_view text, std::size_t room);

  std::vector<Step> steps_;
};

/// The byte that `<0x41>` stands for.
std::optional<unsigned char> byte_of_token(std::string_view content) noexcept;

}  // namespace v0_1
}  // namespace krait
