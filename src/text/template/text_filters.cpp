// Filters whose result is text or a number.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/utf8.hpp"
#include "text/template/characters.hpp"
#include "text/template/filters.hpp"
#include "text/template/methods.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace filters {
namespace {

String text_of(Renderer& renderer, const Value& value) { return to_text(renderer.budget(), value); }

template <std::string (*change)(std::string_view)>
Value changed(Renderer& renderer, const Value& value, std::string_view name,
              const Arguments& arguments) {
  const Parameters given(name, arguments, {});
  const String text = text_of(renderer, value);
  return make_derived(renderer.budget(), change(text.bytes), text);
}

// Words begin behind white space and behind - ( { [ <.
std::string title_words(std::string_view text) {
  std::string result;
  bool is_first = true;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    std::size_t end = at;
    for (std::size_t next = at; next < text.size(); end = next) {
      const char32_t code = utf8::next(text, next);
      const bool is_mark =
          is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
      if (is_mark != is_first) continue;
      break;
    }
    const std::string_view part = text.substr(begin, end - begin);
    if (is_first && !part.empty()) {
      std::size_t head = 0;
      utf8::next(part, head);
      result += upper(part.substr(0, head)) + lower(part.substr(head));
    } else {
      result += part;
    }
    is_first = !is_first;
    at = end;
  }
  return result;
}

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '\'':
        result += "&#39;";
        break;
      case '"':
        result += "&#34;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

// urllib.parse.quote
std::string quoted(std::string_view text) {
  constexpr std::string_view kept = "_.-~/";
  constexpr char digits[] = "0123456789ABCDEF";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 && (is_alphanumeric(byte) || kept.find(c) != std::string_view::npos)) {
      result += c;
    } else {
      result += '%';
      result += digits[byte >> 4U];
      result += digits[byte & 15U];
    }
  }
  return result;
}

// round() of Python: to the nearest in decimal, halves to even.
double rounded(double value, std::int64_t precision) {
  if (!std::isfinite(value) || precision > 300) return value;
  if (precision < -300) return std::copysign(0.0, value);
  if (precision <= 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    return std::nearbyint(value / scale) * scale;
  }
  return parse_real(fmt::format("{:.{}f}", value, static_cast<int>(precision))).value_or(value);
}

}  // namespace

Value upper_text(Renderer& r, const Value& v, const Arguments& a) {
  return changed<upper>(r, v, "upper", a);
}
Value lower_text(Renderer& r, const Value& v, const Arguments& a) {
  return changed<lower>(r, v, "lower", a);
}
Value title_text(Renderer& r, const Value& v, const Arguments& a) {
  return changed<title_words>(r, v, "title", a);
}
Value capitalize_text(Renderer& r, const Value& v, const Arguments& a) {
  return changed<capitalize>(r, v, "capitalize", a);
}
Value urlencode(Renderer& r, const Value& v, const Arguments& a) {
  if (v.list() != nullptr || v.dict() != nullptr) fail_unsupported("urlencode of a list or dict");
  return changed<quoted>(r, v, "urlencode", a);
}

Value string(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("string", arguments, {});
  return value.string() != nullptr ? value : make_string(text_of(renderer, value));
}

Value safe(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("safe", arguments, {});
  String text = text_of(renderer, value);
  text.is_markup = true;
  return make_string(std::move(text));
}

Value escape_always(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("forceescape", arguments, {});
  const String text = text_of(renderer, value);
  String result = *make_derived(renderer.budget(), escaped(text.bytes), text).string();
  result.is_markup = true;
  return make_string(std::move(result));
}

Value escape(Renderer& renderer, const Value& value, const Arguments& arguments) {
  if (value.string() != nullptr && value.string()->is_markup) return value;
  return escape_always(renderer, value, arguments);
}

Value trim(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("trim", arguments, {"chars"});
  std::string_view set;
  if (given.has_value(0)) set = given.string(0).bytes;
  return strip_text(renderer.budget(), text_of(renderer, value),
                    given.has_value(0) ? &set : nullptr, true, true);
}

Value replace(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("replace", arguments, {"old", "new", "count"}, 2);
  const std::int64_t count = given.has_value(2) ? given.integer(2, -1) : -1;
  return replace_text(renderer.budget(), text_of(renderer, value), text_of(renderer, *given[0]),
                      text_of(renderer, *given[1]), count);
}

Value center(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("center", arguments, {"width"});
  return pad_text(renderer.budget(), text_of(renderer, value), given.integer(0, 80), String{" "},
                  0);
}

Value indent(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("indent", arguments, {"width", "first", "blank"});
  Budget& budget = renderer.budget();
  if (value.string() == nullptr) {
    if (const auto* none = value.get<Undefined>()) fail_undefined(*none);
    fail("indent", "a string", "a '" + std::string(type_name(value)) + "'");
  }
  String blanks;
  if (given.has(0) && given[0]->string() != nullptr) {
    blanks = *given[0]->string();
  } else {
    blanks = *pad_text(budget, String{}, given.integer(0, 4), String{" "}, -1).string();
  }
  TextBuilder with_end(budget);
  with_end.append(*value.string());
  with_end.append("\n");
  const std::vector<Value> lines = lines_of(budget, with_end.take(), false);
  TextBuilder out(budget);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n");
    const bool is_blank = lines[i].string()->bytes.empty();
    if (i == 0 ? given.boolean(1, false) : !is_blank || given.boolean(2, false)) out.append(blanks);
    out.append(*lines[i].string());
  }
  return make_string(out.take());
}

Value truncate(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("truncate", arguments, {"length", "killwords", "end", "leeway"});
  Budget& budget = renderer.budget();
  const std::int64_t most = given.integer(0, 255);
  const std::int64_t leeway = given.has_value(3) ? given.integer(3, 5) : 5;
  String end{"..."};
  if (given.has(2)) end = given.string(2);
  const auto end_size = static_cast<std::int64_t>(count_characters(end.bytes));
  if (most < end_size || leeway < 0) {
    fail("truncate", "a length from that of its end on", std::to_string(most));
  }
  if (static_cast<std::int64_t>(length(budget, value)) - leeway <= most) return value;
  if (value.string() == nullptr) {
    fail("truncate", "a string", "a '" + std::string(type_name(value)) + "'");
  }
  const String& text = *value.string();
  std::size_t cut = byte_of(text.bytes, static_cast<std::size_t>(most - end_size));
  if (!given.boolean(1, false)) {
    const std::size_t space = std::string_view(text.bytes).substr(0, cut).rfind(' ');
    if (space != std::string_view::npos) cut = space;
  }
  TextBuilder out(budget);
  out.append(text, 0, cut);
  out.append(end);
  return make_string(out.take());
}

Value format(Renderer& renderer, const Value& value, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    fail("format", "arguments with names or without", "both");
  }
  const String text = text_of(renderer, value);
  if (arguments.named.empty()) {
    return format_percent(renderer, text,
                          make_list(renderer.budget(), arguments.positional, List::Kind::tuple));
  }
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [name, item, is_marked] : arguments.named) {
    items.emplace_back(make_string(name, is_marked), item);
  }
  return format_percent(renderer, text, make_dict(renderer.budget(), std::move(items)));
}

Value tojson(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("tojson", arguments,
                         {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = given.boolean(0, false);
  style.sort_keys = given.boolean(3, false);
  if (given.has_value(1)) {
    style.item_separator = ",";
    if (given[1]->string() != nullptr) {
      style.indent = given[1]->string()->bytes;
    } else {
      const std::int64_t width = std::clamp<std::int64_t>(given.integer(1, 0), 0, 1000);
      style.indent = std::string(static_cast<std::size_t>(width), ' ');
    }
  }
  if (given.has_value(2)) {
    const std::vector<Value> parts = elements(renderer.budget(), *given[2]);
    if (parts.size() != 2 || parts[0].string() == nullptr || parts[1].string() == nullptr) {
      fail("tojson", "two separators", "others");
    }
    style.item_separator = parts[0].string()->bytes;
    style.key_separator = parts[1].string()->bytes;
  }
  TextBuilder out(renderer.budget());
  append_json(out, renderer.budget(), value, style);
  return make_string(out.take());
}

Value wordcount(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("wordcount", arguments, {});
  const String text = text_of(renderer, value);
  std::int64_t count = 0;
  bool is_within = false;
  for (std::size_t at = 0; at < text.bytes.size();) {
    const char32_t code = utf8::next(text.bytes, at);
    const bool is_word = is_alphanumeric(code) || code == '_';
    count += is_word && !is_within ? 1 : 0;
    is_within = is_word;
  }
  return count;
}

Value whole(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("int", arguments, {"default", "base"});
  static_cast<void>(renderer);
  if (const auto exact = value.integer()) return *exact;
  std::optional<double> real;
  if (const auto* number = value.get<double>()) {
    real = *number;
  } else if (value.string() != nullptr) {
    const std::int64_t base = given.integer(1, 10);
    if (base < 2 || base > 36) fail("int", "a base from 2 to 36", std::to_string(base));
    if (const auto parsed = parse_whole(value.string()->bytes, base)) return *parsed;
    real = parse_real(value.string()->bytes);
  } else if (const auto* none = value.get<Undefined>()) {
    fail_undefined(*none);
  }
  if (!real || !std::isfinite(*real)) return given.value(0, std::int64_t{0});
  return to_whole(*real);
}

Value real(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("float", arguments, {"default"});
  static_cast<void>(renderer);
  if (const auto number = value.number()) return *number;
  if (value.string() != nullptr) {
    if (const auto parsed = parse_real(value.string()->bytes)) return *parsed;
  } else if (const auto* none = value.get<Undefined>()) {
    fail_undefined(*none);
  }
  return given.value(0, 0.0);
}

Value absolute(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("abs", arguments, {});
  if (const auto* exact = value.get<double>()) return std::fabs(*exact);
  const auto number = value.integer();
  if (!number) fail("abs", "a number", "a '" + std::string(type_name(value)) + "'");
  return *number < 0 ? renderer.binary("-", std::int64_t{0}, *number) : Value(*number);
}

Value round(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("round", arguments, {"precision", "method"});
  static_cast<void>(renderer);
  const std::int64_t precision = given.integer(0, 0);
  const std::string method = given.has(1) ? given.string(1).bytes : "common";
  const auto number = value.number();
  if (!number) {
    if (const auto* none = value.get<Undefined>()) fail_undefined(*none);
    fail("round", "a number", "a '" + std::string(type_name(value)) + "'");
  }
  if (method == "common") {
    if (value.integer() && precision < 0) fail_unsupported("a whole number rounded to tens");
    return value.integer() ? Value(*value.integer()) : Value(rounded(*number, precision));
  }
  if (method != "ceil" && method != "floor") {
    fail("round", "common, ceil or floor", "another method");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return (method == "ceil" ? std::ceil(*number * scale) : std::floor(*number * scale)) / scale;
}

}  // namespace filters
}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
