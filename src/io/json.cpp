#include "io/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/utf8.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::pair<std::string_view, double>, 3> words = {
    {{"-Infinity", -std::numeric_limits<double>::infinity()},
     {"Infinity", std::numeric_limits<double>::infinity()},
     {"NaN", std::numeric_limits<double>::quiet_NaN()}}};

// Builds a tree while watching depth and keys.
class Builder final : public Json::json_sax_t {
 public:
  bool null() override { return put({}); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t& /*text*/) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(std::size_t /*size*/) override { return open(Metadata::Object()); }
  bool start_array(std::size_t /*size*/) override { return open(Metadata::Array()); }
  bool end_array() override { return close(); }

  bool end_object() override {
    if (const std::string* key = repeated_key(*open_.back()->object())) {
      return refuse(fmt::format("every key once, found \"{}\" twice", printable(*key)));
    }
    return close();
  }

  bool key(string_t& value) override {
    open_.back()->object()->push_back({std::move(value), {}});
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    error_at_ = position;
    return refuse("JSON");
  }

  Metadata take() { return std::move(root_); }
  const std::string& problem() const { return problem_; }
  /// Bytes read when the text turned out to be no JSON; nothing for other problems.
  std::optional<std::size_t> error_at() const { return error_at_; }

 private:
  static const std::string* repeated_key(const Metadata::Object& members) {
    std::vector<const std::string*> keys;
    keys.reserve(members.size());
    for (const Metadata::Member& member : members) keys.push_back(&member.key);
    const auto less = [](const std::string* a, const std::string* b) { return *a < *b; };
    std::sort(keys.begin(), keys.end(), less);
    const auto same = [](const std::string* a, const std::string* b) { return *a == *b; };
    const auto found = std::adjacent_find(keys.begin(), keys.end(), same);
    return found == keys.end() ? nullptr : *found;
  }

  bool refuse(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    return false;
  }

  Metadata* place(Metadata value) {
    Metadata* slot = &root_;
    if (!open_.empty()) {
      Metadata& parent = *open_.back();
      slot = parent.array() != nullptr ? &parent.array()->emplace_back()
                                       : &parent.object()->back().value;
    }
    *slot = std::move(value);
    return slot;
  }

  bool put(Metadata value) {
    place(std::move(value));
    return true;
  }

  bool open(Metadata container) {
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

  Metadata root_;
  std::vector<Metadata*> open_;  // each the last child of the one before it, which stays in place
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

Result<Metadata> parse_json(std::string_view text, std::string_view name, JsonWords dialect) {
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
  if (!Json::sax_parse(source.begin(), source.end(), &builder)) {
    if (!builder.error_at()) return fail(builder.problem());
    const auto extra =
        std::lower_bound(quoted.added.begin(), quoted.added.end(), *builder.error_at()) -
        quoted.added.begin();
    const std::size_t count = *builder.error_at() - static_cast<std::size_t>(extra);
    return fail(fmt::format("JSON, found {}", describe_place(text, count)));
  }
  return builder.take();
}

std::optional<double> json_number(const Metadata& value) {
  if (const auto number = value.number()) return number;
  const Metadata& wrapped = value["__float__"];
  const Metadata& word = value.size() == 1 && !wrapped.is_null() ? wrapped : value;
  for (const auto& [spelling, number] : words) {
    if (word.is(spelling)) return number;
  }
  return std::nullopt;
}

void append_json_string(std::string& json, std::string_view text, bool ascii) {
  json += '"';
  for (std::size_t i = 0; i < text.size();) {
    const utf8::Step step = utf8::step(text, i);
    const char32_t code = step.form == utf8::Form::complete ? step.code : utf8::replacement;
    i += step.length;
    constexpr std::string_view letters = "\"\"\\\\\bb\ff\nn\rr\tt";  // pairs
    const std::size_t pair = code < 0x80 ? letters.find(static_cast<char>(code)) : letters.npos;
    if (pair != letters.npos && pair % 2 == 0) {
      json += '\\';
      json += letters[pair + 1];
    } else if (code < 0x20 || (ascii && code >= 0x7F && code < 0x10000)) {
      json += fmt::format("\\u{:04x}", static_cast<unsigned>(code));
    } else if (ascii && code >= 0x10000) {
      const auto rest = static_cast<unsigned>(code) - 0x10000U;
      json += fmt::format("\\u{:04x}\\u{:04x}", 0xD800U + (rest >> 10U), 0xDC00U + (rest & 0x3FFU));
    } else {
      utf8::append(json, code);
    }
  }
  json += '"';
}

namespace {

constexpr std::size_t longest_text = 60;

// Stops where the text is longer than `longest`; a short one is in ASCII.
void append_value(std::string& json, const Metadata& value, std::size_t longest) {
  const bool is_cut = longest != std::string::npos;
  const auto is_full = [&] { return json.size() > longest; };
  if (const auto* text = value.text()) {
    // A character takes at least a byte.
    append_json_string(json, std::string_view(*text).substr(0, is_cut ? longest + 4 : longest),
                       is_cut);
  } else if (const auto* items = value.array()) {
    json += '[';
    for (std::size_t i = 0; i < items->size() && !is_full(); ++i) {
      if (i > 0) json += ',';
      append_value(json, (*items)[i], longest);
    }
    json += ']';
  } else if (const auto* members = value.object()) {
    json += '{';
    for (std::size_t i = 0; i < members->size() && !is_full(); ++i) {
      if (i > 0) json += ',';
      append_json_string(json, (*members)[i].key, is_cut);
      json += ':';
      append_value(json, (*members)[i].value, longest);
    }
    json += '}';
  } else if (const auto truth = value.boolean()) {
    json += *truth ? "true" : "false";
  } else if (const auto whole = value.whole()) {
    json += fmt::to_string(*whole);
  } else if (const auto integer = value.integer()) {
    json += fmt::to_string(*integer);
  } else if (const auto number = value.number(); number && std::isfinite(*number)) {
    const std::string digits = fmt::to_string(*number);
    json += digits;
    if (digits.find_first_of(".e") == digits.npos) json += ".0";
  } else {
    json += "null";
  }
}

}  // namespace

std::string json_text(const Metadata& value) {
  std::string json;
  append_value(json, value, longest_text);
  return printable(json, longest_text);
}

std::string full_json(const Metadata& value) {
  std::string json;
  append_value(json, value, std::string::npos);
  return json;
}

}  // namespace v0_1
}  // namespace krait
