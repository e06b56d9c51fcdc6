#include "krait/decoding/token_spelling.hpp"

namespace krait {
inline namespace v0_1 {

Result<std::vector<std::vector<Token>>> tokens_spelling(const Tokenizer& tokenizer,
                                                        std::string_view text) {
  if (text.empty()) {
    return Error{ErrorCode::bad_argument, "[sampler] spelling: expected a text, found none"};
  }
  // The rests are encoded once; what is no text on its own, such as half a character, is none.
  std::vector<std::vector<Token>> rests(text.size());
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (auto tokens = tokenizer.encode(text.substr(i), {.before = TextBefore::text}))
      rests[i] = std::move(tokens).value();
  }
  std::vector<std::vector<Token>> found;
  for (Token token = 0; token < tokenizer.vocab(); ++token) {
    if (tokenizer.is_special(token)) continue;
    const std::string_view bytes = tokenizer.bytes(token);
    if (bytes.find(text) != std::string_view::npos) {
      found.push_back({token});
      continue;
    }
    for (std::size_t i = 1; i < text.size(); ++i) {
      if (rests[i].empty() || !bytes.ends_with(text.substr(0, i))) continue;
      std::vector<Token> sequence = {token};
      sequence.insert(sequence.end(), rests[i].begin(), rests[i].end());
      found.push_back(std::move(sequence));
    }
  }
  return found;
}

}  // namespace v0_1
}  // namespace krait
