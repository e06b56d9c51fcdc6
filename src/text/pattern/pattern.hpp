#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "text/pattern/regex.hpp"

namespace krait {
inline namespace v0_1 {

/// The `pattern` of a tokenizer file: a string that stands for itself, or a regular expression.
class Pattern {
 public:
  /// Reads `{"String": …}` or `{"Regex": …}`; `where` is for messages.
  static Result<Pattern> read(const Metadata& pattern, const std::string& where);

  /// The regular expression's text, if it is one.
  std::optional<std::string_view> regex_text() const;

  /// The string, if it stands for itself.
  std::optional<std::string_view> plain_text() const;

 private:
  friend class PatternSearch;
  std::string text_;
  std::optional<Regex> regex_;
};

/// Finds all matches of a pattern, text after text.
class PatternSearch {
 public:
  explicit PatternSearch(const Pattern& pattern);

  /// Begins with another text, which must outlive the search in it.
  void start(std::string_view text) noexcept;

  /// The next match; none overlaps the one before, and an empty one does not touch it.
  Result<RegexMatch> next();

 private:
  Result<RegexMatch> find(std::size_t from);

  const Pattern* pattern_;
  std::optional<RegexSearch> search_;
  std::string_view text_;
  std::size_t from_ = 0;
  std::optional<std::size_t> last_end_;
  bool finished_ = true;
};

}  // namespace v0_1
}  // namespace krait
