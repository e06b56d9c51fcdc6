#include "text/stages/normalizer.hpp"

#include <fmt/format.h>

#include <optional>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"

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
  } else if (type == "Prepend") {
    step.kind = Kind::prepend;
    KRAIT_ASSIGN_OR_RETURN(step.content, fields::string(normalizer, "prepend", where));
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    KRAIT_ASSIGN_OR_RETURN(step.content, fields::string(normalizer, "content", where));
    KRAIT_ASSIGN_OR_RETURN(step.pattern, Pattern::read(normalizer["pattern"], where + ".pattern"));
  } else {
    return mismatch(ErrorCode::unsupported, where + ".type",
                    "NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace or Sequence",
                    describe(normalizer["type"]));
  }
  steps_.push_back(std::move(step));
  return {};
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
                                           std::string& storage) const {
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
        text = stripped(text, step.left, step.right);
        continue;
      case Kind::prepend:
        if (text.empty()) continue;
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
