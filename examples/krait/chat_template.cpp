#include "chat_template.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "input.hpp"

namespace krait::cli {
namespace {

using nlohmann::json;

constexpr std::size_t deepest = 150;

// Makes values of what the parser finds.
class Builder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return put({}); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos) {
      problem = "whole numbers below 18446744073709551616, found " + text.substr(0, 40);
      return false;
    }
    return put(value);
  }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(std::size_t /*elements*/) override { return open(Metadata::Object()); }
  bool key(string_t& value) override {
    open_.back().key = std::move(value);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return open(Metadata::Array()); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    problem = "JSON, found something else at byte " + std::to_string(position);
    return false;
  }

  Metadata result;
  std::string problem;

 private:
  struct Open {
    Metadata value;
    std::string key;  // of the member that comes next
  };

  bool put(Metadata value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (Metadata::Array* array = open_.back().value.array()) {
      array->push_back(std::move(value));
    } else {
      Metadata::Object& object = *open_.back().value.object();
      const std::string& key = open_.back().key;
      const auto known =
          std::find_if(object.begin(), object.end(),
                       [&](const Metadata::Member& member) { return member.key == key; });
      if (known == object.end()) {
        object.push_back({key, std::move(value)});
      } else {
        known->value = std::move(value);
      }
    }
    return true;
  }

  bool open(Metadata value) {
    if (open_.size() == deepest) {
      problem = "lists and objects nested at most " + std::to_string(deepest) + " deep, found more";
      return false;
    }
    open_.push_back({std::move(value), {}});
    return true;
  }

  bool close() {
    Metadata value = std::move(open_.back().value);
    open_.pop_back();
    return put(std::move(value));
  }

  std::vector<Open> open_;
};

}  // namespace

Result<Metadata> parse_variables(std::string_view text, const std::string& name) {
  Builder builder;
  if (json::sax_parse(text, &builder)) return std::move(builder.result);
  return Error{ErrorCode::bad_format,
               "[json] variables: expected " + builder.problem + " (" + name + ")"};
}

Result<Metadata> read_variables(const std::string& path) {
  KRAIT_ASSIGN_OR_RETURN(Input input, Input::open(path));
  KRAIT_ASSIGN_OR_RETURN(const std::string text, input.rest());
  return parse_variables(text, path);
}

Result<PrintedPrompt> print_prompt(const LanguageModel& model, const Metadata& variables,
                                   const std::string& name) {
  const Metadata::Array* messages = variables["messages"].array();
  if (messages == nullptr) {
    return Error{ErrorCode::bad_argument,
                 "[template] messages: expected a list, in an object with more variables, found " +
                     std::string(variables.object() == nullptr     ? "no object"
                                 : variables["messages"].is_null() ? "none"
                                                                   : "something else") +
                     " (" + name + ")"};
  }
  const Metadata all = chat_variables(*messages, variables);
  KRAIT_ASSIGN_OR_RETURN(const ChatTemplate written_by,
                         model.chat_templates.choose(!all["tools"].is_null()));
  KRAIT_ASSIGN_OR_RETURN(RenderedText prompt, written_by.render(all, model.chat_templates.marks));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens,
                         model.tokenizer->encode(prompt.text, {.literal = prompt.literal}));
  return PrintedPrompt{std::move(prompt.text), std::move(tokens)};
}

}  // namespace krait::cli
