#pragma once

/// \file
/// From tokens to the text that readers see, and back from bytes of the text to tokens.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/decoding/stop.hpp"
#include "krait/text/stream_decoder.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// Where the last bytes of a text begin: behind `tokens` whole tokens and `part`, the beginning of
/// the next one.
struct Cut {
  std::size_t tokens = 0;
  std::string_view part;
};

/// Where the last `bytes` bytes of a text begin.
Cut cut_before(const Tokenizer& tokenizer, std::span<const Token> tokens, std::size_t bytes);

/// Tokens to whole characters, up to a stop string. Stop strings see special tokens, readers do
/// not.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
      : tokenizer_(&tokenizer), stops_(stops) {}

  /// Takes up a text of which the last `unshown` bytes were held back. What of them can be shown
  /// now; valid until the next call.
  std::string_view resume(std::span<const Token> tokens, std::size_t unshown);

  /// What can be shown now.
  std::string_view push(Token token);

  bool stopped() const noexcept { return stops_.stopped(); }

  /// Whether a stop string that began before the token ends with it.
  bool completes_stop(Token token) const {
    return stops_.held() > 0 && stops_.completes(tokenizer_->bytes(token));
  }

  /// Bytes at the end of the text that are not decided; once stopped, all from the stop string on.
  std::size_t unshown() const noexcept { return stops_.held(); }

  /// At the end of a text, whose end is then decided: what was held back. A character that is not
  /// complete is an error there, and shown as one; in a text that goes on its rest will come.
  std::string finish(bool is_complete);

 private:
  std::string_view show(std::string_view bytes);

  const Tokenizer* tokenizer_;
  StopMatcher stops_;
  StreamDecoder decoder_;
  std::string marks_;  // of the bytes that stops_ holds: 1 for those that readers see
  std::string shown_;
};

}  // namespace v0_1
}  // namespace krait
