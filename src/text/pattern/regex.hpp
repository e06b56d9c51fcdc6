#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// A pattern of a tokenizer file, compiled. Immutable; every thread searches with its own
/// `RegexSearch`.
///
/// Files write patterns for the engine of the original tokenizers (Oniguruma, Ruby syntax): `\s`
/// is the White_Space property and `^` and `$` match at every line.
class KRAIT_API Regex {
 public:
  /// What version of Unicode the engine has decides how classes are spelled, not what they match.
  static Result<Regex> compile(std::string_view pattern,
                               std::string_view unicode_version = Regex::unicode_version()) {
    return compile(pattern, unicode_version, true);
  }
  /// With `^` and `$` at the beginning and the end of the text alone.
  static Result<Regex> compile_for_whole_texts(std::string_view pattern) {
    return compile(pattern, unicode_version(), false);
  }

  /// The engine's version of Unicode, such as "14.0.0".
  static std::string_view unicode_version();

 private:
  friend class RegexSearch;
  static Result<Regex> compile(std::string_view pattern, std::string_view unicode_version,
                               bool has_lines);
  std::shared_ptr<const void> code_;  // pcre2_code
};

struct RegexMatch {
  bool found = false;
  std::size_t begin = 0, end = 0;
};

/// Searches texts with one pattern.
class KRAIT_API RegexSearch {
 public:
  explicit RegexSearch(const Regex& regex);
  ~RegexSearch();
  RegexSearch(RegexSearch&&) noexcept;
  RegexSearch& operator=(RegexSearch&&) noexcept;

  /// The first match that begins at or after `from`. Errors: unsupported, if the pattern needs
  /// more steps or memory on this text than a pattern for words may.
  Result<RegexMatch> find(std::string_view text, std::size_t from);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace v0_1
}  // namespace krait
