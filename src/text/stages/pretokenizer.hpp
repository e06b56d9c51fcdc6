#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "krait/text/tokenizer.hpp"
#include "text/pattern/pattern.hpp"

namespace krait {
inline namespace v0_1 {

/// Cuts a text into the pieces within which tokens are formed: the `pre_tokenizer` of a file.
///
/// Each step cuts every piece of the step before, seeing that piece only. One of the steps may be
/// "ByteLevel"; steps after it see the byte alphabet (byte_alphabet.hpp) instead of the text. What
/// comes out are bytes all the same, unless they are asked to stay written in it.
class PreTokenizer {
 public:
  static Result<PreTokenizer> read(const Metadata& pre_tokenizer);

  /// Whether a step is "ByteLevel".
  bool is_byte_level() const noexcept;

  /// Pieces are given out in the byte alphabet, for models whose tokens are written in it.
  void keep_written() noexcept { keeps_written_ = true; }

  struct Piece {
    std::size_t begin = 0, end = 0;
  };

  /// What `split` works on and gives back. Keep it between calls and it stops allocating.
  struct Scratch {
    std::string_view text;      ///< what the pieces refer to: the argument of `split` or `storage`
    std::vector<Piece> pieces;  ///< in order, none empty
    std::string storage, other_storage;
    std::vector<Piece> other_pieces;
    std::vector<std::optional<PatternSearch>> searches;  // one for each step
  };

  /// Cuts `text`, well-formed UTF-8, which must outlive the use of the result.
  Result<void> split(std::string_view text, Scratch& scratch,
                     TextBefore before = TextBefore::nothing) const;

 private:
  enum class Kind {
    byte_level,
    gpt2,
    pattern,
    digits,
    punctuation,
    white_space,
    words,      // "Whitespace": runs of word characters, and of others
    metaspace,  // writes marks for spaces
    character,
    scripts,
    fixed_length,
  };
  enum class Prepends { always, first, never };
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

  struct Step {
    Kind kind = Kind::pattern;
    Behavior behavior = Behavior::isolated;
    bool inverted = false;
    bool adds_prefix_space = false;  // byte_level
    std::optional<Pattern> pattern;
    char32_t code = 0;  // character
    std::string mark;   // metaspace
    Prepends prepends = Prepends::always;
    std::size_t length = 0;  // fixed_length
  };

  class Cutter;

  Result<void> add(std::string_view type, const Metadata& pre_tokenizer, const std::string& where);
  Result<Step> read_split(const Metadata& pre_tokenizer, const std::string& where) const;
  static Result<Behavior> read_behavior(const Metadata& pre_tokenizer, const std::string& where,
                                        Behavior fallback);
  Result<void> cut(const Step& step, std::optional<PatternSearch>& search, Scratch& scratch) const;
  static void keep_matches_only(Step& step) noexcept {
    step.behavior = Behavior::removed;
    step.inverted = true;
  }
  Result<void> add_metaspace(const Metadata& pre_tokenizer, const std::string& where);
  static void cut_by_characters(const Step& step, std::string_view text, Cutter& cutter);
  static void add_prefix_spaces(TextBefore before, Scratch& scratch);
  static void write_marks(const Step& step, TextBefore before, Scratch& scratch);
  static void write_bytes(Scratch& scratch);
  static void read_bytes(Scratch& scratch);

  std::vector<Step> steps_;
  bool keeps_written_ = false;
};

/// End of the piece that begins at `begin`, by the pattern of GPT-2:
/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::size_t end_of_gpt2_piece(std::string_view text, std::size_t begin) noexcept;

}  // namespace v0_1
}  // namespace krait
