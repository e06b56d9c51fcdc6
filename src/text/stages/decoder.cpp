#include "text/stages/decoder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"
#include "text/pipeline/byte_alphabet.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::mismatch;

// Stops behind `room` bytes.
std::string with_all_replaced(std::string_view text, std::string_view from, std::string_view to,
                              std::size_t room = std::string_view::npos) {
  std::string result;
  std::size_t position = 0;
  for (std::size_t at = text.find(from); at != text.npos && result.size() <= room;
       at = text.find(from, position)) {
    result.append(text.substr(position, at - position)).append(to);
    position = at + from.size();
  }
  return result.append(text.substr(position));
}

// Takes out the spaces that English does not write.
std::string cleaned(std::string text) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 11> rules = {
      {{" .", "."},
       {" ?", "?"},
       {" !", "!"},
       {" ,", ","},
       {" ' ", "'"},
       {" n't", "n't"},
       {" 'm", "'m"},
       {" do not", " don't"},
       {" 's", "'s"},
       {" 've", "'ve"},
       {" 're", "'re"}}};
  for (const auto& [from, to] : rules) {
    if (text.find(from) != text.npos) text = with_all_replaced(text, from, to);
  }
  return text;
}

Result<std::string> some_text(const Metadata& object, std::string_view name,
                              const std::string& where) {
  KRAIT_ASSIGN_OR_RETURN(const std::string_view text, fields::string(object, name, where));
  if (!text.empty()) return std::string(text);
  return mismatch(ErrorCode::unsupported, where + "." + std::string(name), "a string",
                  "an empty one");
}

Result<std::size_t> number(const Metadata& object, std::string_view name,
                           const std::string& where) {
  const auto value = object[name].whole();
  if (!value || *value > 1'000'000) {
    return mismatch(ErrorCode::bad_format, where + "." + std::string(name),
                    "a number up to 1000000", describe(object[name]));
  }
  return static_cast<std::size_t>(*value);
}

std::string stripped(std::string_view text, std::string_view mark, std::size_t start,
                     std::size_t stop) {
  for (; start > 0 && text.starts_with(mark); --start) text.remove_prefix(mark.size());
  for (; stop > 0 && text.ends_with(mark); --stop) text.remove_suffix(mark.size());
  return std::string(text);
}

void join_bytes(std::vector<std::string>& tokens) {
  std::vector<std::string> result;
  bool was_byte = false;
  for (std::string& token : tokens) {
    const auto byte = byte_of_token(token);
    if (byte) token.assign(1, static_cast<char>(*byte));
    if (byte && was_byte) {
      result.back() += token;
    } else {
      result.push_back(std::move(token));
    }
    was_byte = byte.has_value();
  }
  tokens = std::move(result);
}

void fuse(std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  tokens = {std::move(text)};
}

}  // namespace

std::optional<unsigned char> byte_of_token(std::string_view content) noexcept {
  if (content.size() != 6 || !content.starts_with("<0x") || content.back() != '>') {
    return std::nullopt;
  }
  unsigned value = 0;
  for (const char c : content.substr(3, 2)) {
    const unsigned digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                           : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A') + 10
                           : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a') + 10
                                                  : 16;
    if (digit > 15) return std::nullopt;
    value = 16 * value + digit;
  }
  return static_cast<unsigned char>(value);
}

Result<TokenDecoder> TokenDecoder::read(const Metadata& decoder, bool is_byte_level) {
  TokenDecoder result;
  if (decoder.is_null()) {
    result.steps_.emplace_back().kind = is_byte_level ? Kind::byte_level : Kind::spaces;
    return result;
  }
  KRAIT_RETURN_IF_ERROR(
      fields::steps(decoder, "decoders", "decoder",
                    [&](std::string_view type, const Metadata& step, const std::string& where) {
                      return result.add(type, step, where);
                    }));
  return result;
}

Result<void> TokenDecoder::add(std::string_view type, const Metadata& decoder,
                               const std::string& where) {
  Step step;
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Kind::fuse;
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    KRAIT_ASSIGN_OR_RETURN(const char32_t mark, fields::character(decoder, "replacement", where));
    utf8::append(step.content, mark);
    KRAIT_ASSIGN_OR_RETURN(const bool adds,
                           fields::boolean(decoder, "add_prefix_space", where, true));
    step.drops_first = adds && !decoder["prepend_scheme"].is("never");
  } else if (type == "WordPiece") {
    step.kind = Kind::word_piece;
    KRAIT_ASSIGN_OR_RETURN(step.content, fields::string(decoder, "prefix", where));
    KRAIT_ASSIGN_OR_RETURN(step.is_cleaned, fields::boolean(decoder, "cleanup", where, {}));
  } else if (type == "BPEDecoder") {
    step.kind = Kind::suffix;
    KRAIT_ASSIGN_OR_RETURN(step.content, some_text(decoder, "suffix", where));
  } else if (type == "CTC") {
    step.kind = Kind::ctc;
    KRAIT_ASSIGN_OR_RETURN(step.content, some_text(decoder, "pad_token", where));
    KRAIT_ASSIGN_OR_RETURN(step.delimiter, some_text(decoder, "word_delimiter_token", where));
    KRAIT_ASSIGN_OR_RETURN(step.is_cleaned, fields::boolean(decoder, "cleanup", where, {}));
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    KRAIT_ASSIGN_OR_RETURN(const char32_t mark, fields::character(decoder, "content", where));
    utf8::append(step.content, mark);
    KRAIT_ASSIGN_OR_RETURN(step.start, number(decoder, "start", where));
    KRAIT_ASSIGN_OR_RETURN(step.stop, number(decoder, "stop", where));
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    KRAIT_ASSIGN_OR_RETURN(step.content, fields::string(decoder, "content", where));
    KRAIT_ASSIGN_OR_RETURN(step.pattern, Pattern::read(decoder["pattern"], where + ".pattern"));
  } else {
    return mismatch(ErrorCode::unsupported, where + ".type",
                    "ByteLevel, ByteFallback, Metaspace, WordPiece, BPEDecoder, CTC, Fuse, Strip, "
                    "Replace or Sequence",
                    describe(decoder["type"]));
  }
  steps_.push_back(std::move(step));
  return {};
}

bool TokenDecoder::is_plain() const noexcept {
  return std::all_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.kind == Kind::byte_level || step.kind == Kind::fuse;
  });
}

bool TokenDecoder::gives_bytes() const noexcept {
  return is_plain() && std::any_of(steps_.begin(), steps_.end(),
                                   [](const Step& step) { return step.kind == Kind::byte_level; });
}

bool TokenDecoder::has_bytes() const noexcept {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return step.kind == Kind::byte_fallback; });
}

Result<std::string> TokenDecoder::replaced(const Step& step, std::string_view text,
                                           std::size_t room) {
  if (step.pattern->plain_text()) {
    return with_all_replaced(text, *step.pattern->plain_text(), step.content, room);
  }
  std::string result;
  // The bytes before may be no UTF-8, which patterns do not take.
  if (utf8::first_ill_formed(text) != text.size()) return std::string(text);
  PatternSearch search(*step.pattern);
  search.start(text);
  std::size_t position = 0;
  while (true) {
    KRAIT_ASSIGN_OR_RETURN(const RegexMatch match, search.next());
    if (!match.found || result.size() > room) break;
    result.append(text.substr(position, match.begin - position)).append(step.content);
    position = match.end;
  }
  return result.append(text.substr(position));
}

Result<void> TokenDecoder::apply(const Step& step, std::vector<std::string>& tokens,
                                 std::size_t room) {
  if (step.kind == Kind::byte_fallback) {
    join_bytes(tokens);
    return {};
  }
  std::size_t size = 0;  // after the one step that makes texts longer by more than a space
  if (step.kind == Kind::ctc) {
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string& token = tokens[i];
    switch (step.kind) {
      case Kind::byte_level: {
        std::string bytes;
        if (byte_alphabet::append_bytes(bytes, token)) token = std::move(bytes);
        break;
      }
      case Kind::metaspace:
        token = with_all_replaced(token, step.content, i == 0 && step.drops_first ? "" : " ");
        break;
      case Kind::word_piece:
        if (i > 0) {
          token = token.starts_with(step.content) ? token.substr(step.content.size()) : " " + token;
        }
        if (step.is_cleaned) token = cleaned(std::move(token));
        break;
      case Kind::suffix:
        token = with_all_replaced(token, step.content, i + 1 == tokens.size() ? "" : " ");
        break;
      case Kind::ctc:
        token = with_all_replaced(token, step.content, "");
        if (step.is_cleaned) {
          token = with_all_replaced(cleaned(std::move(token)), step.delimiter, " ");
        }
        break;
      case Kind::strip:
        token = stripped(token, step.content, step.start, step.stop);
        break;
      case Kind::replace: {
        KRAIT_ASSIGN_OR_RETURN(token, replaced(step, token, room));
        size += token.size();
        break;
      }
      case Kind::spaces:
        if (i > 0) token.insert(0, 1, ' ');
        break;
      case Kind::byte_fallback:
      case Kind::fuse:
        break;
    }
    if (size > room) {
      return mismatch(ErrorCode::unsupported, "decoder",
                      fmt::format("steps that make at most {} bytes of a text", room), "more");
    }
  }
  if (step.kind == Kind::fuse || step.kind == Kind::byte_level) fuse(tokens);
  return {};
}

Result<std::string> TokenDecoder::inside(std::string_view content) const {
  // Between two that nothing takes away or joins with it.
  std::vector<std::string> tokens = {std::string(content)};
  const std::size_t room = 8 * content.size() + 64;
  bool is_fused = false;
  for (const Step& step : steps_) {
    if (step.kind == Kind::fuse || step.kind == Kind::byte_level) is_fused = true;
    if (is_fused && step.kind == Kind::strip) continue;  // takes from the ends of the text
    const bool has_place = step.kind == Kind::metaspace || step.kind == Kind::word_piece ||
                           step.kind == Kind::suffix || step.kind == Kind::spaces;
    if (has_place && !is_fused) tokens = {"", std::move(tokens.front()), ""};
    KRAIT_RETURN_IF_ERROR(apply(step, tokens, room));
    if (tokens.size() == 3) tokens = {std::move(tokens[1])};
  }
  return std::move(tokens.front());
}

Result<std::string> TokenDecoder::decode(std::vector<std::string> tokens) const {
  if (tokens.empty()) return std::string();
  std::size_t room = 4096;
  for (const std::string& token : tokens) room += 64 * token.size();
  for (const Step& step : steps_) KRAIT_RETURN_IF_ERROR(apply(step, tokens, room));
  fuse(tokens);
  return std::move(tokens.front());
}

}  // namespace v0_1
}  // namespace krait
