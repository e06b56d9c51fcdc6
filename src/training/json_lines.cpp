#include "training/json_lines.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

Error JsonLine::error(ErrorCode code, std::string_view expected, std::string_view found) const {
  return {code, fmt::format("[training] line {}: expected {}, found {} ({})", number, expected,
                            found, file)};
}

Result<std::string> JsonLine::string(std::string_view key) const {
  if (const std::string* value = json[key].text()) return *value;
  const bool is_object = json.object() != nullptr;
  return error(ErrorCode::bad_format,
               fmt::format("{}the text \"{}\"", is_object ? "" : "an object with ", key),
               json_text(is_object ? json[key] : json));
}

Result<void> read_json_lines(std::string_view lines, std::string_view name, std::string_view what,
                             FunctionRef<Result<void>(const JsonLine&)> read) {
  JsonLine line;
  line.file = name;
  bool is_empty = true;
  while (!lines.empty()) {
    const std::size_t stop = std::min(lines.find('\n'), lines.size());
    line.text = lines.substr(0, stop);
    lines.remove_prefix(std::min(stop + 1, lines.size()));
    ++line.number;
    if (line.text.find_first_not_of(" \t\r") == line.text.npos) continue;
    KRAIT_ASSIGN_OR_RETURN(line.json,
                           parse_json(line.text, fmt::format("{}, line {}", name, line.number)));
    KRAIT_RETURN_IF_ERROR(read(line));
    is_empty = false;
  }
  if (!is_empty) return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[training] data: expected {}, found none ({})", what, name)};
}

std::string with_members(const JsonLine& line, std::span<const JsonMember> more) {
  const Metadata::Object& object = *line.json.object();
  const auto is_replaced = [&](const Metadata::Member& member) {
    return std::ranges::find(more, member.key, &JsonMember::first) != more.end();
  };
  std::string members;
  if (std::ranges::none_of(object, is_replaced)) {  // as they are written
    members = line.text.substr(line.text.find('{') + 1);
    members.erase(members.find_last_of('}'));
  } else {
    for (const Metadata::Member& member : object) {
      if (is_replaced(member)) continue;
      members += members.empty() ? "" : ", ";
      members += json_of(std::string_view(member.key)) + ": " + json_of(member.value);
    }
  }
  for (const auto& [key, value] : more) {
    members += members.empty() ? "" : ", ";
    members += fmt::format("\"{}\": {}", key, value);
  }
  return "{" + members + "}";
}

std::string json_of(std::string_view text) {
  std::string json;
  append_json_string(json, text);
  return json;
}

std::string json_of(const Metadata& value) {
  if (const std::string* text = value.text()) return json_of(std::string_view(*text));
  std::string json;
  if (const Metadata::Array* array = value.array()) {
    for (const Metadata& entry : *array) json += (json.empty() ? "" : ", ") + json_of(entry);
    return "[" + json + "]";
  }
  if (const Metadata::Object* object = value.object()) {
    for (const Metadata::Member& member : *object) {
      json += (json.empty() ? "" : ", ") + json_of(std::string_view(member.key)) + ": " +
              json_of(member.value);
    }
    return "{" + json + "}";
  }
  if (const auto whole = value.whole()) return fmt::to_string(*whole);
  if (const auto integer = value.integer()) return fmt::to_string(*integer);
  if (const auto number = value.number()) return fmt::to_string(*number);
  const auto truth = value.boolean();
  return !truth ? "null" : *truth ? "true" : "false";
}

Result<std::vector<Token>> read_prompt(const JsonLine& line, const Tokenizer& tokenizer) {
  KRAIT_ASSIGN_OR_RETURN(const std::string text, line.string("prompt"));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> prompt, tokenizer.encode(text, {.add_special = false}));
  if (prompt.empty()) {
    return line.error(ErrorCode::bad_argument, "a prompt of at least one token", "an empty one");
  }
  return prompt;
}

Result<std::vector<Token>> read_answer(const JsonLine& line, std::string_view key,
                                       const Tokenizer& tokenizer, Token end, Index length) {
  KRAIT_ASSIGN_OR_RETURN(const std::string text, line.string(key));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> answer, tokenizer.encode(text, {.add_special = false}));
  answer.push_back(end);
  if (std::ssize(answer) > length) {
    const std::string what = key == "response" ? "a response" : fmt::format("a {} answer", key);
    return line.error(ErrorCode::bad_argument, fmt::format("{} of at most {} tokens", what, length),
                      fmt::format("{} with its end", answer.size()));
  }
  return answer;
}

Row join(std::span<const Token> prompt, std::span<const Token> answer) {
  Row row{.tokens = {prompt.begin(), prompt.end()}, .given = std::ssize(prompt)};
  row.tokens.insert(row.tokens.end(), answer.begin(), answer.end());
  return row;
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
