#include "krait/text/chat_template.hpp"

#include <algorithm>
#include <utility>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/template/nodes.hpp"
#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

class ParsedTemplate {
 public:
  ParsedTemplate(std::string_view source, std::string_view its_name)
      : block(parse_template(source)), name(its_name) {}

  Block block;
  std::string name;
};

namespace {

// Whatever a template or its variables have put into it, it is one line, and not a long one.
std::string printable_line(std::string_view text) {
  constexpr std::size_t most = 1000;
  std::string line;
  for (std::size_t at = 0; at < text.size() && line.size() < most;) {
    const utf8::Step step = utf8::step(text, at);
    const bool is_good = step.form == utf8::Form::complete && is_printable(step.code);
    if (is_good) {
      line += text.substr(at, step.length);
    } else {
      line += step.code == ' ' ? ' ' : '?';
    }
    at += step.length;
  }
  return line;
}

Error error_of(const Failure& failure, std::string_view name, std::size_t line) {
  std::string where(name);
  if (line > 0) where += ", line " + std::to_string(line);
  return {failure.code, "[template] " + printable_line(failure.what) + " (" + where + ")"};
}

// Templates write roles into their marks, as in "<|user|>"; a plain word forges none.
bool is_plain_word(std::string_view text) {
  return !text.empty() && text.size() <= 32 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

Value message_of(Budget& budget, const Metadata& message) {
  if (message.object() == nullptr) return from_metadata(budget, message, true);
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [key, value] : *message.object()) {
    const bool is_role = key == "role" && value.text() != nullptr && is_plain_word(*value.text());
    budget.allocate(sizeof(String) + key.size());
    items.emplace_back(make_string(key, true), from_metadata(budget, value, !is_role));
  }
  return make_dict(budget, std::move(items));
}

Value variable_of(Budget& budget, std::string_view name, const Metadata& value) {
  if (name != "messages" || value.array() == nullptr) return from_metadata(budget, value, true);
  std::vector<Value> messages;
  for (const Metadata& message : *value.array()) messages.push_back(message_of(budget, message));
  return make_list(budget, std::move(messages));
}

// The first string, or name in front of a value, that is no UTF-8; null if all are.
const std::string* ill_formed(const Metadata& value) {
  const auto is_bad = [](const std::string& text) {
    return utf8::first_ill_formed(text) != text.size();
  };
  if (value.text() != nullptr) return is_bad(*value.text()) ? value.text() : nullptr;
  if (value.array() != nullptr) {
    for (const Metadata& item : *value.array()) {
      if (const std::string* found = ill_formed(item)) return found;
    }
  }
  if (value.object() != nullptr) {
    for (const auto& [key, item] : *value.object()) {
      if (is_bad(key)) return &key;
      if (const std::string* found = ill_formed(item)) return found;
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace jinja

Result<ChatTemplate> ChatTemplate::parse(std::string_view jinja, std::string_view name) {
  try {
    return ChatTemplate(std::make_shared<const jinja::ParsedTemplate>(jinja, name));
  } catch (const jinja::Failure& failure) {
    return jinja::error_of(failure, name, failure.line);
  }
}

Result<RenderedText> ChatTemplate::render(const Metadata& variables, const Metadata& marks) const {
  for (const Metadata* all : {&variables, &marks}) {
    if (const std::string* text = jinja::ill_formed(*all)) {
      return Error{ErrorCode::bad_argument, "[template] variables: expected UTF-8, found " +
                                                json_text(*text) + " (" + parsed_->name + ")"};
    }
  }
  jinja::Budget budget;
  jinja::Renderer renderer(budget);
  std::size_t line = 0;
  try {
    for (const auto* all : {marks.object(), variables.object()}) {
      if (all == nullptr) continue;
      for (const auto& [name, value] : *all) {
        renderer.set(name, all == marks.object() ? jinja::from_metadata(budget, value, false)
                                                 : jinja::variable_of(budget, name, value));
      }
    }
    line = 1;
    jinja::String text = renderer.render(parsed_->block);
    return RenderedText{std::move(text.bytes), std::move(text.marks)};
  } catch (const jinja::Failure& failure) {
    const std::size_t at = failure.line > 0 ? failure.line : renderer.line();
    return jinja::error_of(failure, parsed_->name, line == 0 ? 0 : at);
  }
}

}  // namespace v0_1
}  // namespace krait
