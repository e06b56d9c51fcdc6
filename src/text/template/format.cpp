// text % values and str.format.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/template/methods.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

constexpr std::int64_t widest = 1'000'000;

// How one value is written.
struct Spec {
  String fill{" "};
  char align = '\0';  // < > ^ =
  char sign = '-';
  bool alternate = false;
  std::int64_t width = 0;
  std::optional<std::int64_t> precision = {};
  char grouping = '\0';
  char type = '\0';
};

// Digits in groups of three.
std::string grouped(std::string digits, char separator) {
  const std::size_t point = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (std::size_t i = point; i > 3; i -= 3) digits.insert(i - 3, 1, separator);
  return digits;
}

std::string whole_digits(std::uint64_t value, char type, bool alternate) {
  switch (type) {
    case 'x':
      return (alternate ? "0x" : "") + fmt::format("{:x}", value);
    case 'X':
      return (alternate ? "0X" : "") + fmt::format("{:X}", value);
    case 'o':
      return (alternate ? "0o" : "") + fmt::format("{:o}", value);
    case 'b':
      return (alternate ? "0b" : "") + fmt::format("{:b}", value);
    default:
      return std::to_string(value);
  }
}

std::string real_digits(double value, const Spec& spec) {
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : "inf";
  const auto precision = static_cast<int>(std::min<std::int64_t>(spec.precision.value_or(6), 400));
  const char type = spec.type == '%' ? 'f' : spec.type;
  const std::string digits = fmt::format(fmt::runtime(std::string("{:.{}") + type + "}"),
                                         spec.type == '%' ? value * 100.0 : value, precision);
  return digits + (spec.type == '%' ? "%" : "");
}

// Text in its width; numbers have zeros behind their sign.
void append_padded(TextBuilder& out, const String& text, const Spec& spec, char align,
                   std::string_view sign) {
  const auto size = static_cast<std::int64_t>(count_characters(text.bytes) + sign.size());
  const std::int64_t missing = std::max(spec.width, size) - size;
  const std::int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  if (align == '=') out.append(sign);
  for (std::int64_t i = 0; i < left; ++i) out.append(spec.fill);
  if (align != '=') out.append(sign);
  out.append(text);
  for (std::int64_t i = left; i < missing; ++i) out.append(spec.fill);
}

void append_number(TextBuilder& out, const Value& value, const Spec& spec, std::string_view name) {
  std::string digits;
  bool is_negative = false;
  constexpr std::string_view real_types = "eEfFgG%";
  if (real_types.find(spec.type) != std::string_view::npos && spec.type != '\0') {
    const double real = *value.number();
    is_negative = std::signbit(real) && !std::isnan(real);
    digits = real_digits(std::fabs(real), spec);
  } else if (const auto whole = value.integer()) {
    if (spec.precision && spec.type != '\0') fail(name, "no precision of a whole number", "one");
    is_negative = *whole < 0;
    const auto size =
        is_negative ? 0 - static_cast<std::uint64_t>(*whole) : static_cast<std::uint64_t>(*whole);
    digits = whole_digits(size, spec.type, spec.alternate);
  } else {
    if (spec.type != '\0' || spec.precision) fail_unsupported("this format of a number");
    const double real = *value.number();
    is_negative = std::signbit(real);
    digits = float_repr(std::fabs(real));
  }
  if (spec.grouping != '\0') digits = grouped(digits, spec.grouping);
  const std::string_view sign = is_negative        ? "-"
                                : spec.sign == '+' ? "+"
                                : spec.sign == ' ' ? " "
                                                   : "";
  append_padded(out, String{digits}, spec, spec.align == '\0' ? '>' : spec.align, sign);
}

void append_string(TextBuilder& out, const String& text, const Spec& spec) {
  String cut = text;
  if (spec.precision) {
    TextBuilder part(out.budget());
    part.append(text, 0, byte_of(text.bytes, static_cast<std::size_t>(*spec.precision)));
    cut = part.take();
  }
  append_padded(out, cut, spec, spec.align == '\0' ? '<' : spec.align, "");
}

// Goes through a format.
class Format {
 public:
  explicit Format(std::string_view text) : text_(text) {}

  bool is_done() const noexcept { return at_ >= text_.size(); }
  char peek() const noexcept { return is_done() ? '\0' : text_[at_]; }
  char take() noexcept { return is_done() ? '\0' : text_[at_++]; }
  bool take_if(char c) noexcept {
    if (is_done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::optional<std::int64_t> number(std::string_view name) {
    std::optional<std::int64_t> value;
    while (peek() >= '0' && peek() <= '9') {
      value = value.value_or(0) * 10 + (take() - '0');
      if (*value > widest) fail(name, "a width of at most 1000000", "a larger one");
    }
    return value;
  }
  std::size_t position() const noexcept { return at_; }
  std::string_view text() const noexcept { return text_; }
  void move_to(std::size_t at) noexcept { at_ = at; }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

// The % of strings.
class PercentFormat {
 public:
  PercentFormat(Renderer& renderer, const String& text, const Value& values)
      : budget_(renderer.budget()), text_(text), format_(text.bytes), values_(values) {
    const List* list = values.list();
    is_tuple_ = list != nullptr && list->kind == List::Kind::tuple;
  }

  Value run() {
    TextBuilder out(budget_);
    while (!format_.is_done()) {
      const std::size_t begin = format_.position();
      const std::size_t end = std::min(text_.bytes.find('%', begin), text_.bytes.size());
      out.append(text_, begin, end);
      format_.move_to(std::min(end + 1, text_.bytes.size()));
      if (end == text_.bytes.size()) break;
      append_one(out);
    }
    const bool is_left = is_tuple_ ? next_ < values_.list()->items.size()
                                   : !is_named_ && next_ == 0 && values_.dict() == nullptr &&
                                         values_.list() == nullptr && !values_.is_undefined();
    if (is_left) fail("%", "values that the format uses all", "more");
    return make_string(out.take());
  }

 private:
  Value next() {
    if (is_tuple_) {
      if (next_ >= values_.list()->items.size()) fail("%", "a value for each part", "fewer");
      return values_.list()->items[next_++];
    }
    if (next_++ > 0) fail("%", "a value for each part", "one");
    return values_;
  }

  std::int64_t star(std::optional<std::int64_t> number) {
    if (!format_.take_if('*')) return number.value_or(0);
    const auto whole = next().integer();
    if (!whole || *whole > widest || *whole < -widest) fail("%", "a width", "another value");
    return *whole;
  }

  Value named() {
    const std::size_t begin = format_.position();
    const std::size_t end = text_.bytes.find(')', begin);
    if (end == std::string::npos || values_.dict() == nullptr) {
      fail("%", "a dict for names in brackets", "another value");
    }
    const Value* value =
        find(budget_, *values_.dict(), make_string(text_.bytes.substr(begin, end - begin)));
    if (value == nullptr) fail("%", "the names of the format", "a dict without one");
    format_.move_to(end + 1);
    is_named_ = true;
    return *value;
  }

  void append_one(TextBuilder& out) {
    std::optional<Value> value;
    if (format_.take_if('(')) value = named();
    Spec spec;
    for (;;) {
      if (format_.take_if('-')) {
        spec.align = '<';
      } else if (format_.take_if('0')) {
        if (spec.align == '\0') spec.align = '=';
      } else if (format_.take_if('+')) {
        spec.sign = '+';
      } else if (format_.take_if(' ')) {
        if (spec.sign == '-') spec.sign = ' ';
      } else if (format_.take_if('#')) {
        spec.alternate = true;
      } else {
        break;
      }
    }
    spec.width = star(format_.number("%"));
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (format_.take_if('.')) spec.precision = star(format_.number("%"));
    spec.type = format_.take();
    if (spec.type == '%') return out.append("%");
    append_typed(out, value ? *value : next(), spec);
  }

  void append_typed(TextBuilder& out, const Value& value, Spec spec) {
    if (spec.type == 's' || spec.type == 'r') {
      TextBuilder text(budget_);
      if (spec.type == 's') {
        append_text(text, value);
      } else {
        append_repr(text, value);
      }
      spec.align = spec.align == '<' ? '<' : '>';
      return append_string(out, text.take(), spec);
    }
    constexpr std::string_view types = "diufFeEgGxXo";
    if (spec.type == '\0' || types.find(spec.type) == std::string_view::npos) {
      fail_unsupported("a format of this type");
    }
    if (!value.number()) {
      if (const auto* none = value.get<Undefined>()) fail_undefined(*none);
      fail("%", "a number", "a '" + std::string(type_name(value)) + "'");
    }
    if (spec.align == '=') spec.fill = String{"0"};
    if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
    const bool is_whole = std::string_view("dxXo").find(spec.type) != std::string_view::npos;
    if (is_whole && spec.precision) fail_unsupported("the precision of a whole number");
    if (is_whole && !value.integer()) {
      if (spec.type != 'd') fail("%", "a whole number", "a 'float'");
      return append_number(out, to_whole(*value.number()), spec, "%");
    }
    append_number(out, value, spec, "%");
  }

  Budget& budget_;
  const String& text_;
  Format format_;
  const Value& values_;
  bool is_tuple_ = false;
  bool is_named_ = false;
  std::size_t next_ = 0;
};

Spec read_spec(const String& text) {
  Spec spec;
  Format format(text.bytes);
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  std::size_t behind = 0;
  if (!text.bytes.empty()) utf8::next(text.bytes, behind);
  if (behind > 0 && behind < text.bytes.size() && is_align(text.bytes[behind])) {
    spec.fill = String{text.bytes.substr(0, behind)};
    spec.align = text.bytes[behind];
    format.move_to(behind + 1);
  } else if (is_align(format.peek())) {
    spec.align = format.take();
  }
  const char sign = format.peek();
  if (sign == '+' || sign == '-' || sign == ' ') spec.sign = format.take();
  spec.alternate = format.take_if('#');
  if (format.take_if('0') && spec.align == '\0') {
    spec.align = '=';
    spec.fill = String{"0"};
  }
  spec.width = format.number("format").value_or(0);
  if (format.peek() == ',' || format.peek() == '_') spec.grouping = format.take();
  if (format.take_if('.')) {
    spec.precision = format.number("format");
    if (!spec.precision) fail("format", "a precision behind '.'", "none");
  }
  spec.type = format.take();
  if (spec.type == 'c') fail_unsupported("a format of this type");
  if (spec.grouping != '\0' && spec.fill.bytes == "0" && spec.width > 0) {
    fail_unsupported("a width that separators are counted in");
  }
  if (!format.is_done()) fail("format", "a format of Python", json_text(std::string(text.bytes)));
  return spec;
}

// str.format.
class BraceFormat {
 public:
  BraceFormat(Renderer& renderer, const String& text, const Arguments& arguments)
      : renderer_(renderer), text_(text), arguments_(arguments) {}

  String run(std::string_view format, std::size_t offset, int depth) {
    if (depth > 1) fail("format", "braces two deep at most", "more");
    TextBuilder out(renderer_.budget());
    for (std::size_t at = 0; at < format.size();) {
      const char c = format[at];
      if (c != '{' && c != '}') {
        const std::size_t end = std::min(format.find_first_of("{}", at), format.size());
        out.append(text_, offset + at, offset + end);
        at = end;
      } else if (at + 1 < format.size() && format[at + 1] == c) {
        out.append(std::string_view(&c, 1));
        at += 2;
      } else {
        if (c == '}') fail("format", "pairs of braces", "'}' alone");
        const std::size_t end = end_of_field(format, at);
        append_field(out, format.substr(at + 1, end - at - 1), offset + at + 1, depth);
        at = end + 1;
      }
    }
    return out.take();
  }

 private:
  static std::size_t end_of_field(std::string_view format, std::size_t at) {
    int depth = 0;
    for (; at < format.size(); ++at) {
      if (format[at] == '{') ++depth;
      if (format[at] == '}' && --depth == 0) return at;
    }
    fail("format", "pairs of braces", "'{' alone");
  }

  void append_field(TextBuilder& out, std::string_view field, std::size_t offset, int depth) {
    const std::size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    char conversion = '\0';
    const std::size_t mark = name.find('!');
    if (mark != std::string_view::npos) {
      if (mark + 2 != name.size()) fail("format", "one letter behind '!'", "other text");
      conversion = name[mark + 1];
      name = name.substr(0, mark);
    }
    const String spec_text = colon == field.size()
                                 ? String{}
                                 : run(field.substr(colon + 1), offset + colon + 1, depth + 1);
    Value value = find_value(name);
    if (conversion == 'r' || conversion == 's') {
      TextBuilder text(renderer_.budget());
      if (conversion == 'r') {
        append_repr(text, value);
      } else {
        append_text(text, value);
      }
      value = make_string(text.take());
    } else if (conversion != '\0') {
      fail_unsupported("a conversion other than !r and !s");
    }
    append_value(out, value, spec_text);
  }

  void append_value(TextBuilder& out, const Value& value, const String& spec_text) {
    if (spec_text.bytes.empty()) return append_text(out, value);
    Spec spec = read_spec(spec_text);
    if (value.number() && !value.is<bool>()) return append_number(out, value, spec, "format");
    if (value.string() == nullptr || (spec.type != '\0' && spec.type != 's') || spec.align == '=') {
      fail("format", "a format that its value has", json_text(std::string(spec_text.bytes)));
    }
    append_string(out, *value.string(), spec);
  }

  Value find_value(std::string_view name) {
    const std::size_t end = std::min(name.find_first_of(".["), name.size());
    const std::string_view head = name.substr(0, end);
    Value value;
    if (head.empty() ||
        std::all_of(head.begin(), head.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      const auto index = head.empty() ? next_++ : parse_whole(head, 10).value_or(-1);
      if (index < 0 || index >= std::ssize(arguments_.positional)) {
        fail("format", "a value for each pair of braces", "fewer");
      }
      value = arguments_.positional[static_cast<std::size_t>(index)];
    } else {
      const auto found = std::find_if(arguments_.named.begin(), arguments_.named.end(),
                                      [&](const auto& item) { return item.name == head; });
      if (found == arguments_.named.end()) {
        fail("format", "a value for each name", json_text(std::string(head)));
      }
      value = found->value;
    }
    std::string_view rest = name.substr(end);
    while (!rest.empty()) {
      if (rest[0] == '.') {
        const std::size_t stop = std::min(rest.find_first_of(".[", 1), rest.size());
        value = renderer_.attribute(value, rest.substr(1, stop - 1));
        rest.remove_prefix(stop);
      } else {
        const std::size_t stop = rest.find(']');
        if (stop == std::string_view::npos || rest[0] != '[') {
          fail("format", "pairs of brackets", "one alone");
        }
        const std::string_view key = rest.substr(1, stop - 1);
        const auto index = parse_whole(key, 10);
        value = renderer_.subscript(value, index ? Value(*index) : make_string(key));
        rest.remove_prefix(stop + 1);
      }
    }
    return value;
  }

  Renderer& renderer_;
  const String& text_;
  const Arguments& arguments_;
  std::int64_t next_ = 0;
};

}  // namespace

Value format_percent(Renderer& renderer, const String& text, const Value& values) {
  return PercentFormat(renderer, text, values).run();
}

Value format_braces(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const String& text = *self.string();
  return make_string(BraceFormat(renderer, text, arguments).run(text.bytes, 0, 0));
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
