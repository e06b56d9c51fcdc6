#include "io/json_private.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<std::string_view, double>, 3> words = {
    {{"-Infinity", -std::numeric_limits<double>::infinity()},
     {"Infinity", std::numeric_limits<double>::infinity()},
     {"NaN", std::numeric_limits<double>::quiet_NaN()}}};

// Leaves no value with children, the deepest first: those end without a need of memory.
void empty(json& value) noexcept {
  if (value.is_array()) {
    auto& items = value.get_ref<json::array_t&>();
    for (json& item : items) empty(item);
    items.clear();
  } else if (value.is_object()) {
    auto& items = value.get_ref<json::object_t&>();
    for (auto& [key, item] : items) empty(item);
    items.clear();
  }
}

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
      return refuse(fmt::format("every key once, found \"{}\" twice", printable(item->first)));
    }
    slot_ = &item->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    error_at_ = position;
    return refuse("JSON");
  }

  JsonDocument take() { return std::move(root_); }
  const std::string& problem() const { return problem_; }
  /// Bytes read when the text turned out to be no JSON; nothing for other problems.
  std::optional<std::size_t> error_at() const { return error_at_; }

 private:
  bool refuse(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }

  json* place(json value) {
    if (open_.empty()) {
      *root_ = std::move(value);
      return &*root_;
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

  JsonDocument root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;  // of the key read last
  std::string problem_;
  std::optional<std::size_t> error_at_;
};

// The text with the bare words outside strings in quotes, and where in the result a quote was
// added.
struct Quoted {
  std::string text;
  std::vector<std::size_t> added;
};

Quoted with_quoted_words(std::string_view text) {
  Quoted result;
  result.text.reserve(text.size());
  const auto quote = [&] {
    result.added.push_back(result.text.size());
    result.text += '"';
  };
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string && c == '\\') {
      result.text += text.substr(i, 2);
      i += 2;
      continue;
    }
    if (c == '"') in_string = !in_string;
    if (!in_string && (c == 'I' || c == 'N' || c == '-')) {
      const auto word = std::find_if(words.begin(), words.end(), [&](const auto& entry) {
        return text.substr(i, entry.first.size()) == entry.first;
      });
      if (word != words.end()) {
        quote();
        result.text += word->first;
        quote();
        i += word->first.size();
        continue;
      }
    }
    result.text += c;
    ++i;
  }
  return result;
}

// "line 3, column 14", or the end, for the last of `count` bytes read.
std::string describe_place(std::string_view text, std::size_t count) {
  if (count == 0 || count > text.size()) return "the end of the text";
  const std::string_view before = text.substr(0, count - 1);
  const auto line = std::count(before.begin(), before.end(), '\n');
  const std::size_t start = before.rfind('\n');
  const std::size_t column =
      start == std::string_view::npos ? before.size() : before.size() - start - 1;
  return fmt::format("something else at line {}, column {}", line + 1, column + 1);
}

}  // namespace

JsonDocument::~JsonDocument() { empty(value_); }

Result<JsonDocument> parse_json(std::string_view text, std::string_view name, JsonWords dialect) {
  const auto fail = [&](std::string_view problem) {
    return printable(
        Error{ErrorCode::bad_format, fmt::format("[json] expected {} ({})", problem, name)});
  };
  if (text.size() > max_json_bytes) {
    return fail(fmt::format("at most {} bytes, found {}", max_json_bytes, text.size()));
  }
  // Few files have such words, and some are large.
  const bool may_have_words = dialect == JsonWords::python &&
                              (text.find("NaN") != text.npos || text.find("Infinity") != text.npos);
  const Quoted quoted = may_have_words ? with_quoted_words(text) : Quoted{};
  const std::string_view source = may_have_words ? std::string_view(quoted.text) : text;
  Builder builder;
  if (!json::sax_parse(source.begin(), source.end(), &builder)) {
    if (!builder.error_at()) return fail(builder.problem());
    const auto extra =
        std::lower_bound(quoted.added.begin(), quoted.added.end(), *builder.error_at()) -
        quoted.added.begin();
    const std::size_t count = *builder.error_at() - static_cast<std::size_t>(extra);
    return fail(fmt::format("JSON, found {}", describe_place(text, count)));
  }
  return builder.take();
}

std::optional<double> json_number(const json& value) {
  if (value.is_number()) return value.get<double>();
  const json* text = &value;
  if (value.is_object() && value.size() == 1) {
    const auto it = value.find("__float__");
    if (it == value.end()) return std::nullopt;
    text = &*it;
  }
  if (!text->is_string()) return std::nullopt;
  for (const auto& [word, number] : words) {
    if (text->get_ref<const std::string&>() == word) return number;
  }
  return std::nullopt;
}

std::string json_text(const json& value) {
  return printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
}

}  // namespace v0_1
}  // namespace krait
