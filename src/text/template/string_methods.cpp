// The methods of strings.

#include <algorithm>
#include <array>

#include "core/utf8.hpp"
#include "text/template/characters.hpp"
#include "text/template/methods.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

constexpr std::size_t not_found = std::string::npos;

const String& self_of(const Value& self) { return *self.string(); }

Value strip(Renderer& renderer, std::string_view name, const Value& self,
            const Arguments& arguments, bool left, bool right) {
  const Parameters given(name, arguments, {"chars"});
  std::string_view set;
  if (given.has_value(0)) set = given.string(0).bytes;
  return strip_text(renderer.budget(), self_of(self), given.has_value(0) ? &set : nullptr, left,
                    right);
}

Value both(Renderer& r, const Value& s, const Arguments& a) {
  return strip(r, "strip", s, a, true, true);
}
Value left(Renderer& r, const Value& s, const Arguments& a) {
  return strip(r, "lstrip", s, a, true, false);
}
Value right(Renderer& r, const Value& s, const Arguments& a) {
  return strip(r, "rstrip", s, a, false, true);
}

// As std::string::rfind; a long part may be compared at every place.
std::size_t find_last(Budget& budget, std::string_view text, std::string_view part) {
  budget.step(text.size() / 64 * (1 + part.size() / 64));
  return text.rfind(part);
}

// Words between white space; what is left behind `most` splits keeps its other end as it is.
Value split_spaces(Budget& budget, const String& text, std::int64_t most, bool from_end) {
  std::vector<Value> parts;
  const std::string_view bytes = text.bytes;
  const auto skip = [&](std::size_t at) { return at + begin_of_strip(bytes.substr(at), nullptr); };
  const auto skip_back = [&](std::size_t at) {
    return end_of_strip(bytes.substr(0, at), 0, nullptr);
  };
  if (!from_end) {
    for (std::size_t begin = skip(0); begin < bytes.size(); --most) {
      std::size_t end = begin;
      for (std::size_t next = begin; next < bytes.size(); end = next) {
        if (is_space(utf8::next(bytes, next))) break;
      }
      if (most == 0) end = bytes.size();
      parts.push_back(make_part(budget, text, begin, end));
      begin = skip(end);
    }
    return make_list(budget, std::move(parts));
  }
  for (std::size_t end = skip_back(bytes.size()); end > 0; --most) {
    std::size_t begin = end;
    while (begin > 0) {
      const std::size_t before = utf8::before(bytes, begin);
      std::size_t at = before;
      if (is_space(utf8::next(bytes, at))) break;
      begin = before;
    }
    if (most == 0) begin = 0;
    parts.push_back(make_part(budget, text, begin, end));
    end = skip_back(begin);
  }
  std::reverse(parts.begin(), parts.end());
  return make_list(budget, std::move(parts));
}

Value split_at(Budget& budget, const String& text, std::string_view mark, std::int64_t most,
               bool from_end) {
  std::vector<Value> parts;
  std::size_t begin = 0;
  std::size_t end = text.bytes.size();
  while (most != 0) {
    budget.step();
    const std::string_view bytes = text.bytes;
    const std::size_t at =
        from_end ? bytes.substr(0, end).rfind(mark) : find_part(bytes, mark, begin);
    if (at == not_found) break;
    if (from_end) {
      parts.push_back(make_part(budget, text, at + mark.size(), end));
      end = at;
    } else {
      parts.push_back(make_part(budget, text, begin, at));
      begin = at + mark.size();
    }
    --most;
  }
  parts.push_back(make_part(budget, text, begin, end));
  if (from_end) std::reverse(parts.begin(), parts.end());
  return make_list(budget, std::move(parts));
}

Value split(Renderer& renderer, std::string_view name, const Value& self,
            const Arguments& arguments, bool from_end) {
  const Parameters given(name, arguments, {"sep", "maxsplit"});
  const std::int64_t most = given.integer(1, -1);
  Budget& budget = renderer.budget();
  budget.step(self_of(self).bytes.size() / 16);
  if (!given.has_value(0)) return split_spaces(budget, self_of(self), most, from_end);
  const std::string& mark = given.string(0).bytes;
  if (mark.empty()) fail(name, "a separator", "an empty one");
  if (from_end) budget.step(self_of(self).bytes.size() / 64 * (mark.size() / 64));
  return split_at(budget, self_of(self), mark, most, from_end);
}

Value split_left(Renderer& r, const Value& s, const Arguments& a) {
  return split(r, "split", s, a, false);
}
Value split_right(Renderer& r, const Value& s, const Arguments& a) {
  return split(r, "rsplit", s, a, true);
}

Value partition(Renderer& renderer, std::string_view name, const Value& self,
                const Arguments& arguments, bool from_end) {
  const Parameters given(name, arguments, {"sep"}, 1);
  const String& text = self_of(self);
  const std::string& mark = given.string(0).bytes;
  if (mark.empty()) fail(name, "a separator", "an empty one");
  Budget& budget = renderer.budget();
  budget.step(text.bytes.size() / 64);
  const std::size_t at =
      from_end ? find_last(budget, text.bytes, mark) : find_part(text.bytes, mark, 0);
  const Value whole = make_part(budget, text, 0, text.bytes.size());
  const Value empty = make_string("");
  if (at == not_found) {
    return make_list(budget,
                     from_end ? std::vector<Value>{empty, empty, whole}
                              : std::vector<Value>{whole, empty, empty},
                     List::Kind::tuple);
  }
  return make_list(budget,
                   {make_part(budget, text, 0, at), *given[0],
                    make_part(budget, text, at + mark.size(), text.bytes.size())},
                   List::Kind::tuple);
}

Value partition_left(Renderer& r, const Value& s, const Arguments& a) {
  return partition(r, "partition", s, a, false);
}
Value partition_right(Renderer& r, const Value& s, const Arguments& a) {
  return partition(r, "rpartition", s, a, true);
}

Value split_lines(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("splitlines", arguments, {"keepends"});
  return make_list(renderer.budget(),
                   lines_of(renderer.budget(), self_of(self), given.boolean(0, false)));
}

// The part of a text from which `find`, `count` and `startswith` begin, and where they end.
struct Window {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool is_empty = false;  ///< begins behind its end, where not even "" is found
};

Window window_of(Budget& budget, const String& text, const Parameters& given) {
  const std::string_view bytes = text.bytes;
  if (!given.has_value(1) && !given.has_value(2)) return {0, bytes.size(), false};
  budget.step(bytes.size() / 64);
  const auto size = static_cast<std::int64_t>(count_characters(bytes));
  const auto clip = [&](std::int64_t bound) {
    if (bound < 0) bound = std::max<std::int64_t>(bound + size, 0);
    return bound;
  };
  const std::int64_t begin = given.has_value(1) ? clip(given.integer(1, 0)) : 0;
  const std::int64_t end = given.has_value(2) ? std::min(clip(given.integer(2, size)), size) : size;
  if (begin > end) return {0, 0, true};
  return {byte_of(bytes, static_cast<std::size_t>(begin)),
          byte_of(bytes, static_cast<std::size_t>(end)), false};
}

// Whether the text begins (or ends) with the affix, or with one of a tuple of them.
bool has_affix(Budget& budget, std::string_view name, const Value& self, const Arguments& arguments,
               bool at_end) {
  const Parameters given(name, arguments, {"prefix", "start", "end"}, 1);
  const Window window = window_of(budget, self_of(self), given);
  if (window.is_empty) return false;
  const std::string_view text =
      std::string_view(self_of(self).bytes).substr(window.begin, window.end - window.begin);
  const auto fits = [&](const Value& affix) {
    if (affix.string() == nullptr) {
      if (const auto* none = affix.get<Undefined>()) fail_undefined(*none);
      fail(name, "a string or a tuple of strings", "a '" + std::string(type_name(affix)) + "'");
    }
    const std::string& bytes = affix.string()->bytes;
    return at_end ? text.ends_with(bytes) : text.starts_with(bytes);
  };
  const List* several = given[0]->list();
  if (several == nullptr || several->kind != List::Kind::tuple) return fits(*given[0]);
  return std::any_of(several->items.begin(), several->items.end(), fits);
}

Value starts_with(Renderer& renderer, const Value& self, const Arguments& arguments) {
  return has_affix(renderer.budget(), "startswith", self, arguments, false);
}
Value ends_with(Renderer& renderer, const Value& self, const Arguments& arguments) {
  return has_affix(renderer.budget(), "endswith", self, arguments, true);
}

// The character at which a text is found, or -1.
std::int64_t find_text(Renderer& renderer, std::string_view name, const Value& self,
                       const Arguments& arguments, bool from_end) {
  Budget& budget = renderer.budget();
  const Parameters given(name, arguments, {"sub", "start", "end"}, 1);
  const std::string_view bytes = self_of(self).bytes;
  const Window window = window_of(budget, self_of(self), given);
  if (window.is_empty) return -1;
  const std::string_view text = bytes.substr(0, window.end);
  const std::string& sought = given.string(0).bytes;
  budget.step(text.size() / 64);
  const std::size_t at =
      from_end ? find_last(budget, text, sought) : find_part(text, sought, window.begin);
  if (at == not_found || at < window.begin) return -1;
  return static_cast<std::int64_t>(count_characters(bytes.substr(0, at)));
}

Value find_left(Renderer& renderer, const Value& self, const Arguments& arguments) {
  return find_text(renderer, "find", self, arguments, false);
}
Value find_right(Renderer& renderer, const Value& self, const Arguments& arguments) {
  return find_text(renderer, "rfind", self, arguments, true);
}
Value index_left(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const std::int64_t at = find_text(renderer, "index", self, arguments, false);
  if (at < 0) fail("index", "a part of the text", "another text");
  return at;
}
Value index_right(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const std::int64_t at = find_text(renderer, "rindex", self, arguments, true);
  if (at < 0) fail("rindex", "a part of the text", "another text");
  return at;
}

Value count_text(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("count", arguments, {"sub", "start", "end"}, 1);
  Budget& budget = renderer.budget();
  const Window window = window_of(budget, self_of(self), given);
  if (window.is_empty) return std::int64_t{0};
  const std::string_view text =
      std::string_view(self_of(self).bytes).substr(window.begin, window.end - window.begin);
  budget.step(text.size() / 16);
  const std::string& sought = given.string(0).bytes;
  if (sought.empty()) return static_cast<std::int64_t>(count_characters(text)) + 1;
  std::int64_t count = 0;
  for (std::size_t at = find_part(text, sought, 0); at != not_found;
       at = find_part(text, sought, at + sought.size())) {
    ++count;
  }
  return count;
}

Value replace(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("replace", arguments, {"old", "new", "count"}, 2);
  return replace_text(renderer.budget(), self_of(self), given.string(0), given.string(1),
                      given.integer(2, -1));
}

Value without_prefix(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("removeprefix", arguments, {"prefix"}, 1);
  const String& text = self_of(self);
  const std::string& affix = given.string(0).bytes;
  return make_part(renderer.budget(), text, text.bytes.starts_with(affix) ? affix.size() : 0,
                   text.bytes.size());
}

Value without_suffix(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("removesuffix", arguments, {"suffix"}, 1);
  const String& text = self_of(self);
  const std::string& affix = given.string(0).bytes;
  return make_part(renderer.budget(), text, 0,
                   text.bytes.size() - (text.bytes.ends_with(affix) ? affix.size() : 0));
}

template <std::string (*change)(std::string_view)>
Value changed(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("method", arguments, {});
  return make_derived(renderer.budget(), change(self_of(self).bytes), self_of(self));
}

Value join(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("join", arguments, {"iterable"}, 1);
  const std::vector<Value> items = elements(renderer.budget(), *given[0]);
  TextBuilder out(renderer.budget());
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].string() == nullptr) {
      fail("join", "strings alone", "a '" + std::string(type_name(items[i])) + "'");
    }
    if (i > 0) out.append(self_of(self));
    out.append(*items[i].string());
  }
  return make_string(out.take());
}

// ljust, rjust, center: filled to a width.
Value pad(Renderer& renderer, std::string_view name, const Value& self, const Arguments& arguments,
          int side) {
  const Parameters given(name, arguments, {"width", "fillchar"}, 1);
  String fill{" "};
  if (given.has(1)) fill = given.string(1);
  if (count_characters(fill.bytes) != 1) fail(name, "one character to fill with", "another text");
  return pad_text(renderer.budget(), self_of(self), given.integer(0, 0), fill, side);
}

Value pad_right(Renderer& r, const Value& s, const Arguments& a) {
  return pad(r, "ljust", s, a, 1);
}
Value pad_left(Renderer& r, const Value& s, const Arguments& a) {
  return pad(r, "rjust", s, a, -1);
}
Value pad_both(Renderer& r, const Value& s, const Arguments& a) {
  return pad(r, "center", s, a, 0);
}

Value fill_zeros(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("zfill", arguments, {"width"}, 1);
  const String& text = self_of(self);
  const bool has_sign = text.bytes.starts_with('-') || text.bytes.starts_with('+');
  const std::size_t sign = has_sign ? 1 : 0;
  const Value number = make_part(renderer.budget(), text, sign, text.bytes.size());
  const Value padded =
      pad_text(renderer.budget(), *number.string(),
               given.integer(0, 0) - static_cast<std::int64_t>(sign), String{"0"}, -1);
  TextBuilder out(renderer.budget());
  out.append(text, 0, sign);
  out.append(*padded.string());
  return make_string(out.take());
}

// isdigit and its like: not empty, and true of every character.
template <bool (*holds)(char32_t)>
Value all_are(Renderer& renderer, const Value& self, const Arguments& arguments) {
  const Parameters given("method", arguments, {});
  const std::string& text = self_of(self).bytes;
  renderer.budget().step(text.size() / 16);
  for (std::size_t at = 0; at < text.size();) {
    if (!holds(utf8::next(text, at))) return false;
  }
  return !text.empty();
}

// The same, and of the empty text.
template <bool (*holds)(char32_t)>
Value none_but(Renderer& renderer, const Value& self, const Arguments& arguments) {
  if (self_of(self).bytes.empty()) return true;
  return all_are<holds>(renderer, self, arguments);
}

bool is_ascii(char32_t code) { return code < 0x80; }

enum class Case { upper, lower, title };

template <Case wanted>
Value has_case(Renderer& renderer, const Value& self, const Arguments&) {
  const std::string& text = self_of(self).bytes;
  renderer.budget().step(text.size() / 16);
  return wanted == Case::title ? has_title_case(text) : has_one_case(text, wanted == Case::upper);
}

constexpr std::array<Method, 46> methods = {{
    {"capitalize", changed<capitalize>},
    {"casefold", nullptr},
    {"center", pad_both},
    {"count", count_text},
    {"encode", nullptr},
    {"endswith", ends_with},
    {"expandtabs", nullptr},
    {"find", find_left},
    {"format", format_braces},
    {"format_map", nullptr},
    {"index", index_left},
    {"isalnum", all_are<is_alphanumeric>},
    {"isalpha", all_are<is_letter>},
    {"isascii", none_but<is_ascii>},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_any_digit>},
    {"isidentifier", nullptr},
    {"islower", has_case<Case::lower>},
    {"isnumeric", all_are<is_numeric>},
    {"isprintable", none_but<is_printable>},
    {"isspace", all_are<is_space>},
    {"istitle", has_case<Case::title>},
    {"isupper", has_case<Case::upper>},
    {"join", join},
    {"ljust", pad_right},
    {"lower", changed<lower>},
    {"lstrip", left},
    {"maketrans", nullptr},
    {"partition", partition_left},
    {"removeprefix", without_prefix},
    {"removesuffix", without_suffix},
    {"replace", replace},
    {"rfind", find_right},
    {"rindex", index_right},
    {"rjust", pad_left},
    {"rpartition", partition_right},
    {"rsplit", split_right},
    {"rstrip", right},
    {"split", split_left},
    {"splitlines", split_lines},
    {"startswith", starts_with},
    {"strip", both},
    {"swapcase", changed<swapcase>},
    {"title", changed<title>},
    {"translate", nullptr},
    {"upper", changed<upper>},
}};

}  // namespace

const Method* find_string_method(std::string_view name) noexcept {
  if (name == "zfill") {
    static constexpr Method zfill{"zfill", fill_zeros};
    return &zfill;
  }
  const auto* const found = std::find_if(methods.begin(), methods.end(),
                                         [&](const Method& method) { return method.name == name; });
  return found == methods.end() ? nullptr : found;
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
