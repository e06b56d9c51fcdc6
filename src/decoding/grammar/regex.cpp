#include "decoding/grammar/regex.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "decoding/grammar/reader.hpp"
#include "text/unicode/code_sets.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {
namespace {

struct Node {
  enum class Kind { set, seq, alt, repeat, begin, end };
  Kind kind = Kind::seq;
  Ranges set = {};
  std::vector<Node> parts = {};
  std::uint32_t least = 1, most = 1;
};

constexpr int deepest_regex = 200;

Ranges single(char32_t code) { return {{code, code}}; }

// What engines mean by an escape, from the fewest characters to the most: ASCII, and Unicode.
struct ClassEscape {
  Ranges narrow, wide;
};

std::optional<ClassEscape> class_escape(char32_t letter) {
  switch (letter) {
    case 'd':
    case 'D':
      return ClassEscape{{{'0', '9'}}, code_sets::digits()};
    case 'w':
    case 'W':
      return ClassEscape{{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, code_sets::words()};
    case 's':
    case 'S':
      return ClassEscape{{{'\t', '\r'}, {' ', ' '}},
                         code_sets::united(code_sets::spaces(), {{0x1C, 0x1F}, {0xFEFF, 0xFEFF}})};
    default:
      return std::nullopt;
  }
}

class RegexParser {
 public:
  explicit RegexParser(std::string_view pattern) : reader_(pattern) {}

  Result<Node> run() {
    KRAIT_ASSIGN_OR_RETURN(Node node, alternatives(0));
    if (!reader_.is_done()) return bad("a group that was opened", "')'");
    return node;
  }

 private:
  Error fail(ErrorCode code, std::string_view expected, std::string_view found) const {
    return {code, fmt::format("[regex] pattern: expected {}, found {} (at byte {})", expected,
                              found, reader_.position())};
  }
  Error bad(std::string_view expected, std::string_view found) const {
    return fail(ErrorCode::bad_format, expected, found);
  }
  Error bad(std::string_view expected) const { return bad(expected, reader_.found()); }
  Error unsupported(std::string_view what) const {
    return fail(ErrorCode::unsupported, "what a finite automaton can decide", what);
  }

  Result<Node> alternatives(int depth) {
    if (depth > deepest_regex) {
      return fail(ErrorCode::unsupported, fmt::format("groups at most {} deep", deepest_regex),
                  "more");
    }
    Node node{.kind = Node::Kind::alt};
    do {
      Node branch;
      while (!reader_.is_done() && !reader_.is_next("|") && !reader_.is_next(")")) {
        KRAIT_ASSIGN_OR_RETURN(Node part, repeated(depth));
        branch.parts.push_back(std::move(part));
      }
      node.parts.push_back(std::move(branch));
    } while (reader_.take("|"));
    return node;
  }

  Result<Node> repeated(int depth) {
    KRAIT_ASSIGN_OR_RETURN(Node part, atom(depth));
    const bool is_anchor = part.kind == Node::Kind::begin || part.kind == Node::Kind::end;
    bool is_repeated = false;
    for (;;) {
      std::uint32_t least = 0;
      std::uint32_t most = unbounded;
      if (reader_.take("?")) {
        most = 1;
      } else if (reader_.take("+")) {
        least = 1;
      } else if (!reader_.take("*")) {
        KRAIT_ASSIGN_OR_RETURN(const bool is_count, count(least, most));
        if (!is_count) return part;
      }
      if (is_anchor || is_repeated) return bad("something to repeat", "a repetition");
      static_cast<void>(reader_.take("?"));  // lazy: the same texts
      Node node{.kind = Node::Kind::repeat, .least = least, .most = most};
      node.parts.push_back(std::move(part));
      part = std::move(node);
      is_repeated = true;
    }
  }

  // {2}, {2,} and {2,3}; other braces stand for themselves.
  Result<bool> count(std::uint32_t& least, std::uint32_t& most) {
    constexpr std::uint32_t limit = 1'000'000;
    const Reader before = reader_;
    if (!reader_.take("{")) return false;
    if (reader_.is_next(",")) return bad("the least number of times");
    if (reader_.peek() < '0' || reader_.peek() > '9') {
      reader_ = before;
      return false;
    }
    const auto first = reader_.number(limit);
    std::optional<std::uint32_t> second = first;
    if (reader_.take(",")) second = reader_.is_next("}") ? unbounded : reader_.number(limit);
    if (!first || !second || !reader_.take("}")) {
      return bad(fmt::format("a number of times of at most {}, and '}}'", limit));
    }
    if (*first > *second) {
      return bad("bounds in ascending order", fmt::format("{{{},{}}}", *first, *second));
    }
    least = *first;
    most = *second;
    return true;
  }

  Result<Node> atom(int depth) {
    const auto set = [](Ranges ranges) {
      return Node{.kind = Node::Kind::set, .set = std::move(ranges)};
    };
    if (reader_.take("(")) return group(depth);
    if (reader_.take("[")) {
      KRAIT_ASSIGN_OR_RETURN(Ranges ranges, char_class());
      return set(std::move(ranges));
    }
    if (reader_.take("^") || reader_.take("\\A")) return Node{.kind = Node::Kind::begin};
    if (reader_.take("$") || reader_.take("\\z") || reader_.take("\\Z")) {
      return Node{.kind = Node::Kind::end};
    }
    if (reader_.take(".")) {
      return set(
          code_sets::complement({{'\n', '\n'}, {'\r', '\r'}, {0x85, 0x85}, {0x2028, 0x2029}}));
    }
    if (reader_.take("\\")) {
      KRAIT_ASSIGN_OR_RETURN(Ranges ranges, escape(false, false));
      return set(std::move(ranges));
    }
    if (reader_.is_next("*") || reader_.is_next("+") || reader_.is_next("?")) {
      return bad("something to repeat");
    }
    return set(single(reader_.take()));
  }

  // Behind the parenthesis.
  Result<Node> group(int depth) {
    if (reader_.take("?")) {
      if (reader_.is_next("=") || reader_.is_next("!") || reader_.is_next("<=") ||
          reader_.is_next("<!")) {
        return unsupported("a look-around assertion");
      }
      if (reader_.take("<") || reader_.take("P<")) {
        while (!reader_.is_done() && !reader_.is_next(">")) reader_.take();
        if (!reader_.take(">")) return bad("'>' behind the group's name");
      } else if (!reader_.take(":")) {
        return unsupported("a group that begins with '(?' and " + reader_.found());
      }
    }
    KRAIT_ASSIGN_OR_RETURN(Node node, alternatives(depth + 1));
    if (!reader_.take(")")) return bad("')'");
    return node;
  }

  // Behind the bracket.
  Result<Ranges> char_class() {
    const bool is_negated = reader_.take("^");
    Ranges ranges;
    if (reader_.is_next("]")) return bad("a character in the class");
    while (!reader_.take("]")) {
      if (reader_.is_done()) return bad("']'");
      for (const char* begin : {"[:", "[.", "[="}) {
        if (reader_.is_next(begin)) return unsupported("a class of POSIX's within a class");
      }
      KRAIT_ASSIGN_OR_RETURN(Ranges low, class_member(is_negated));
      const Reader before = reader_;
      const bool is_one = low.size() == 1 && low[0].first == low[0].last;
      if (is_one && reader_.take("-") && !reader_.is_next("]")) {
        KRAIT_ASSIGN_OR_RETURN(const Ranges high, class_member(is_negated));
        if (high.size() != 1 || high[0].first != high[0].last || high[0].first < low[0].first) {
          return bad("a range from a character to a larger one", "another");
        }
        low[0].last = high[0].last;
      } else {
        reader_ = before;
      }
      ranges.insert(ranges.end(), low.begin(), low.end());
    }
    ranges = code_sets::united(std::move(ranges), {});
    return is_negated ? code_sets::complement(ranges) : ranges;
  }

  Result<Ranges> class_member(bool is_negated) {
    if (reader_.is_done()) return bad("']'");
    if (reader_.take("\\")) return escape(true, is_negated);
    return single(reader_.take());
  }

  // Behind the backslash. What a negated class excludes is as much as any engine may mean.
  Result<Ranges> escape(bool in_class, bool is_negated) {
    if (reader_.is_done()) return bad("a character behind '\\'");
    const char32_t letter = reader_.peek();
    if (const auto found = class_escape(letter)) {
      reader_.take();
      const bool is_complement = letter < 'a';
      const Ranges& ranges = is_complement == is_negated ? found->narrow : found->wide;
      return is_complement ? code_sets::complement(ranges) : ranges;
    }
    if (letter == 'p' || letter == 'P') return property();
    if (letter >= '1' && letter <= '9') return unsupported("a reference back to a group");
    if (letter == 'k') return unsupported("a reference back to a group");
    if (letter == 'b' && in_class) {
      reader_.take();
      return single('\b');
    }
    if (letter == 'b' || letter == 'B') return unsupported("a word boundary");
    return single_escape();
  }

  Result<Ranges> single_escape() {
    struct Short {
      char letter;
      char32_t code;
    };
    constexpr Short shorts[] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'f', '\f'},
                                {'v', '\v'}, {'a', '\a'}, {'e', 0x1B}, {'0', 0}};
    for (const auto& [letter, code] : shorts) {
      if (!reader_.take(std::string_view(&letter, 1))) continue;
      if (letter == '0' && reader_.peek() >= '0' && reader_.peek() <= '9') {
        return unsupported("a character in octal digits");
      }
      return single(code);
    }
    std::optional<std::uint32_t> code;
    const bool is_u = reader_.is_next("u");
    if (reader_.take("x{") || reader_.take("u{")) {
      code = reader_.hex(1, 6);
      if (!reader_.take("}")) return bad("'}' behind hexadecimal digits");
    } else if (reader_.take("x")) {
      code = reader_.hex(2, 2);
    } else if (reader_.take("u")) {
      code = reader_.hex(4, 4);
    } else {
      const char32_t letter = reader_.peek();
      if (letter < 0x80 && ((letter | 0x20U) < 'a' || (letter | 0x20U) > 'z')) {
        return single(reader_.take());
      }
      return bad("a known escape");
    }
    // The halves of a surrogate pair.
    if (is_u && code && *code >= 0xD800 && *code < 0xDC00 && reader_.take("\\u")) {
      const auto low = reader_.hex(4, 4);
      if (low && *low >= 0xDC00 && *low < 0xE000) {
        code = 0x10000 + ((*code - 0xD800) << 10U) + (*low - 0xDC00);
      }
    }
    if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) {
      return bad("hexadecimal digits of a character");
    }
    return single(*code);
  }

  Result<Ranges> property() {
    const bool is_complement = reader_.take() == 'P';
    if (!reader_.take("{")) return bad("'{' and the name of a property");
    const std::size_t begin = reader_.position();
    while (!reader_.is_done() && !reader_.is_next("}")) reader_.take();
    const std::string name(reader_.from(begin));
    if (!reader_.take("}")) return bad("'}' behind the name of a property");
    const auto ranges = code_sets::named(name);
    if (!ranges) {
      return fail(ErrorCode::unsupported, "a property of Unicode", "'" + printable(name) + "'");
    }
    return is_complement ? code_sets::complement(*ranges) : *ranges;
  }

  Reader reader_;
};

// What may stand beside a part of the pattern.
enum class Side {
  inner,     // other parts
  edge,      // nothing
  anything,  // any text, unless an anchor forbids it
};

class Lowering {
 public:
  Lowering(Rules& rules, FunctionRef<ExprId(const Ranges&)> chars) : rules_(rules), chars_(chars) {}

  Result<ExprId> run(const Node& node, Side left, Side right) {
    switch (node.kind) {
      case Node::Kind::alt: {
        std::vector<ExprId> parts;
        for (const Node& part : node.parts) {
          KRAIT_ASSIGN_OR_RETURN(const ExprId id, run(part, left, right));
          parts.push_back(id);
        }
        return rules_.alt(std::move(parts));
      }
      case Node::Kind::seq:
        return run_seq(node.parts, left, right);
      case Node::Kind::set:
        return beside(left, chars_(node.set), right);
      case Node::Kind::repeat: {
        if (node.least == 1 && node.most == 1) return run(node.parts[0], left, right);
        KRAIT_ASSIGN_OR_RETURN(const ExprId part, run(node.parts[0], Side::inner, Side::inner));
        return beside(left, rules_.repeat(part, node.least, node.most), right);
      }
      case Node::Kind::begin:
      case Node::Kind::end:
        break;
    }
    const Node alone = node;
    return run_seq({&alone, 1}, left, right);
  }

 private:
  Result<ExprId> run_seq(std::span<const Node> parts, Side left, Side right) {
    while (!parts.empty() && parts.front().kind == Node::Kind::begin) {
      if (left == Side::inner) return misplaced("'^' at the beginning");
      left = Side::edge;
      parts = parts.subspan(1);
    }
    while (!parts.empty() && parts.back().kind == Node::Kind::end) {
      if (right == Side::inner) return misplaced("'$' at the end");
      right = Side::edge;
      parts = parts.first(parts.size() - 1);
    }
    if (parts.empty()) return beside(left, rules_.empty(), right == left ? Side::edge : right);
    std::vector<ExprId> ids;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].kind == Node::Kind::begin) return misplaced("'^' at the beginning");
      if (parts[i].kind == Node::Kind::end) return misplaced("'$' at the end");
      KRAIT_ASSIGN_OR_RETURN(const ExprId id, run(parts[i], i == 0 ? left : Side::inner,
                                                  i + 1 == parts.size() ? right : Side::inner));
      ids.push_back(id);
    }
    return rules_.seq(std::move(ids));
  }

  ExprId beside(Side left, ExprId id, Side right) {
    std::vector<ExprId> parts;
    if (left == Side::anything) parts.push_back(any_text());
    parts.push_back(id);
    if (right == Side::anything) parts.push_back(any_text());
    return rules_.seq(std::move(parts));
  }
  ExprId any_text() { return rules_.repeat(chars_(any_char()), 0, unbounded); }

  static Error misplaced(std::string_view expected) {
    return {ErrorCode::unsupported,
            fmt::format("[regex] pattern: expected {} of the pattern or of an alternative, found "
                        "it elsewhere",
                        expected)};
  }

  Rules& rules_;
  FunctionRef<ExprId(const Ranges&)> chars_;
};

}  // namespace

Result<ExprId> parse_regex(Rules& rules, std::string_view pattern, Match match,
                           FunctionRef<ExprId(const Ranges&)> chars) {
  if (const std::size_t valid = utf8::first_ill_formed(pattern); valid != pattern.size()) {
    return Error{
        ErrorCode::bad_format,
        fmt::format("[regex] pattern: expected UTF-8, found other bytes (at byte {})", valid)};
  }
  KRAIT_ASSIGN_OR_RETURN(const Node node, RegexParser(pattern).run());
  const Side side = match == Match::whole ? Side::edge : Side::anything;
  return Lowering(rules, chars).run(node, side, side);
}

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
