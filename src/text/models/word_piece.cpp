#include "text/models/word_piece.hpp"

#include <algorithm>

#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {

WordPiece::WordPiece(WordPieceParts parts)
    : trie_(std::move(parts.tokens)),
      parts_(std::move(parts)),
      begin_(behind(parts_.word_prefix)),
      continuing_(behind(parts_.continuing_prefix)) {
  parts_.tokens.clear();
}

TokenTrie::Node WordPiece::behind(std::string_view prefix) const noexcept {
  TokenTrie::Node node = TokenTrie::root;
  for (const char byte : prefix) {
    if (node != TokenTrie::none) node = trie_.next(node, byte);
  }
  return node;
}

bool WordPiece::append(std::string_view word, bool is_plain, std::vector<Token>& tokens) const {
  for (std::size_t begin = 0; begin < word.size();) {
    TokenTrie::Node node = begin == 0 ? begin_ : continuing_;
    Token longest = TokenTrie::no_token;
    std::size_t end = begin;
    for (std::size_t i = begin; i < word.size() && node != TokenTrie::none;) {
      node = trie_.next(node, word[i++]);
      if (node == TokenTrie::none || trie_.token(node) == TokenTrie::no_token) continue;
      if (is_plain && is_in(parts_.special, trie_.token(node))) continue;
      if (parts_.takes_whole_words && i < word.size()) continue;
      longest = trie_.token(node);
      end = i;
    }
    if (longest == TokenTrie::no_token) return false;
    tokens.push_back(longest);
    begin = end;
  }
  return true;
}

Result<void> WordPiece::encode(std::string_view word, bool is_plain, ModelScratch& /*scratch*/,
                               std::vector<Token>& tokens) const {
  const auto is_continuation = [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
  };
  const std::size_t first = tokens.size();
  bool is_known = false;
  if (word.size() <= parts_.longest_word ||
      word.size() -
              static_cast<std::size_t>(std::count_if(word.begin(), word.end(), is_continuation)) <=
          parts_.longest_word) {
    is_known = append(word, is_plain, tokens);
  }
  if (is_known) return {};
  tokens.resize(first);
  if (!parts_.unknown) {
    return fields::mismatch(ErrorCode::bad_argument, "text", "words of the vocabulary",
                            "one without tokens, and the model's unk_token is none");
  }
  tokens.push_back(*parts_.unknown);
  return {};
}

}  // namespace v0_1
}  // namespace krait
