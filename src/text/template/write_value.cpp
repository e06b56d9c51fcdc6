// Values as text: str(), repr() and json.dumps.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/utf8.hpp"
#include "text/template/characters.hpp"
#include "text/template/value.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

void append_string_repr(TextBuilder& out, const String& text) {
  const bool has_apostrophe = text.bytes.find('\'') != std::string::npos;
  const char quote = has_apostrophe && text.bytes.find('"') == std::string::npos ? '"' : '\'';
  std::string result(1, quote);
  for (std::size_t at = 0; at < text.bytes.size();) {
    const std::size_t begin = at;
    const char32_t code = utf8::next(text.bytes, at);
    const auto number = static_cast<std::uint32_t>(code);
    if (code == static_cast<unsigned char>(quote) || code == '\\') {
      result += '\\';
      result += static_cast<char>(code);
    } else if (code == '\n' || code == '\r' || code == '\t') {
      result += code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t";
    } else if (is_printable(code)) {
      result.append(text.bytes, begin, at - begin);
    } else {
      result += number < 0x100     ? fmt::format("\\x{:02x}", number)
                : number < 0x10000 ? fmt::format("\\u{:04x}", number)
                                   : fmt::format("\\U{:08x}", number);
    }
  }
  out.append(result + quote, !text.marks.empty());
}

void append_items(TextBuilder& out, const std::vector<Value>& items) {
  bool is_first = true;
  for (const Value& item : items) {
    if (!is_first) out.append(", ");
    is_first = false;
    append_repr(out, item);
  }
}

void append_list_repr(TextBuilder& out, const List& list) {
  switch (list.kind) {
    case List::Kind::list:
      out.append("[");
      append_items(out, list.items);
      out.append("]");
      return;
    case List::Kind::tuple:
      out.append("(");
      append_items(out, list.items);
      out.append(list.items.size() == 1 ? ",)" : ")");
      return;
    case List::Kind::keys:
    case List::Kind::values:
    case List::Kind::items:
      out.append(list.kind == List::Kind::keys     ? "dict_keys(["
                 : list.kind == List::Kind::values ? "dict_values(["
                                                   : "dict_items([");
      append_items(out, list.items);
      out.append("])");
      return;
    default:
      fail_unsupported("the text of a range or generator");
  }
}

void append_dict_repr(TextBuilder& out, const Dict& dict) {
  out.append("{");
  bool is_first = true;
  for (const auto& [key, value] : dict.items) {
    if (!is_first) out.append(", ");
    is_first = false;
    append_repr(out, key);
    out.append(": ");
    append_repr(out, value);
  }
  out.append("}");
}

// As json.dumps writes it.
void append_json_text(TextBuilder& out, const String& text, bool ensure_ascii) {
  std::string result = "\"";
  for (std::size_t at = 0; at < text.bytes.size();) {
    const std::size_t begin = at;
    const char32_t code = utf8::next(text.bytes, at);
    auto number = static_cast<std::uint32_t>(code);
    constexpr std::string_view escaped = "\"\\\n\r\t\f\b";
    const std::size_t known =
        code < 0x80 ? escaped.find(static_cast<char>(code)) : std::string_view::npos;
    if (known != std::string_view::npos) {
      result += '\\';
      result += "\"\\nrtfb"[known];
    } else if (code < 0x20 || (ensure_ascii && code >= 0x7F && code < 0x10000)) {
      result += fmt::format("\\u{:04x}", number);
    } else if (ensure_ascii && code >= 0x10000) {
      number -= 0x10000;
      result +=
          fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (number >> 10U), 0xDC00 + (number & 0x3FFU));
    } else {
      result.append(text.bytes, begin, at - begin);
    }
  }
  out.append(result + '"', !text.marks.empty());
}

class JsonWriter {
 public:
  JsonWriter(TextBuilder& out, Budget& budget, const JsonStyle& style)
      : out_(out), budget_(budget), style_(style) {}

  void append(const Value& value) {
    budget_.step();
    const List* list = value.list();
    if (value.is_none()) {
      out_.append("null");
    } else if (const bool* truth = value.get<bool>()) {
      out_.append(*truth ? "true" : "false");
    } else if (value.number()) {
      append_number(value);
    } else if (value.string() != nullptr) {
      append_json_text(out_, *value.string(), style_.ensure_ascii);
    } else if (list != nullptr && list->kind <= List::Kind::tuple) {
      append_array(*list);
    } else if (value.dict() != nullptr) {
      append_object(*value.dict());
    } else {
      fail("tojson", "values that JSON has", "a '" + std::string(type_name(value)) + "'");
    }
  }

 private:
  void append_number(const Value& value) {
    const double* real = value.get<double>();
    if (real == nullptr) {
      out_.append(std::to_string(*value.integer()));
    } else if (std::isfinite(*real)) {
      out_.append(float_repr(*real));
    } else {
      out_.append(std::isnan(*real) ? "NaN" : *real < 0 ? "-Infinity" : "Infinity");
    }
  }

  void new_line() {
    if (!style_.indent) return;
    out_.append("\n");
    for (int i = 0; i < depth_; ++i) out_.append(*style_.indent);
  }

  // What stands in front of the parts of a list or object.
  void begin_item(bool is_first) {
    if (!is_first) out_.append(style_.item_separator);
    new_line();
  }

  void append_array(const List& list) {
    if (list.items.empty()) return out_.append("[]");
    out_.append("[");
    ++depth_;
    bool is_first = true;
    for (const Value& item : list.items) {
      begin_item(std::exchange(is_first, false));
      append(item);
    }
    --depth_;
    new_line();
    out_.append("]");
  }

  void append_object(const Dict& dict) {
    if (dict.items.empty()) return out_.append("{}");
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto* a, const auto* b) {
        return compare(budget_, a->first, b->first, "tojson") < 0;
      });
    }
    out_.append("{");
    ++depth_;
    bool is_first = true;
    for (const auto* item : items) {
      begin_item(std::exchange(is_first, false));
      append_key(item->first);
      out_.append(style_.key_separator);
      append(item->second);
    }
    --depth_;
    new_line();
    out_.append("}");
  }

  void append_key(const Value& key) {
    if (key.string() != nullptr) return append(key);
    if (!key.is_none() && !key.number()) {
      fail("tojson", "keys that JSON has", "a '" + std::string(type_name(key)) + "'");
    }
    out_.append("\"");
    append(key);
    out_.append("\"");
  }

  TextBuilder& out_;
  Budget& budget_;
  const JsonStyle& style_;
  int depth_ = 0;
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(std::begin(buffer), std::end(buffer), value, std::chars_format::scientific).ptr;
  // The shortest digits: "-d.ddde±xx".
  std::string text(std::begin(buffer), end);
  std::string sign;
  if (text[0] == '-') {
    sign = "-";
    text.erase(0, 1);
  }
  const std::size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  std::string digits = text.substr(0, e);
  std::erase(digits, '.');
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    const std::string fraction = count > 1 ? "." + digits.substr(1) : "";
    return sign + digits[0] + fraction + fmt::format("e{:+03d}", exponent);
  }
  if (exponent < 0) {
    return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  }
  if (count <= exponent + 1) {
    return sign + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  }
  const auto whole = static_cast<std::size_t>(exponent + 1);
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void append_repr(TextBuilder& out, const Value& value) {
  if (value.string() != nullptr) return append_string_repr(out, *value.string());
  if (value.list() != nullptr) return append_list_repr(out, *value.list());
  if (value.dict() != nullptr) return append_dict_repr(out, *value.dict());
  if (value.is_undefined()) return out.append("Undefined");
  append_text(out, value);
}

void append_text(TextBuilder& out, const Value& value) {
  if (value.string() != nullptr) return out.append(*value.string());
  if (value.is_undefined()) return;
  if (value.is_none()) return out.append("None");
  if (const bool* truth = value.get<bool>()) return out.append(*truth ? "True" : "False");
  if (const auto* real = value.get<double>()) return out.append(float_repr(*real));
  if (const auto whole = value.integer()) return out.append(std::to_string(*whole));
  if (value.list() != nullptr || value.dict() != nullptr) return append_repr(out, value);
  fail_unsupported("the text of a '" + std::string(type_name(value)) + "'");
}

String to_text(Budget& budget, const Value& value) {
  TextBuilder out(budget);
  append_text(out, value);
  return out.take();
}

void append_json(TextBuilder& out, Budget& budget, const Value& value, const JsonStyle& style) {
  JsonWriter(out, budget, style).append(value);
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
