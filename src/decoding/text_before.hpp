#pragma once

// Texts that go on others, in tokens.

#include <optional>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// The tokens of a text that goes on another; none where the tokenizer has none whose bytes are
/// exactly the text's.
inline std::vector<Token> tokens_within(const Tokenizer& tokenizer, std::string_view text) {
  const auto tokens = tokenizer.encode(text, {.parse_special = false, .before = TextBefore::text});
  if (!tokens) return {};
  for (const Token token : *tokens) {
    const std::string_view bytes = tokenizer.bytes(token);
    if (!text.starts_with(bytes)) return {};
    text.remove_prefix(bytes.size());
  }
  return text.empty() ? *tokens : std::vector<Token>();
}

/// The same of a part of a token, for which there may be a token of its own.
inline std::vector<Token> tokens_of_part(const Tokenizer& tokenizer, std::string_view part) {
  if (part.empty()) return {};
  const std::optional<Token> whole = tokenizer.find(part);
  return whole ? std::vector{*whole} : tokens_within(tokenizer, part);
}

}  // namespace v0_1
}  // namespace krait
