#include "text/pattern/pattern.hpp"

#include <fmt/format.h>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {

Result<Pattern> Pattern::read(const Metadata& pattern, const std::string& where) {
  const bool is_regex = !pattern["Regex"].is_null();
  Pattern result;
  KRAIT_ASSIGN_OR_RETURN(result.text_,
                         fields::string(pattern, is_regex ? "Regex" : "String", where));
  if (result.text_.empty()) {
    return fields::mismatch(ErrorCode::unsupported, where, "a pattern", "an empty string");
  }
  if (is_regex) {
    auto regex = Regex::compile(result.text_);
    if (!regex) {
      return Error{regex.error().code,
                   fmt::format("[tokenizer] {}: {}", where, regex.error().message)};
    }
    result.regex_ = *std::move(regex);
  }
  return result;
}

std::optional<std::string_view> Pattern::regex_text() const {
  if (!regex_) return std::nullopt;
  return text_;
}

std::optional<std::string_view> Pattern::plain_text() const {
  if (regex_) return std::nullopt;
  return text_;
}

PatternSearch::PatternSearch(const Pattern& pattern) : pattern_(&pattern) {
  if (pattern.regex_) {
    search_.emplace(*pattern.regex_);
  }
}

void PatternSearch::start(std::string_view text) noexcept {
  text_ = text;
  from_ = 0;
  last_end_.reset();
  finished_ = false;
}

Result<RegexMatch> PatternSearch::find(std::size_t from) {
  if (search_) {
    auto found = search_->find(text_, from);
    if (!found) {
      return Error{found.error().code, "[tokenizer] pattern: " + found.error().message};
    }
    return *found;
  }
  const std::size_t at = text_.find(pattern_->text_, from);
  if (at == std::string_view::npos) return RegexMatch{};
  return RegexMatch{true, at, at + pattern_->text_.size()};
}

Result<RegexMatch> PatternSearch::next() {
  while (!finished_) {
    KRAIT_ASSIGN_OR_RETURN(const RegexMatch match, find(from_));
    if (!match.found) {
      finished_ = true;
      break;
    }
    from_ = match.end;
    if (match.begin == match.end) {
      // It would be found again: go on behind the next code point.
      if (from_ == text_.size()) {
        finished_ = true;
      } else {
        utf8::next(text_, from_);
      }
      if (last_end_ == match.end) continue;
    }
    last_end_ = match.end;
    return match;
  }
  return RegexMatch{};
}

}  // namespace v0_1
}  // namespace krait
