#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// Properties of code points and the normalization forms.
namespace krait {
inline namespace v0_1 {
namespace unicode {

struct CodeRange {
  char32_t first, last;
};

/// General categories, in the order of the table that `make_unicode_tables.py` writes.
enum class Category : std::uint8_t {
  cn,
  cc,
  cf,
  co,
  cs,
  ll,
  lm,
  lo,
  lt,
  lu,
  mc,
  me,
  mn,
  nd,
  nl,
  no,
  pc,
  pd,
  pe,
  pf,
  pi,
  po,
  ps,
  sc,
  sk,
  sm,
  so,
  zl,
  zp,
  zs,
};

/// Where each run of code points of one category begins, times 32, plus the category. Unicode 16.0,
/// whatever version an installed library knows.
std::span<const std::uint32_t> category_runs() noexcept;
Category category(char32_t code) noexcept;

/// The first code point of each run of one script, in ascending order, times 256, plus the place of
/// the script in `script_names`.
std::span<const std::uint32_t> script_runs() noexcept;

/// What is Alphabetic, Uppercase or Lowercase beside the letters of categories L and Nl, Lu, or Ll.
std::span<const CodeRange> other_alphabetic() noexcept;
std::span<const CodeRange> other_uppercase() noexcept;
std::span<const CodeRange> other_lowercase() noexcept;

/// The two names of a script, such as "grek" and "greek", in lower case without underscores.
struct ScriptNames {
  std::string_view code, name;
};
std::span<const ScriptNames> script_names() noexcept;

/// The place of a code point's script in `script_names`.
std::size_t script(char32_t code) noexcept;

/// Code points that have another category than in Unicode 14.0, the oldest version of installed
/// libraries that need not be worked around.
struct CategoryChange {
  CodeRange range;
  Category before, now;
};
std::span<const CategoryChange> changes_since_14() noexcept;

std::span<const CodeRange> letter_ranges() noexcept;  ///< \p{L}, ascending
std::span<const CodeRange> number_ranges() noexcept;  ///< \p{N}, ascending

/// Code points that normalization leaves alone. The tokenizers that vocabularies were made with
/// normalize by Unicode 9.0; what came later must not make a difference, nor must the version of
/// the library that does the work here.
std::span<const CodeRange> later_ranges() noexcept;

/// What a pre-tokenizer's pattern asks of a code point.
enum class Kind : std::uint8_t { other, letter, number, space };

Kind kind_beyond_latin1(char32_t code) noexcept;
extern const std::array<Kind, 256> latin1_kinds;

inline Kind kind(char32_t code) noexcept {
  return code < 256 ? latin1_kinds[code] : kind_beyond_latin1(code);
}

bool is_space(char32_t code) noexcept;        ///< White_Space
bool is_word(char32_t code) noexcept;         ///< \w: letters, marks, digits, connectors
bool is_mark(char32_t code) noexcept;         ///< \p{M}
bool is_punctuation(char32_t code) noexcept;  ///< \p{P}, and all of ASCII's punctuation

/// Normalization forms, by Unicode 9.0.
enum class Form { nfc, nfd, nfkc, nfkd };

/// `text`, well-formed UTF-8, in a normalization form. Takes n log n time whatever the text.
std::string normalized(std::string_view text, Form form);

/// True only if the form leaves the text as it is; costs one look at every byte. Texts in Latin
/// script are recognised, others may not be.
bool is_surely_normalized(std::string_view text, Form form) noexcept;

/// End of the extended grapheme cluster that begins at `begin`, inside well-formed UTF-8.
std::size_t end_of_grapheme(std::string_view text, std::size_t begin) noexcept;

/// `text`, well-formed UTF-8, in lower case: code point by code point, without regard to context.
std::string lowercased(std::string_view text);

}  // namespace unicode
}  // namespace v0_1
}  // namespace krait
