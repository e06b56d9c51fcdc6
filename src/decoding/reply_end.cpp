#include "decoding/reply_end.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "krait/text/stream_decoder.hpp"

namespace krait {
inline namespace v0_1 {

void end_turn(Sequence& sequence, const std::vector<Token>& end, const std::vector<Token>& stops) {
  std::vector<Token>& tokens = sequence.tokens;
  // An end token that the turns do not have was never shown, nor is it consumed.
  if (sequence.pending > 0 && !end.empty() && tokens.back() != end.front() &&
      std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) {
    tokens.pop_back();
    --sequence.pending;
  }
  std::size_t present = std::min(end.size(), tokens.size());
  while (!std::equal(end.begin(), end.begin() + static_cast<std::ptrdiff_t>(present),
                     tokens.end() - static_cast<std::ptrdiff_t>(present))) {
    --present;
  }
  sequence.append(std::span(end).subspan(present));
}

Result<void> keep_what_was_shown(Sequence& sequence, const Sequence& asked,
                                 const GenerationResult& reply, const Tokenizer& tokenizer) {
  if (reply.reason == FinishReason::stop_token) return {};
  const std::span<const Token> sampled =
      std::span<const Token>(sequence.tokens).subspan(asked.tokens.size());
  StreamDecoder decoder;
  std::string text;
  std::size_t kept = 0;
  std::size_t kept_bytes = 0;
  for (std::size_t i = 0; i < sampled.size(); ++i) {
    text += decoder.push(tokenizer.is_special(sampled[i]) ? "" : tokenizer.bytes(sampled[i]));
    if (!reply.text.starts_with(text)) break;
    // Of tokens that add nothing, the ones before the last text.
    if (text.size() > kept_bytes && decoder.pending().empty()) {
      kept = i + 1;
      kept_bytes = text.size();
    }
  }
  if (kept == sampled.size() && kept_bytes == reply.text.size()) return {};
  std::vector<Token> tokens(sampled.begin(), sampled.begin() + static_cast<std::ptrdiff_t>(kept));
  const TextBefore before = before_of(tokenizer, kept > 0 ? tokens : asked.tokens);
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> rest,
                         tokenizer.encode(reply.text.substr(kept_bytes), {.before = before}));
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  sequence = asked;
  const Index first = std::ssize(sequence.tokens);
  sequence.append(tokens);
  sequence.mark_sampled({first, std::ssize(sequence.tokens)});
  return {};
}

}  // namespace v0_1
}  // namespace krait
