#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "text/models/token_trie.hpp"
#include "text/pattern/pattern.hpp"
#include "text/stages/charsmap.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {

/// What a tokenizer does to a text before it looks for tokens: the `normalizer` of its file.
class Normalizer {
 public:
  static Result<Normalizer> read(const Metadata& normalizer);

  /// What the sentencepiece package does, in one step.
  struct SentencePiece {
    Charsmap charsmap;
    TokenTrie kept;  ///< texts that stay as they are: user-defined symbols
    bool adds_dummy_prefix = true;
    bool is_suffix = false;  ///< the dummy prefix goes to the end
    bool removes_extra_spaces = true;
    bool escapes_spaces = true;  ///< as U+2581
  };
  static Normalizer of(SentencePiece step);

  /// Whether it writes bytes in the byte alphabet.
  bool writes_bytes() const noexcept;

  /// Bytes that a text of `size` bytes may become. The forms make a text at most 11 times as long,
  /// marks for spaces 3 times; steps that multiply each other would fill any memory.
  static constexpr std::size_t room_for(std::size_t size) noexcept { return 64 * size + 4096; }

  /// The text after all steps, either `text` itself or kept in `storage`. `text` is well-formed
  /// UTF-8; `goes_on`: its beginning is within another text. Errors: unsupported, if a step makes
  /// more than `room` bytes of it.
  Result<std::string_view> apply(std::string_view text, std::size_t room, std::string& storage,
                                 bool goes_on = false) const;

 private:
  enum class Kind {
    form,
    lowercase,
    strip,
    prepend,
    replace,
    bert,
    nmt,
    strip_accents,
    byte_level,
    charsmap,
    sentencepiece,
  };

  struct Bert {
    bool cleans = true, spaces_han = true, strips_accents = true, lowers = true;
  };

  struct Step {
    Kind kind = Kind::form;
    unicode::Form form = unicode::Form::nfc;
    bool left = true, right = true;  // strip
    std::optional<Pattern> pattern;  // replace
    std::string content;             // prepend, replace
    Bert bert;
    SentencePiece pieces;  // sentencepiece; charsmap: the table alone
  };

  Result<void> add(std::string_view type, const Metadata& normalizer, const std::string& where);
  static Result<Bert> read_bert(const Metadata& normalizer, const std::string& where);
  static std::string bert(const Bert& step, std::string_view text);
  static std::string sentencepiece(const SentencePiece& step, std::string_view text,
                                   std::size_t room, bool goes_on);
  static Result<std::string> replaced(const Step& step, std::string_view text, std::size_t room);

  std::vector<Step> steps_;
};

}  // namespace v0_1
}  // namespace krait
