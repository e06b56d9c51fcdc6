#include "text/models/byte_pair_model.hpp"

#include "core/utf8.hpp"

namespace krait {
inline namespace v0_1 {

std::optional<Token> BytePairModel::whole(std::string_view piece, bool is_plain) const {
  if (!parts_.ignores_merges) return std::nullopt;
  const auto token = find(piece);
  if (token && is_plain && is_in(parts_.special, *token)) return std::nullopt;
  return token;
}

Result<void> BytePairModel::encode(std::string_view piece, bool is_plain, ModelScratch& scratch,
                                   std::vector<Token>& tokens) const {
  if (const auto token = whole(piece, is_plain)) {
    tokens.push_back(*token);
  } else {
    pairs(is_plain).encode(piece, scratch.pairs, tokens);
  }
  return {};
}

Result<void> CharacterPairModel::encode(std::string_view piece, bool is_plain,
                                        ModelScratch& scratch, std::vector<Token>& tokens) const {
  if (const auto token = whole(piece, is_plain)) {
    tokens.push_back(*token);
    return {};
  }
  const std::size_t first = tokens.size();
  std::string written;
  bool has_unknown = false;  // one that is not written yet: those that follow may join it
  for (std::size_t position = 0; position < piece.size();) {
    const std::size_t begin = position;
    utf8::next(piece, position);
    std::string_view text = piece.substr(begin, position - begin);
    if ((begin > 0 && !parts_.prefix.empty()) ||
        (position == piece.size() && !parts_.suffix.empty())) {
      written.assign(begin > 0 ? parts_.prefix : "").append(text);
      if (position == piece.size()) written += parts_.suffix;
      text = written;
    }
    if (const auto token = find(text)) {
      if (has_unknown) tokens.push_back(*parts_.unknown);
      has_unknown = false;
      tokens.push_back(*token);
    } else if (!(parts_.bytes && append_bytes(*parts_.bytes, text, tokens)) && parts_.unknown) {
      if (has_unknown && !parts_.fuses_unknown) tokens.push_back(*parts_.unknown);
      has_unknown = true;
    }
  }
  if (has_unknown) tokens.push_back(*parts_.unknown);
  pairs(is_plain).merge(first, scratch.pairs, tokens);
  return {};
}

}  // namespace v0_1
}  // namespace krait
