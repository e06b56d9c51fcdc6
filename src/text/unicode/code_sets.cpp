#include "text/unicode/code_sets.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace krait {
inline namespace v0_1 {
namespace code_sets {
namespace {

using unicode::CodeRange;

struct Name {
  std::string_view short_name, long_name;
};

// In the order of unicode::Category.
constexpr std::array<Name, 30> names = {{
    {"cn", "unassigned"},
    {"cc", "control"},
    {"cf", "format"},
    {"co", "privateuse"},
    {"cs", "surrogate"},
    {"ll", "lowercaseletter"},
    {"lm", "modifierletter"},
    {"lo", "otherletter"},
    {"lt", "titlecaseletter"},
    {"lu", "uppercaseletter"},
    {"mc", "spacingmark"},
    {"me", "enclosingmark"},
    {"mn", "nonspacingmark"},
    {"nd", "decimalnumber"},
    {"nl", "letternumber"},
    {"no", "othernumber"},
    {"pc", "connectorpunctuation"},
    {"pd", "dashpunctuation"},
    {"pe", "closepunctuation"},
    {"pf", "finalpunctuation"},
    {"pi", "initialpunctuation"},
    {"po", "otherpunctuation"},
    {"ps", "openpunctuation"},
    {"sc", "currencysymbol"},
    {"sk", "modifiersymbol"},
    {"sm", "mathsymbol"},
    {"so", "othersymbol"},
    {"zl", "lineseparator"},
    {"zp", "paragraphseparator"},
    {"zs", "spaceseparator"},
}};

constexpr std::array<Name, 7> groups = {{
    {"c", "other"},
    {"l", "letter"},
    {"m", "mark"},
    {"n", "number"},
    {"p", "punctuation"},
    {"s", "symbol"},
    {"z", "separator"},
}};

std::uint32_t group(char first) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i].short_name.front() == first) bits |= 1U << i;
  }
  return bits;
}

std::uint32_t category(std::string_view short_name) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i].short_name == short_name) bits |= 1U << i;
  }
  return bits;
}

}  // namespace

Ranges of_categories(std::uint32_t categories) {
  Ranges result;
  const auto runs = unicode::category_runs();
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if ((categories >> (runs[i] & 31U) & 1U) == 0) continue;
    const char32_t first = runs[i] >> 5U;
    const char32_t last = (i + 1 < runs.size() ? runs[i + 1] >> 5U : 0x110000U) - 1;
    if (!result.empty() && result.back().last + 1 == first) {
      result.back().last = last;
    } else {
      result.push_back({first, last});
    }
  }
  return result;
}

Ranges united(Ranges a, const Ranges& b) {
  a.insert(a.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end(),
            [](const CodeRange& x, const CodeRange& y) { return x.first < y.first; });
  Ranges result;
  for (const CodeRange& range : a) {
    if (!result.empty() && range.first <= result.back().last + 1) {
      result.back().last = std::max(result.back().last, range.last);
    } else {
      result.push_back(range);
    }
  }
  return result;
}

Ranges complement(const Ranges& ranges) {
  Ranges result;
  char32_t next = 0;
  for (const CodeRange& range : ranges) {
    if (next < range.first) result.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next < 0x110000) result.push_back({next, 0x10FFFF});
  return result;
}

namespace {

// Case, spaces, underscores and hyphens do not count.
std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    plain += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return plain;
}

}  // namespace

std::optional<std::uint32_t> named_categories(std::string_view name) {
  const std::string plain = plain_name(name);
  for (const Name& one : groups) {
    if (plain == one.short_name || plain == one.long_name) return group(one.short_name.front());
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (plain == names[i].short_name || plain == names[i].long_name) return 1U << i;
  }
  if (plain == "lc" || plain == "l&" || plain == "casedletter") {
    return category("lu") | category("ll") | category("lt");
  }
  return std::nullopt;
}

namespace {

// The code points of a script: those whose Script property it is, as Oniguruma has it, not their
// Script_Extensions.
std::optional<Ranges> of_script(std::string_view plain) {
  const auto known = unicode::script_names();
  const auto script = std::find_if(known.begin(), known.end(), [&](const auto& entry) {
    return plain == entry.code || plain == entry.name;
  });
  if (script == known.end()) return std::nullopt;
  Ranges result;
  const auto runs = unicode::script_runs();
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if ((runs[i] & 255U) != static_cast<std::uint32_t>(script - known.begin())) continue;
    result.push_back({runs[i] >> 8U, (i + 1 < runs.size() ? runs[i + 1] >> 8U : 0x110000U) - 1});
  }
  return result;
}

// Categories, and what has their property beside them.
Ranges with(std::uint32_t categories, std::span<const unicode::CodeRange> others) {
  return united(of_categories(categories), Ranges(others.begin(), others.end()));
}

}  // namespace

std::optional<Ranges> named(std::string_view name) {
  if (const auto categories = named_categories(name)) return of_categories(*categories);
  const std::string plain = plain_name(name);
  if (plain == "any") return Ranges{{0, 0x10FFFF}};
  if (plain == "punct") return of_categories(group('p'));  // without the symbols of [:punct:]
  if (plain == "assigned") return complement(of_categories(category("cn")));
  if (auto ranges = posix(plain)) return ranges;
  return of_script(plain);
}

std::optional<std::string> fast_members(std::uint32_t categories, std::string_view version) {
  if (version != "14.0.0" && version != "16.0.0") return std::nullopt;
  Ranges gained;
  for (const unicode::CategoryChange& change : unicode::changes_since_14()) {
    if (version == "16.0.0") break;  // the table's own
    const bool was = (categories >> static_cast<unsigned>(change.before) & 1U) != 0;
    const bool is = (categories >> static_cast<unsigned>(change.now) & 1U) != 0;
    if (was && !is) return std::nullopt;
    if (is && !was) gained.push_back(change.range);
  }
  std::string result;
  for (const Name& one : groups) {
    const std::uint32_t all = group(one.short_name.front());
    if ((categories & all) != all) continue;
    categories &= ~all;
    result += fmt::format("\\p{{{}}}", static_cast<char>(one.short_name[0] - 'a' + 'A'));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if ((categories >> i & 1U) == 0) continue;
    const std::string_view name = names[i].short_name;
    result += fmt::format("\\p{{{}{}}}", static_cast<char>(name[0] - 'a' + 'A'), name[1]);
  }
  return result + members(gained);
}

std::optional<Ranges> posix(std::string_view name) {
  if (name == "space") return spaces();
  if (name == "word") return words();
  if (name == "digit") return digits();
  if (name == "upper") return with(category("lu"), unicode::other_uppercase());
  if (name == "lower") return with(category("ll"), unicode::other_lowercase());
  if (name == "cntrl") return of_categories(category("cc"));
  if (name == "blank") return united(of_categories(category("zs")), {{'\t', '\t'}});
  if (name == "xdigit") return Ranges{{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
  if (name == "ascii") return Ranges{{0, 0x7F}};
  if (name == "alpha") return with(group('l') | category("nl"), unicode::other_alphabetic());
  if (name == "alnum") {
    return with(group('l') | category("nl") | category("nd"), unicode::other_alphabetic());
  }
  if (name == "punct") return of_categories(group('p') | group('s'));
  return std::nullopt;
}

const Ranges& spaces() {
  static const Ranges ranges = {
      {'\t', '\r'},     {' ', ' '},       {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
      {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
  return ranges;
}

const Ranges& words() {
  static const Ranges ranges =
      united(words_in_classes(), {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}});
  return ranges;
}

const Ranges& words_in_classes() {
  static const Ranges ranges =
      with(group('l') | group('m') | category("nd") | category("nl") | category("pc"),
           unicode::other_alphabetic());
  return ranges;
}

const Ranges& digits() {
  static const Ranges ranges = of_categories(category("nd"));
  return ranges;
}

std::string members(const Ranges& ranges) {
  Ranges written;
  for (CodeRange range : ranges) {
    // Surrogates are in no text, and a pattern cannot name them.
    if (range.first >= 0xD800 && range.first < 0xE000) range.first = 0xE000;
    if (range.last >= 0xD800 && range.last < 0xE000) range.last = 0xD7FF;
    if (range.first <= range.last) written.push_back(range);
  }
  // Engines look at one range after another: the large ones, of the scripts in use, first.
  std::stable_sort(written.begin(), written.end(), [](const CodeRange& a, const CodeRange& b) {
    return a.last - a.first > b.last - b.first;
  });
  std::string result;
  for (const CodeRange& range : written) {
    result += fmt::format("\\x{{{:X}}}", static_cast<std::uint32_t>(range.first));
    if (range.first < range.last) {
      result += fmt::format("-\\x{{{:X}}}", static_cast<std::uint32_t>(range.last));
    }
  }
  return result;
}

}  // namespace code_sets
}  // namespace v0_1
}  // namespace krait
