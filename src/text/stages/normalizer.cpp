#include "text/stages/normalizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"
#include "text/pipeline/byte_alphabet.hpp"
#include "text/stages/code_points.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::mismatch;

std::string_view stripped(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    std::size_t after = 0;
    if (!unicode::is_space(utf8::next(text, after))) break;
    text.remove_prefix(after);
  }
  while (right && !text.empty()) {
    const std::size_t last = utf8::before(text, text.size());
    std::size_t position = last;
    if (!unicode::is_space(utf8::next(text, position))) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

Error no_room(std::size_t room) {
  return mismatch(ErrorCode::unsupported, "normalizer",
                  fmt::format("steps that make at most {} bytes of a text", room), "more");
}

std::optional<unicode::Form> form_of(std::string_view name) {
  if (name == "NFC") return unicode::Form::nfc;
  if (name == "NFD") return unicode::Form::nfd;
  if (name == "NFKC") return unicode::Form::nfkc;
  if (name == "NFKD") return unicode::Form::nfkd;
  return std::nullopt;
}

}  // namespace

Result<Normalizer> Normalizer::read(const Metadata& normalizer) {
  Normalizer result;
  if (normalizer.is_null()) return result;
  KRAIT_RETURN_IF_ERROR(
      fields::steps(normalizer, "normalizers", "normalizer",
                    [&](std::string_view type, const Metadata& step, const std::string& where) {
                      return result.add(type, step, where);
                    }));
  return result;
}

Result<void> Normalizer::add(std::string_view type, const Metadata& normalizer,
                             const std::string& where) {
  Step step;
  if (const auto form = form_of(type)) {
    step.form = *form;
  } else if (type == "Lowercase") {
    step.kind = Kind::lowercase;
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    KRAIT_ASSIGN_OR_RETURN(step.left, fields::boolean(normalizer, "strip_left", where, true));
    KRAIT_ASSIGN_OR_RETURN(step.right, fields::boolean(normalizer, "strip_right", where, true));
  } else if (type == "BertNormalizer") {
    step.kind = Kind::bert;
    KRAIT_ASSIGN_OR_RETURN(step.bert, read_bert(normalizer, where));
  } else if (type == "Nmt") {
    step.kind = Kind::nmt;
  } else if (type == "StripAccents") {
    step.kind = Kind::strip_accents;
  } else if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "Precompiled") {
    step.kind = Kind::charsmap;
    const Metadata& map = normalizer["precompiled_charsmap"];
    if (!map.is_null()) {
      KRAIT_ASSIGN_OR_RETURN(const std::string_view base64,
                             fields::string(normalizer, "precompiled_charsmap", where));
      KRAIT_ASSIGN_OR_RETURN(step.pieces.charsmap,
                             Charsmap::read_base64(base64, where + ".precompiled_charsmap"));
    }
  } else if (type == "Prepend") {
    step.kind = Kind::prepend;
    KRAIT_ASSIGN_OR_RETURN(step.content, fields::string(normalizer, "prepend", where));
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    KRAIT_ASSIGN_OR_RETURN(step.content, fields::string(normalizer, "content", where));
    KRAIT_ASSIGN_OR_RETURN(step.pattern, Pattern::read(normalizer["pattern"], where + ".pattern"));
  } else {
    return mismatch(ErrorCode::unsupported, where + ".type",
                    "NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, "
                    "BertNormalizer, Nmt, ByteLevel, Precompiled or Sequence",
                    describe(normalizer["type"]));
  }
  steps_.push_back(std::move(step));
  return {};
}

Normalizer Normalizer::of(SentencePiece step) {
  Normalizer result;
  result.steps_.emplace_back();
  result.steps_.back().kind = Kind::sentencepiece;
  result.steps_.back().pieces = std::move(step);
  return result;
}

bool Normalizer::writes_bytes() const noexcept {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return step.kind == Kind::byte_level; });
}

Result<Normalizer::Bert> Normalizer::read_bert(const Metadata& normalizer,
                                               const std::string& where) {
  Bert step;
  KRAIT_ASSIGN_OR_RETURN(step.cleans, fields::boolean(normalizer, "clean_text", where, {}));
  KRAIT_ASSIGN_OR_RETURN(step.spaces_han,
                         fields::boolean(normalizer, "handle_chinese_chars", where, {}));
  KRAIT_ASSIGN_OR_RETURN(step.lowers, fields::boolean(normalizer, "lowercase", where, {}));
  KRAIT_ASSIGN_OR_RETURN(step.strips_accents,
                         fields::boolean(normalizer, "strip_accents", where, step.lowers));
  return step;
}

std::string Normalizer::bert(const Bert& step, std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const char32_t code = utf8::next(text, i);
    if (step.cleans && code_points::is_removed_by_bert(code)) continue;
    const bool is_padded = step.spaces_han && code_points::is_han_of_bert(code);
    if (is_padded) result += ' ';
    if (code < 0x80) {
      const bool is_space = step.cleans && (code == ' ' || (code >= '\t' && code <= '\r'));
      const bool is_upper = step.lowers && code >= 'A' && code <= 'Z';
      result += is_space ? ' ' : static_cast<char>(is_upper ? code + 32 : code);
    } else {
      utf8::append(result, step.cleans && unicode::is_space(code) ? ' ' : code);
    }
    if (is_padded) result += ' ';
  }
  if (utf8::ascii_prefix(result, 0) == result.size()) return result;
  if (step.strips_accents) {
    result = code_points::without(unicode::normalized(result, unicode::Form::nfd), [](char32_t c) {
      return unicode::category(c) == unicode::Category::mn;
    });
  }
  return step.lowers ? unicode::lowercased(result) : result;
}

std::string Normalizer::sentencepiece(const SentencePiece& step, std::string_view text,
                                      std::size_t room, bool goes_on) {
  constexpr std::string_view mark = "\xE2\x96\x81";
  const std::string_view space = step.escapes_spaces ? mark : " ";
  // What the text begins with becomes, and how long it is.
  const auto next = [&](std::string_view rest) {
    if (const auto kept = step.kept.longest(rest); kept.size > 0) {
      return Charsmap::Match{kept.size, rest.substr(0, kept.size)};
    }
    if (const auto match = step.charsmap.longest(rest); match.size > 0) return match;
    std::size_t size = 0;
    utf8::next(rest, size);
    return Charsmap::Match{size, rest.substr(0, size)};
  };
  while (step.removes_extra_spaces && !goes_on && !text.empty()) {
    const Charsmap::Match match = next(text);
    if (match.replacement != " ") break;
    text.remove_prefix(match.size);
  }
  std::string result;
  if (text.empty()) return result;
  result.reserve(text.size() + text.size() / 2);
  if (step.adds_dummy_prefix && !step.is_suffix && !goes_on) result += space;
  bool was_space = step.removes_extra_spaces && !goes_on;
  while (!text.empty() && result.size() <= room) {
    const Charsmap::Match match = next(text);
    text.remove_prefix(match.size);
    std::string_view part = match.replacement;
    while (was_space && part.starts_with(' ')) part.remove_prefix(1);
    if (part.empty()) continue;
    for (const char c : part) {
      if (c == ' ') {
        result += space;
      } else {
        result += c;
      }
    }
    was_space = step.removes_extra_spaces && part.ends_with(' ');
  }
  while (step.removes_extra_spaces && result.ends_with(space)) {
    result.resize(result.size() - space.size());
  }
  if (step.adds_dummy_prefix && step.is_suffix) result += space;
  return result;
}

Result<std::string> Normalizer::replaced(const Step& step, std::string_view text,
                                         std::size_t room) {
  std::string result;
  PatternSearch search(*step.pattern);
  search.start(text);
  std::size_t position = 0;
  while (true) {
    KRAIT_ASSIGN_OR_RETURN(const RegexMatch match, search.next());
    if (!match.found) break;
    result += text.substr(position, match.begin - position);
    if (result.size() + step.content.size() > room) return no_room(room);
    result += step.content;
    position = match.end;
  }
  result += text.substr(position);
  return result;
}

Result<std::string_view> Normalizer::apply(std::string_view text, std::size_t room,
                                           std::string& storage, bool goes_on) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::form:
        if (unicode::is_surely_normalized(text, step.form)) continue;
        storage = unicode::normalized(text, step.form);
        break;
      case Kind::lowercase:
        storage = unicode::lowercased(text);
        break;
      case Kind::strip:
        text = stripped(text, step.left && !goes_on, step.right);
        continue;
      case Kind::bert:
        storage = bert(step.bert, text);
        break;
      case Kind::nmt:
        storage = code_points::nmt(text);
        break;
      case Kind::strip_accents:
        if (utf8::ascii_prefix(text, 0) == text.size()) continue;
        storage = code_points::without(text, unicode::is_mark);
        break;
      case Kind::byte_level: {
        std::string written;
        byte_alphabet::append_written(written, text);
        storage = std::move(written);
        break;
      }
      case Kind::charsmap:
        if (step.pieces.charsmap.is_empty()) continue;
        storage = code_points::mapped(step.pieces.charsmap, text, room);
        break;
      case Kind::sentencepiece:
        storage = sentencepiece(step.pieces, text, room, goes_on);
        break;
      case Kind::prepend:
        if (text.empty() || goes_on) continue;
        if (text.size() + step.content.size() > room) return no_room(room);
        storage = step.content + std::string(text);
        break;
      case Kind::replace: {
        KRAIT_ASSIGN_OR_RETURN(std::string changed, replaced(step, text, room));
        storage = std::move(changed);
        break;
      }
    }
    text = storage;
    if (text.size() > room) return no_room(room);
  }
  return text;
}

}  // namespace v0_1
}  // namespace krait
