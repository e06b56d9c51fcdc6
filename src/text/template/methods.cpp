#include "text/template/methods.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

Value dict_get(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("get", arguments, {"key", "default"}, 1);
  const Value* value = find(renderer.budget(), *self.dict(), *given[0]);
  return value == nullptr ? given.value(1) : *value;
}

Value dict_view(Renderer& renderer, const Value& self, List::Kind kind) {
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict()->items) {
    items.push_back(kind == List::Kind::keys ? key
                    : kind == List::Kind::values
                        ? value
                        : make_list(renderer.budget(), {key, value}, List::Kind::tuple));
  }
  return make_list(renderer.budget(), std::move(items), kind);
}

Value dict_keys(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("keys", arguments, {});
  return dict_view(renderer, self, List::Kind::keys);
}
Value dict_values(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("values", arguments, {});
  return dict_view(renderer, self, List::Kind::values);
}
Value dict_items(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("items", arguments, {});
  return dict_view(renderer, self, List::Kind::items);
}

// Values never change, so a copy is the value.
Value copy(Renderer&, const Value& self, const Arguments& arguments) {
  const Parameters given("copy", arguments, {});
  return self;
}

Value list_count(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("count", arguments, {"value"}, 1);
  return static_cast<std::int64_t>(
      std::count_if(self.list()->items.begin(), self.list()->items.end(),
                    [&](const Value& item) { return equals(renderer.budget(), item, *given[0]); }));
}

Value list_index(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("index", arguments, {"value"}, 1);
  const auto& items = self.list()->items;
  const auto at = std::find_if(items.begin(), items.end(), [&](const Value& item) {
    return equals(renderer.budget(), item, *given[0]);
  });
  if (at == items.end()) fail("index", "a value of the list", "another");
  return static_cast<std::int64_t>(at - items.begin());
}

Value is_integer(Renderer&, const Value& self, const Arguments&) {
  const auto* real = self.get<double>();
  return real == nullptr || (std::isfinite(*real) && std::floor(*real) == *real);
}

constexpr std::array<Method, 6> dict_methods = {{{"get", dict_get},
                                                 {"items", dict_items},
                                                 {"keys", dict_keys},
                                                 {"values", dict_values},
                                                 {"copy", copy},
                                                 {"fromkeys", nullptr}}};
constexpr std::array<Method, 3> list_methods = {
    {{"count", list_count}, {"index", list_index}, {"copy", copy}}};
constexpr std::array<Method, 7> number_methods = {{{"is_integer", is_integer},
                                                   {"as_integer_ratio", nullptr},
                                                   {"bit_count", nullptr},
                                                   {"bit_length", nullptr},
                                                   {"conjugate", nullptr},
                                                   {"hex", nullptr},
                                                   {"to_bytes", nullptr}}};

template <std::size_t size>
const Method* find_in(const std::array<Method, size>& methods, std::string_view name) noexcept {
  const auto* const found = std::find_if(methods.begin(), methods.end(),
                                         [&](const Method& method) { return method.name == name; });
  return found == methods.end() ? nullptr : found;
}

const Method* method_of(const Value& object, std::string_view name) noexcept {
  if (object.string() != nullptr) return find_string_method(name);
  if (object.dict() != nullptr) return find_in(dict_methods, name);
  if (const List* list = object.list()) {
    if (!list->is_sequence() || (name == "copy" && list->kind != List::Kind::list)) return nullptr;
    return find_in(list_methods, name);
  }
  const bool is_whole = object.integer().has_value();
  if (!object.number() || (is_whole && name == "hex")) return nullptr;
  return find_in(number_methods, name);
}

}  // namespace

std::optional<Value> find_method(Renderer& renderer, const Value& object, std::string_view name) {
  if (const Method* method = method_of(object, name)) {
    if (method->function == nullptr) {
      fail_unsupported("the method '" + std::string(name) + "' of '" +
                       std::string(type_name(object)) + "'");
    }
    return make_method(renderer.budget(), object, name, method->function);
  }
  if (object.number() && (name == "real" || name == "imag")) {
    const bool is_real = name == "real";
    if (const auto whole = object.integer()) return is_real ? *whole : std::int64_t{0};
    return is_real ? object : Value(0.0);
  }
  return std::nullopt;
}

Value strip_text(Budget& budget, const String& text, const std::string_view* set, bool left,
                 bool right) {
  const std::string_view bytes = text.bytes;
  budget.step(bytes.size() / 64);
  const std::size_t begin = left ? begin_of_strip(bytes, set) : 0;
  return make_part(budget, text, begin, right ? end_of_strip(bytes, begin, set) : bytes.size());
}

Value replace_text(Budget& budget, const String& text, const String& old, const String& by,
                   std::int64_t count) {
  TextBuilder out(budget);
  budget.step(text.bytes.size() / 16);
  std::size_t at = 0;
  while (count != 0) {
    // The empty text stands in front of every character and behind the last.
    if (old.bytes.empty()) {
      out.append(by);
      if (at == text.bytes.size()) break;
      std::size_t next = at;
      utf8::next(text.bytes, next);
      out.append(text, at, next);
      at = next;
    } else {
      const std::size_t found = find_part(text.bytes, old.bytes, at);
      if (found == std::string::npos) break;
      out.append(text, at, found);
      out.append(by);
      at = found + old.bytes.size();
    }
    --count;
  }
  out.append(text, at, text.bytes.size());
  return make_string(out.take());
}

Value pad_text(Budget& budget, const String& text, std::int64_t width, const String& fill,
               int side) {
  const auto size = static_cast<std::int64_t>(count_characters(text.bytes));
  const std::int64_t missing = std::max<std::int64_t>(width, size) - size;
  // Python's rule for an odd rest.
  const std::int64_t left = side < 0 ? missing : side > 0 ? 0 : missing / 2 + (missing & width & 1);
  budget.step(static_cast<std::uint64_t>(missing));
  TextBuilder out(budget);
  for (std::int64_t i = 0; i < left; ++i) out.append(fill);
  out.append(text);
  for (std::int64_t i = left; i < missing; ++i) out.append(fill);
  return make_string(out.take());
}

std::vector<Value> lines_of(Budget& budget, const String& text, bool with_ends) {
  std::vector<Value> lines;
  const std::string_view bytes = text.bytes;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t end = at;
    const char32_t code = utf8::next(bytes, at);
    if (!ends_line(code)) continue;
    if (code == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    budget.allocate(sizeof(Value));
    lines.push_back(make_part(budget, text, begin, with_ends ? at : end));
    begin = at;
  }
  if (begin < bytes.size()) lines.push_back(make_part(budget, text, begin, bytes.size()));
  return lines;
}

bool has_one_case(std::string_view text, bool is_upper_case) noexcept {
  bool is_cased = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t code = utf8::next(text, at);
    if (is_upper_case ? is_lower(code) : is_upper(code)) return false;
    is_cased |= is_upper_case ? is_upper(code) : is_lower(code);
  }
  return is_cased;
}

bool has_title_case(std::string_view text) noexcept {
  bool is_cased = false;
  bool is_within = false;  // a word
  for (std::size_t at = 0; at < text.size();) {
    const char32_t code = utf8::next(text, at);
    const bool begins = is_upper(code) || unicode::category(code) == unicode::Category::lt;
    if (begins ? is_within : is_lower(code) && !is_within) return false;
    is_within = begins || is_lower(code);
    is_cased = is_cased || is_within;
  }
  return is_cased;
}

bool is_letter(char32_t code) {
  const auto category = unicode::category(code);
  return category >= unicode::Category::ll && category <= unicode::Category::lu;
}

// But for the Han characters that stand for numbers.
bool is_numeric(char32_t code) {
  const auto category = unicode::category(code);
  return category >= unicode::Category::nd && category <= unicode::Category::no;
}

bool is_decimal(char32_t code) { return unicode::category(code) == unicode::Category::nd; }

bool is_alphanumeric(char32_t code) { return is_letter(code) || is_numeric(code); }

std::optional<std::int64_t> parse_whole(std::string_view text, std::int64_t base) {
  const std::size_t begin = begin_of_strip(text, nullptr);
  text = text.substr(begin, end_of_strip(text, begin, nullptr) - begin);
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  const auto starts = [&](const char* lower, const char* upper) {
    return text.starts_with(lower) || text.starts_with(upper);
  };
  if ((base == 16 && starts("0x", "0X")) || (base == 8 && starts("0o", "0O")) ||
      (base == 2 && starts("0b", "0B"))) {
    text.remove_prefix(2);
  }
  if (text.empty() || text.front() == '-' || text.front() == '+' || text.front() == '_' ||
      text.back() == '_' || text.find("__") != text.npos) {
    return std::nullopt;
  }
  std::string digits = is_negative ? "-" : "";
  std::copy_if(text.begin(), text.end(), std::back_inserter(digits),
               [](char c) { return c != '_'; });
  std::int64_t value = 0;
  const auto parsed =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (parsed.ec == std::errc::result_out_of_range) {
    fail("int", "a number of at most 64 bits", json_text(std::string(text.substr(0, 40))));
  }
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  const std::size_t begin = begin_of_strip(text, nullptr);
  text = text.substr(begin, end_of_strip(text, begin, nullptr) - begin);
  std::string digits;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool between =
        i > 0 && i + 1 < text.size() && is_decimal(static_cast<unsigned char>(text[i - 1]));
    if (text[i] != '_' || !between) digits += text[i];
  }
  const bool has_plus = digits.starts_with('+');
  if (has_plus) digits.erase(0, 1);
  if (digits.starts_with('+') || (has_plus && digits.starts_with('-')) ||
      digits.find_first_of("xX(") != std::string::npos) {
    return std::nullopt;
  }
  double value = 0.0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ptr != digits.data() + digits.size() || digits.empty()) return std::nullopt;
  if (parsed.ec == std::errc::result_out_of_range) {
    const bool is_small = digits.find("e-") != std::string::npos;
    value = is_small ? 0.0 : HUGE_VAL;
    return digits[0] == '-' ? -value : value;
  }
  return parsed.ec == std::errc() ? std::optional(value) : std::nullopt;
}

std::int64_t to_whole(double number) {
  if (!(number > -0x1p63 && number < 0x1p63)) {
    fail("int", "a number of at most 64 bits", float_repr(number));
  }
  return static_cast<std::int64_t>(number);
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
