#include "decoding/text_stream.hpp"

#include <algorithm>

namespace krait {
inline namespace v0_1 {

Cut cut_before(const Tokenizer& tokenizer, std::span<const Token> tokens, std::size_t bytes) {
  std::size_t count = tokens.size();
  while (bytes > 0 && count > 0) {
    const Token token = tokens[--count];
    const std::string_view last = tokenizer.bytes(token);
    if (last.size() > bytes) {
      return {count, tokenizer.is_special(token) ? "" : last.substr(0, last.size() - bytes)};
    }
    bytes -= last.size();
  }
  return {count, {}};
}

std::string_view TextStream::resume(std::span<const Token> tokens, std::size_t unshown) {
  constexpr std::size_t character = 3;  // bytes that may lack the last one of their character
  std::size_t first = tokens.size();
  for (std::size_t size = 0; first > 0 && size < unshown + character;) {
    size += tokenizer_->bytes(tokens[--first]).size();
  }
  std::string text;
  for (const Token token : tokens.subspan(first)) {
    text += tokenizer_->bytes(token);
    marks_.resize(text.size(), tokenizer_->is_special(token) ? 0 : 1);
  }
  const std::string_view waiting =
      std::string_view(text).substr(text.size() - std::min(unshown, text.size()));
  stops_.prime(waiting);
  show(std::string_view(text).substr(0, text.size() - waiting.size()));
  return show(waiting.substr(0, waiting.size() - stops_.held()));
}

std::string_view TextStream::push(Token token) {
  const std::string_view bytes = tokenizer_->bytes(token);
  if (stops_.longest() == 0) {
    return decoder_.push(tokenizer_->is_special(token) ? "" : bytes);
  }
  marks_.append(bytes.size(), tokenizer_->is_special(token) ? 0 : 1);
  return show(stops_.push(bytes));
}

std::string TextStream::finish(bool is_complete) {
  std::string rest(show(stops_.finish()));
  if (is_complete) rest += decoder_.finish();
  return rest;
}

std::string_view TextStream::show(std::string_view bytes) {
  shown_.clear();
  for (std::size_t at = 0; at < bytes.size();) {
    std::size_t end = at + 1;
    while (end < bytes.size() && marks_[end] == marks_[at]) ++end;
    if (marks_[at] != 0) shown_ += decoder_.push(bytes.substr(at, end - at));
    at = end;
  }
  marks_.erase(0, bytes.size());
  return shown_;
}

}  // namespace v0_1
}  // namespace krait
