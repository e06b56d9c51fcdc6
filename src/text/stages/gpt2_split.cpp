#include "core/utf8.hpp"
#include "text/stages/pretokenizer.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using unicode::Kind;

std::size_t end_of_run(std::string_view text, std::size_t position, Kind kind) noexcept {
  while (position < text.size()) {
    std::size_t after = position;
    if (unicode::kind(utf8::next(text, after)) != kind) break;
    position = after;
  }
  return position;
}

// Length of the contraction that begins with the apostrophe at `begin`, or 0.
std::size_t contraction(std::string_view text, std::size_t begin) noexcept {
  const std::string_view rest = text.substr(begin + 1, 2);
  if (rest.empty()) return 0;
  const char c = rest.front();
  if (c == 's' || c == 't' || c == 'm' || c == 'd') return 2;
  if (rest == "re" || rest == "ve" || rest == "ll") return 3;
  return 0;
}

}  // namespace

// Written out instead of left to a regular expression engine: it is several times as fast, linear
// on every text, and the same whatever version of Unicode an installed engine knows.
std::size_t end_of_gpt2_piece(std::string_view text, std::size_t begin) noexcept {
  if (text[begin] == '\'') {
    if (const std::size_t length = contraction(text, begin); length > 0) {
      return begin + length;
    }
  }
  std::size_t position = begin;
  Kind kind = unicode::kind(utf8::next(text, position));
  if (text[begin] == ' ' && position < text.size()) {
    std::size_t after = position;
    const Kind following = unicode::kind(utf8::next(text, after));
    if (following != Kind::space) {
      return end_of_run(text, after, following);
    }
  }
  position = end_of_run(text, position, kind);
  if (kind == Kind::space && position < text.size()) {
    // The last space of several is left to the word behind it.
    const std::size_t last = utf8::before(text, position);
    if (last > begin) return last;
  }
  return position;
}

}  // namespace v0_1
}  // namespace krait
