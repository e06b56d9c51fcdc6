#include "decoding/grammar/gbnf.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "decoding/grammar/reader.hpp"
#include "decoding/grammar/regex.hpp"
#include "text/unicode/code_sets.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

constexpr int deepest_groups = 200;

bool is_name(char32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

class Parser {
 public:
  Parser(std::string_view text, std::string_view root) : reader_(text), root_(root) {}

  Result<Rules> run() {
    static_cast<void>(reader_.take("\xEF\xBB\xBF"));  // a byte order mark
    find(root_);
    for (skip(true); !reader_.is_done(); skip(true)) KRAIT_RETURN_IF_ERROR(rule());
    for (const auto& [name, use] : uses_) {
      if (use.is_defined) continue;
      if (name == root_) return missing_root();
      return Error{ErrorCode::bad_format,
                   fmt::format("[grammar] line {}: expected a rule that is defined, found '{}'",
                               use.line, name)};
    }
    return std::move(rules_);
  }

 private:
  struct Use {
    std::uint32_t index = 0;
    std::size_t line = 0;  // where it is named first
    bool is_defined = false;
  };

  Error missing_root() const {
    return {ErrorCode::bad_format,
            fmt::format("[grammar] rules: expected one named '{}', found none", root_)};
  }
  Error bad(std::string_view expected, std::string_view found) const {
    return {ErrorCode::bad_format, fmt::format("[grammar] line {}: expected {}, found {}",
                                               reader_.line(), expected, found)};
  }
  Error bad(std::string_view expected) const { return bad(expected, reader_.found()); }

  Use& find(std::string_view name) {
    const auto place = uses_.find(name);
    if (place != uses_.end()) return place->second;
    const std::uint32_t index = rules_.declare(std::string(name));
    return uses_.emplace(name, Use{.index = index, .line = reader_.line()}).first->second;
  }

  // Spaces and comments.
  void skip(bool over_lines) {
    for (;;) {
      const char32_t c = reader_.peek();
      if (c == '#') {
        while (!reader_.is_done() && reader_.peek() != '\n' && reader_.peek() != '\r') {
          reader_.take();
        }
      } else if (c == ' ' || c == '\t' || (over_lines && (c == '\n' || c == '\r'))) {
        reader_.take();
      } else {
        return;
      }
    }
  }

  Result<std::string> name() {
    const std::size_t begin = reader_.position();
    while (is_name(reader_.peek())) reader_.take();
    if (reader_.position() == begin) return bad("the name of a rule");
    return std::string(reader_.from(begin));
  }

  Result<void> rule() {
    KRAIT_ASSIGN_OR_RETURN(const std::string defined, name());
    skip(false);
    if (!reader_.take("::=")) return bad("'::='");
    if (find(defined).is_defined) {
      return bad("rules of different names", "a second '" + defined + "'");
    }
    find(defined).is_defined = true;
    skip(true);
    // A rule without a text, before the next one or the end, would be one by mistake.
    KRAIT_ASSIGN_OR_RETURN(const ExprId body, alternatives(0));
    rules_.define(find(defined).index, body);
    if (!reader_.is_done() && reader_.peek() != '\n' && reader_.peek() != '\r') {
      return bad("the end of the line or a part of the rule");
    }
    return {};
  }

  Result<ExprId> alternatives(int depth) {
    if (depth > deepest_groups)
      return bad(fmt::format("groups at most {} deep", deepest_groups), "more");
    std::vector<ExprId> branches;
    for (;;) {
      KRAIT_ASSIGN_OR_RETURN(const ExprId branch, sequence(depth));
      branches.push_back(branch);
      // The next line may begin with '|'.
      const Reader before = reader_;
      skip(true);
      if (reader_.take("|")) {
        skip(true);
      } else {
        if (depth == 0) reader_ = before;
        return rules_.alt(std::move(branches));
      }
    }
  }

  Result<ExprId> sequence(int depth) {
    std::vector<ExprId> parts;
    for (;;) {
      skip(depth > 0);
      const char32_t c = reader_.peek();
      ExprId part = 0;
      if (reader_.take("\"")) {
        KRAIT_ASSIGN_OR_RETURN(part, literal());
      } else if (reader_.take("[")) {
        KRAIT_ASSIGN_OR_RETURN(part, char_class());
      } else if (reader_.take(".")) {
        part = rules_.chars(any_char());
      } else if (reader_.take("(")) {
        KRAIT_ASSIGN_OR_RETURN(part, alternatives(depth + 1));
        skip(true);
        if (!reader_.take(")")) return bad("')'");
      } else if (is_name(c)) {
        // In a group, or on a line of its own, the name may be that of the next rule.
        const Reader before = reader_;
        KRAIT_ASSIGN_OR_RETURN(const std::string named, name());
        const Reader behind = reader_;
        skip(false);
        if (reader_.is_next("::=")) {
          reader_ = before;
          return rules_.seq(std::move(parts));
        }
        reader_ = behind;
        part = rules_.rule(find(named).index);
      } else {
        return rules_.seq(std::move(parts));
      }
      KRAIT_ASSIGN_OR_RETURN(part, repeated(part, depth));
      parts.push_back(part);
    }
  }

  Result<ExprId> repeated(ExprId part, int depth) {
    constexpr std::uint32_t limit = 1'000'000;
    for (;;) {
      skip(depth > 0);
      if (reader_.take("*")) {
        part = rules_.repeat(part, 0, unbounded);
      } else if (reader_.take("+")) {
        part = rules_.repeat(part, 1, unbounded);
      } else if (reader_.take("?")) {
        part = rules_.optional(part);
      } else if (reader_.take("{")) {
        skip(depth > 0);
        const auto least = reader_.is_next(",") ? 0 : reader_.number(limit);
        skip(depth > 0);
        std::optional<std::uint32_t> most = least;
        if (reader_.take(",")) {
          skip(depth > 0);
          most = reader_.is_next("}") ? unbounded : reader_.number(limit);
          skip(depth > 0);
        }
        if (!least || !most || !reader_.take("}")) {
          return bad(fmt::format("numbers of at most {} and '}}'", limit));
        }
        if (*least > *most) {
          return bad("bounds in ascending order", fmt::format("{{{},{}}}", *least, *most));
        }
        part = rules_.repeat(part, *least, *most);
      } else {
        return part;
      }
    }
  }

  Result<ExprId> literal() {
    std::string text;
    while (!reader_.take("\"")) {
      if (reader_.is_done()) return bad("'\"' at the end of a text");
      KRAIT_ASSIGN_OR_RETURN(const char32_t code, character());
      utf8::append(text, code);
    }
    return rules_.literal(std::move(text));
  }

  Result<ExprId> char_class() {
    const bool is_negated = reader_.take("^");
    Ranges ranges;
    while (!reader_.take("]")) {
      if (reader_.is_done() || reader_.is_next("\n")) return bad("']'");
      KRAIT_ASSIGN_OR_RETURN(const char32_t first, character());
      char32_t last = first;
      const Reader before = reader_;
      if (reader_.take("-") && !reader_.is_next("]")) {
        if (reader_.is_done()) return bad("']'");
        KRAIT_ASSIGN_OR_RETURN(last, character());
        if (last < first) return bad("a range from a character to a larger one", "another");
      } else {
        reader_ = before;
      }
      ranges.push_back({first, last});
    }
    ranges = code_sets::united(std::move(ranges), {});
    return rules_.chars(is_negated ? code_sets::complement(ranges) : ranges);
  }

  // One of a text or a class.
  Result<char32_t> character() {
    if (!reader_.take("\\")) return reader_.take();
    struct Short {
      std::string_view letter;
      char32_t code;
    };
    constexpr Short shorts[] = {{"n", '\n'}, {"r", '\r'}, {"t", '\t'}, {"\\", '\\'}, {"\"", '"'},
                                {"[", '['},  {"]", ']'},  {"-", '-'},  {"^", '^'},   {"/", '/'}};
    for (const auto& [letter, code] : shorts) {
      if (reader_.take(letter)) return code;
    }
    std::optional<std::uint32_t> code;
    if (reader_.take("x")) {
      code = reader_.hex(2, 2);
    } else if (reader_.take("u")) {
      code = reader_.hex(4, 4);
    } else if (reader_.take("U")) {
      code = reader_.hex(8, 8);
    } else {
      return bad("a known escape");
    }
    if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) {
      return bad("hexadecimal digits of a character");
    }
    return char32_t{*code};
  }

  Reader reader_;
  std::string root_;
  Rules rules_;
  std::map<std::string, Use, std::less<>> uses_;
};

}  // namespace

Result<Rules> parse_gbnf(std::string_view text, std::string_view root) {
  if (const std::size_t valid = utf8::first_ill_formed(text); valid != text.size()) {
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(valid), '\n');
    return Error{ErrorCode::bad_format,
                 fmt::format("[grammar] line {}: expected UTF-8, found other bytes", line)};
  }
  return Parser(text, root).run();
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
