#include "text/pipeline/added_tokens.hpp"

#include <algorithm>

#include "core/utf8.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool word_touches(std::string_view text, std::size_t begin, std::size_t end) noexcept {
  if (begin > 0) {
    std::size_t position = utf8::before(text, begin);
    if (unicode::is_word(utf8::next(text, position))) return true;
  }
  return end < text.size() && unicode::is_word(utf8::next(text, end));
}

std::size_t begin_of_spaces(std::string_view text, std::size_t position,
                            std::size_t lowest) noexcept {
  while (position > lowest) {
    const std::size_t before = utf8::before(text, position);
    std::size_t after = before;
    if (!unicode::is_space(utf8::next(text, after))) break;
    position = before;
  }
  return position;
}

std::size_t end_of_spaces(std::string_view text, std::size_t position) noexcept {
  while (position < text.size()) {
    std::size_t after = position;
    if (!unicode::is_space(utf8::next(text, after))) break;
    position = after;
  }
  return position;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  const auto repeated =
      std::unique(tokens_.begin(), tokens_.end(),
                  [](const AddedToken& a, const AddedToken& b) { return a.content == b.content; });
  tokens_.erase(repeated, tokens_.end());
  for (const AddedToken& token : tokens_) {
    begins_[static_cast<unsigned char>(token.content.front())] = true;
  }
}

const AddedToken* AddedTokenMatcher::find_at(std::string_view text, std::size_t position,
                                             std::size_t special_end) const noexcept {
  // The tokens that agree with the text so far are neighbours; every byte narrows them down.
  const AddedToken* found = nullptr;
  auto first = tokens_.begin();
  auto last = tokens_.end();
  for (std::size_t depth = 0; first != last; ++depth) {
    if (first->content.size() == depth) {
      if (!first->is_special || position + depth <= special_end) found = &*first;
      ++first;
    }
    if (position + depth == text.size()) break;
    const auto byte = static_cast<unsigned char>(text[position + depth]);
    const auto at_depth = [depth](const AddedToken& token) {
      return static_cast<unsigned char>(token.content[depth]);
    };
    first = std::lower_bound(first, last, byte, [&](const AddedToken& token, unsigned char value) {
      return at_depth(token) < value;
    });
    last = std::upper_bound(first, last, byte, [&](unsigned char value, const AddedToken& token) {
      return value < at_depth(token);
    });
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<TextPart>& parts,
                              std::span<const ByteRange> literal) const {
  parts.clear();
  auto next_literal = literal.begin();
  // Where a special token that begins here must end.
  const auto special_end = [&](std::size_t position) {
    while (next_literal != literal.end() && next_literal->end <= position) ++next_literal;
    return next_literal == literal.end() ? text.size() : next_literal->begin;
  };
  std::size_t rest = 0;       // where the part begins that is not given out yet
  std::size_t spaces_to = 0;  // white space known to reach up to here
  for (std::size_t position = 0; position < text.size();) {
    const bool may_begin = begins_[static_cast<unsigned char>(text[position])];
    const AddedToken* const token =
        may_begin ? find_at(text, position, special_end(position)) : nullptr;
    if (token == nullptr) {
      ++position;
      continue;
    }
    std::size_t begin = position;
    std::size_t end = position + token->content.size();
    position = end;
    if (token->is_single_word && word_touches(text, begin, end)) continue;
    if (token->strips_left) {
      begin = std::max(rest, begin_of_spaces(text, begin, rest));
      if (begin > end) continue;  // all of it went to the token before
    }
    if (token->strips_right) {
      // A token made of spaces would otherwise walk the same run once for each of its places.
      if (end >= spaces_to) spaces_to = end_of_spaces(text, end);
      end = spaces_to;
    }
    if (rest < begin) parts.push_back({rest, begin, std::nullopt});
    parts.push_back({begin, end, token->id});
    rest = end;
  }
  if (rest < text.size()) parts.push_back({rest, text.size(), std::nullopt});
}

}  // namespace v0_1
}  // namespace krait
