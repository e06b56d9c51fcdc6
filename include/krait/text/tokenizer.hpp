#pragma once

/// \file
/// Tokenizer: text to token ids and back.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// A part of a text, in bytes.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// What stands before a text: nothing; a special token; or text that it goes on, so that no space
/// is put in front of its first word, and none taken away.
enum class TextBefore { nothing, token, text };

/// How a text is encoded.
struct EncodeOptions {
  /// Adds the ids that the tokenizer's file puts before and after a text, such as a beginning mark.
  bool add_special = false;
  /// Special tokens spelled out in the text become their ids; if false they are plain text.
  bool parse_special = true;
  /// Parts of the text, ascending and apart, with which no special token may overlap, such as what
  /// a user wrote within a prompt: spelled out there, it is plain text.
  std::span<const ByteRange> literal = {};
  TextBefore before = TextBefore::nothing;
};

/// Text to ids and ids to bytes. Immutable; may be used from several threads.
class KRAIT_API Tokenizer {
 public:
  virtual ~Tokenizer();

  /// Ids of `text`. Errors: bad_argument for text the tokenizer cannot take (invalid UTF-8, except
  /// for byte tokenizers); unsupported, if a pattern of its file needs too many steps on this text
  /// or its normalizer makes the text many times as long.
  virtual Result<std::vector<Token>> encode(std::string_view text,
                                            const EncodeOptions& options = {}) const = 0;

  /// The bytes a token stands for inside a text, possibly part of a UTF-8 sequence; of a special
  /// token its text, such as "<|endoftext|>"; empty for an id beyond the vocabulary (a padding
  /// row). Where tokens begin with the space before their word, it is among the bytes, also if no
  /// word stands before. Valid as long as the tokenizer.
  virtual std::string_view bytes(Token token) const noexcept = 0;

  /// Number of ids: every id is below it.
  virtual Index vocab() const noexcept = 0;

  /// True for control tokens such as an end-of-text mark, which are not shown to readers.
  virtual bool is_special(Token token) const noexcept = 0;

  /// Id of the token that stands for exactly this text, such as "<|endoftext|>" or " the".
  virtual std::optional<Token> find(std::string_view text) const = 0;

  /// The text of all tokens: their bytes, one after another, but for what the tokenizer's file says
  /// of texts as a whole, such as no space before the first word. Special tokens are left out
  /// unless asked for.
  virtual std::string decode(const std::vector<Token>& tokens, bool with_special = true) const;
};

/// What these tokens are to a text behind them.
KRAIT_API TextBefore before_of(const Tokenizer& tokenizer, std::span<const Token> tokens);

/// Makes the tokenizer described by a Hugging Face `tokenizer.json`: BPE, Unigram, WordPiece or
/// WordLevel, with all normalizers, pre-tokenizers, post-processors and decoders of the
/// `tokenizers` package. It gives the ids that package gives (bytes without a token are left out);
/// `truncation` and `padding` are left to the caller. Errors: bad_format; unsupported (a kind of
/// model or stage that is not known, by name).
///
/// Time, of `encode` too, is n log n at most, but for patterns of the file that backtrack.
KRAIT_API Result<std::shared_ptr<const Tokenizer>> read_tokenizer_json(std::string_view json);

/// A token that was added to a vocabulary after its file was made.
struct AddedPiece {
  Token id = 0;
  std::string text;
  bool is_special = false;  ///< a control token, else a user-defined symbol
};

/// What a SentencePiece file does not say.
struct SentencePieceOptions {
  /// What is put around texts by `EncodeOptions::add_special`, of the marks that the file has.
  bool add_bos = true, add_eos = false;
  /// Tokens beside those of the file, or in their place.
  std::vector<AddedPiece> added = {};
};

/// Makes the tokenizer of a SentencePiece file, such as `tokenizer.model`: BPE or Unigram. It gives
/// the ids the `sentencepiece` package gives; control symbols that are spelled out in a text become
/// their ids if `EncodeOptions::parse_special`. Errors: bad_format; unsupported (other kinds of
/// model).
KRAIT_API Result<std::shared_ptr<const Tokenizer>> read_sentencepiece(
    std::string_view model, const SentencePieceOptions& options = {});

/// One id per byte value, vocabulary 256, no special tokens (MambaByte).
KRAIT_API std::shared_ptr<const Tokenizer> byte_tokenizer();

}  // namespace v0_1
}  // namespace krait
