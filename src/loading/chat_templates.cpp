#include "krait/loading/chat_templates.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

void put(std::vector<NamedText>& sources, const std::string& name, const std::string& text) {
  const auto known = std::find_if(sources.begin(), sources.end(),
                                  [&](const NamedText& source) { return source.name == name; });
  if (known == sources.end()) {
    sources.push_back({name, text});
  } else {
    known->text = text;
  }
}

// `chat_template` of tokenizer_config.json; false if it is something else.
bool read_config(const Metadata& found, std::vector<NamedText>& sources) {
  if (found.text() != nullptr) put(sources, "default", *found.text());
  if (found.is_null() || found.text() != nullptr) return true;
  if (found.array() == nullptr) return false;
  for (const Metadata& entry : *found.array()) {
    const std::string* name = entry["name"].text();
    const std::string* text = entry["template"].text();
    if (name == nullptr || text == nullptr) return false;
    put(sources, *name, *text);
  }
  return true;
}

// What a file names "…_token", as a text or as an object with it.
void read_marks(const Metadata& config, Metadata::Object& marks) {
  if (config.object() == nullptr) return;
  for (const auto& [key, value] : *config.object()) {
    if (!key.ends_with("_token")) continue;
    const Metadata& content = value.object() != nullptr ? value["content"] : value;
    const auto same = [&key = key](const Metadata::Member& mark) { return mark.key == key; };
    if (content.text() != nullptr && std::none_of(marks.begin(), marks.end(), same)) {
      marks.push_back({key, content});
    }
  }
}

Metadata parse(const std::string& text) {
  if (text.empty()) return {};
  Result<Metadata> parsed = parse_json(text, "");
  return parsed ? *std::move(parsed) : Metadata();
}

}  // namespace

Result<ChatTemplate> ChatTemplates::choose(bool has_tools) const {
  if (problem) return *problem;
  const auto find = [&](std::string_view name) {
    return std::find_if(sources.begin(), sources.end(),
                        [&](const NamedText& source) { return source.name == name; });
  };
  auto found = has_tools ? find("tool_use") : sources.end();
  if (found == sources.end()) found = find("default");
  if (found == sources.end()) {
    std::string names;
    for (const NamedText& source : sources) {
      names += (names.empty() ? "" : ", ") + json_text(source.name);
    }
    return Error{ErrorCode::not_found,
                 fmt::format("[template] chat template: expected one named \"default\", found {}",
                             names.empty() ? "none in the checkpoint" : names)};
  }
  return ChatTemplate::parse(found->text, sources.size() == 1
                                              ? "chat template"
                                              : "chat template " + json_text(found->name));
}

ChatTemplates read_chat_templates(const Checkpoint& checkpoint) {
  ChatTemplates result;
  const Metadata config = parse(checkpoint.tokenizer_config);
  if (!checkpoint.chat_template.empty()) {
    put(result.sources, "default", checkpoint.chat_template);
  } else if (!read_config(config["chat_template"], result.sources)) {
    result.problem = Error{ErrorCode::bad_config,
                           fmt::format("[template] chat_template: expected a text, or a list of "
                                       "name and template, found {} ({}/tokenizer_config.json)",
                                       json_text(config["chat_template"]), checkpoint.path)};
  }
  for (const NamedText& more : checkpoint.more_chat_templates) {
    put(result.sources, more.name, more.text);
  }
  Metadata::Object marks;
  read_marks(config, marks);
  read_marks(parse(checkpoint.special_tokens), marks);
  result.marks = std::move(marks);
  return result;
}

}  // namespace v0_1
}  // namespace krait
