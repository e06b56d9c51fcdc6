#include "krait/loading/chat_templates.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Templates by name, in the order in which the names were first put.
class TemplateList {
 public:
  void put(const std::string& name, const std::string& text) {
    const auto [place, is_new] = places_.try_emplace(name, list_.size());
    if (is_new) {
      list_.push_back({name, text});
    } else {
      list_[place->second].text = text;
    }
  }
  std::vector<NamedText> take() { return std::move(list_); }

 private:
  std::vector<NamedText> list_;
  std::map<std::string, std::size_t> places_;
};

// `chat_template` of tokenizer_config.json; false if it is something else.
bool read_config(const Metadata& found, TemplateList& sources) {
  if (found.text() != nullptr) sources.put("default", *found.text());
  if (found.is_null() || found.text() != nullptr) return true;
  if (found.array() == nullptr) return false;
  for (const Metadata& entry : *found.array()) {
    const std::string* name = entry["name"].text();
    const std::string* text = entry["template"].text();
    if (name == nullptr || text == nullptr) return false;
    sources.put(*name, *text);
  }
  return true;
}

// What a file names "…_token", as a text or as an object with it.
void read_marks(const Metadata& config, std::set<std::string>& known, Metadata::Object& marks) {
  if (config.object() == nullptr) return;
  for (const auto& [key, value] : *config.object()) {
    if (!key.ends_with("_token")) continue;
    const Metadata& content = value.object() != nullptr ? value["content"] : value;
    if (content.text() != nullptr && known.insert(key).second) marks.push_back({key, content});
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
  TemplateList sources;
  const Metadata config = parse(checkpoint.tokenizer_config);
  if (!checkpoint.chat_template.empty()) {
    sources.put("default", checkpoint.chat_template);
  } else if (!read_config(config["chat_template"], sources)) {
    result.problem = Error{ErrorCode::bad_config,
                           fmt::format("[template] chat_template: expected a text, or a list of "
                                       "name and template, found {} ({}/tokenizer_config.json)",
                                       json_text(config["chat_template"]), checkpoint.path)};
  }
  for (const NamedText& more : checkpoint.more_chat_templates) {
    sources.put(more.name, more.text);
  }
  result.sources = sources.take();
  Metadata::Object marks;
  std::set<std::string> known;
  read_marks(config, known, marks);
  read_marks(parse(checkpoint.special_tokens), known, marks);
  result.marks = std::move(marks);
  return result;
}

}  // namespace v0_1
}  // namespace krait
