#include <fmt/format.h>

#include <set>
#include <vector>

#include "io/json_private.hpp"

namespace krait::inline v0_1 {
namespace {

using nlohmann::json;

// Builds a document while watching depth and keys; nlohmann's own parser keeps the last of several
// equal keys and recurses without a limit when values are destroyed.
class Builder final : public nlohmann::json_sax<json> {
 public:
  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t& /*text*/) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(std::size_t /*size*/) override { return open(json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*size*/) override { return open(json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    auto& object = open_.back()->get_ref<json::object_t&>();
    const auto [item, is_new] = object.try_emplace(std::move(value));
    if (!is_new) {
      return refuse(fmt::format("every key once, found \"{}\" twice", item->first));
    }
    slot_ = &item->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return refuse(fmt::format("JSON, found something else at byte {}", position));
  }

  json take() { return std::move(root_); }
  const std::string& problem() const { return problem_; }

 private:
  bool refuse(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }

  json* place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  template <class T>
  bool put(T&& value) {
    place(json(std::forward<T>(value)));
    return true;
  }

  bool open(json container) {
    if (open_.size() >= static_cast<std::size_t>(max_json_depth)) {
      return refuse(fmt::format("at most {} levels, found more", max_json_depth));
    }
    open_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;  // of the key read last
  std::string problem_;
};

// Quotes the bare words outside strings that Python writes for numbers JSON has no name for.
std::string with_quoted_words(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    if (in_string && text[i] == '\\') {
      result += text.substr(i, 2);
      i += 2;
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    if (!in_string) {
      bool replaced = false;
      for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
        if (text.substr(i, word.size()) == word) {
          result += fmt::format("\"{}\"", word);
          i += word.size();
          replaced = true;
          break;
        }
      }
      if (replaced) continue;
    }
    result += text[i++];
  }
  return result;
}

}  // namespace

Result<json> parse_json(std::string_view text, std::string_view name) {
  // Few files have such words, and some are large.
  const bool may_have_words = text.find("NaN") != text.npos || text.find("Infinity") != text.npos;
  const std::string quoted = may_have_words ? with_quoted_words(text) : std::string();
  Builder builder;
  if (!json::sax_parse(may_have_words ? std::string_view(quoted) : text, &builder)) {
    return Error{
        ErrorCode::bad_format,
        fmt::format("[json] expected {} ({})",
                    builder.problem().empty() ? "JSON, found none" : builder.problem(), name)};
  }
  return builder.take();
}

}  // namespace krait::inline v0_1
