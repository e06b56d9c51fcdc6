#include "text/models/unigram.hpp"

#include <algorithm>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {

bool append_bytes(const ByteTokens& bytes, std::string_view text, std::vector<Token>& tokens) {
  const std::size_t size = tokens.size();
  for (const char c : text) {
    const Token token = bytes[static_cast<unsigned char>(c)];
    if (token < 0) {
      tokens.resize(size);
      return false;
    }
    tokens.push_back(token);
  }
  return true;
}

Unigram::Unigram(UnigramParts parts) : trie_(std::move(parts.tokens)), parts_(std::move(parts)) {
  parts_.tokens.clear();
}

// False if there is a character without a token and no token for unknown ones.
bool Unigram::find_paths(std::string_view piece, bool is_plain,
                         std::vector<BestPath>& paths) const {
  paths.assign(piece.size() + 1, BestPath{});
  for (std::size_t begin = 0; begin < piece.size();) {
    const double so_far = paths[begin].score;
    const auto offer = [&](std::size_t end, double score, Token token) {
      BestPath& target = paths[end];
      if (target.begin != BestPath::none && !(score > target.score)) return;
      target = {score, token, static_cast<std::uint32_t>(begin)};
    };
    std::size_t after = begin;
    utf8::next(piece, after);
    bool has_character = false;
    TokenTrie::Node node = TokenTrie::root;
    for (std::size_t end = begin; end < piece.size();) {
      node = trie_.next(node, piece[end++]);
      if (node == TokenTrie::none) break;
      const Token token = trie_.token(node);
      if (token == TokenTrie::no_token || (is_plain && is_in(parts_.special, token))) continue;
      offer(end, parts_.scores[static_cast<std::size_t>(token)] + so_far, token);
      has_character = has_character || end == after;
    }
    if (!has_character) {
      if (!parts_.unknown) return false;
      offer(after, parts_.unknown_score + so_far, *parts_.unknown);
    }
    begin = after;
  }
  return true;
}

void Unigram::append_unknown(std::string_view part, std::vector<Token>& tokens) const {
  if (parts_.bytes && append_bytes(*parts_.bytes, part, tokens)) return;
  tokens.push_back(*parts_.unknown);
}

Result<void> Unigram::encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                             std::vector<Token>& tokens) const {
  auto& paths = scratch.paths;
  if (!find_paths(piece, is_plain, paths)) {
    return fields::mismatch(ErrorCode::bad_argument, "text", "characters of the vocabulary",
                            "one without a token, and the model has no unk_id");
  }
  auto& spans = scratch.spans;
  spans.clear();
  for (std::size_t end = piece.size(); end > 0; end = paths[end].begin) {
    spans.emplace_back(paths[end].begin, static_cast<std::uint32_t>(end));
  }
  std::reverse(spans.begin(), spans.end());
  for (std::size_t i = 0; i < spans.size();) {
    const Token token = paths[spans[i].second].token;
    if (!parts_.unknown || token != *parts_.unknown) {
      tokens.push_back(token);
      ++i;
      continue;
    }
    // Unknown characters that follow each other are one.
    const std::size_t begin = spans[i].first;
    std::size_t end = begin;
    while (i < spans.size() && paths[spans[i].second].token == *parts_.unknown) {
      end = spans[i++].second;
    }
    append_unknown(piece.substr(begin, end - begin), tokens);
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
