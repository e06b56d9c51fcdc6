#include "text/template/lexer.hpp"

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

using TokenKind = TemplateToken::Kind;
constexpr auto npos = std::string_view::npos;

// Every kind of line break as '\n'; one at the end is left out.
std::string with_plain_lines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(with_plain_lines(source)), rest_(text_) {}

  std::vector<TemplateToken> cut() {
    while (at_ < rest_.size()) {
      const std::size_t begin =
          std::min({rest_.find("{{", at_), rest_.find("{%", at_), rest_.find("{#", at_)});
      if (begin == npos) {
        add_text(rest_.substr(at_));
        break;
      }
      const bool is_output = rest_[begin + 1] == '{';
      const char sign = begin + 2 < rest_.size() ? rest_[begin + 2] : ' ';
      add_text(before_mark(rest_.substr(at_, begin - at_), sign, is_output));
      move_to(begin);
      const std::size_t inside = begin + 2 + (sign == '-' || sign == '+' ? 1 : 0);
      if (rest_[begin + 1] == '#') {
        skip_comment(inside);
      } else if (!is_output && begins_raw(inside)) {
        read_raw();
      } else {
        read_tag(inside, is_output);
      }
    }
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(std::string what) const {
    throw Failure{ErrorCode::bad_format, std::move(what), line_};
  }

  void add(TokenKind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), {}, line_});
  }
  void add_text(std::string_view text) {
    if (!text.empty()) add(TokenKind::text, std::string(text));
  }

  // Goes on at `position`, and counts the lines up to there.
  void move_to(std::size_t position) {
    const auto* begin = rest_.data();
    line_ += static_cast<std::size_t>(std::count(begin + at_, begin + position, '\n'));
    starts_line_ = position > 0 ? rest_[position - 1] == '\n' : starts_line_;
    at_ = position;
  }

  // Text in front of a mark: '-' takes all white space, blocks and comments that stand first in
  // their line take what is in front of them there.
  std::string_view before_mark(std::string_view text, char sign, bool is_output) const {
    if (sign == '-') return text.substr(0, end_of_strip(text, 0, nullptr));
    if (sign == '+' || is_output) return text;
    const std::size_t line = text.rfind('\n') + 1;  // 0 without one
    if (line == 0 && !starts_line_) return text;
    const std::string_view blank = text.substr(line);
    return begin_of_strip(blank, nullptr) == blank.size() ? text.substr(0, line) : text;
  }

  std::size_t behind_spaces(std::size_t position) const {
    return position + begin_of_strip(rest_.substr(position), nullptr);
  }

  // The end of "%}", "-%}" or "+%}" at `position` with the white space that it takes; npos where
  // there is none.
  std::size_t behind_end(std::size_t position, std::string_view mark, bool trims) const {
    const char sign = position < rest_.size() ? rest_[position] : ' ';
    const bool has_sign = sign == '-' || (sign == '+' && trims);
    const std::size_t begin = position + (has_sign ? 1 : 0);
    if (rest_.substr(begin, 2) != mark) return npos;
    if (sign == '-') return behind_spaces(begin + 2);
    const bool takes_break = trims && !has_sign && rest_.substr(begin + 2, 1) == "\n";
    return begin + 2 + (takes_break ? 1 : 0);
  }

  void skip_comment(std::size_t from) {
    const std::size_t end = rest_.find("#}", from);
    if (end == npos) fail_here("comment: expected '#}', found the end of the template");
    const bool has_sign = end > from && (rest_[end - 1] == '-' || rest_[end - 1] == '+');
    move_to(behind_end(has_sign ? end - 1 : end, "#}", true));
  }

  bool begins_raw(std::size_t inside) {
    const std::size_t word = behind_spaces(inside);
    if (rest_.substr(word, 3) != "raw") return false;
    const std::size_t end = behind_spaces(word + 3);
    // The line break behind it stays.
    const std::size_t behind = behind_end(end, "%}", false);
    if (behind == npos) return false;
    raw_begin_ = behind;
    return true;
  }

  void read_raw() {
    move_to(raw_begin_);
    for (std::size_t begin = rest_.find("{%", at_); begin != npos;
         begin = rest_.find("{%", begin + 1)) {
      const char sign = begin + 2 < rest_.size() ? rest_[begin + 2] : ' ';
      const std::size_t word = behind_spaces(begin + 2 + (sign == '-' || sign == '+' ? 1 : 0));
      if (rest_.substr(word, 6) != "endraw") continue;
      const std::size_t behind = behind_end(behind_spaces(word + 6), "%}", true);
      if (behind == npos) continue;
      add_text(before_mark(rest_.substr(at_, begin - at_), sign, false));
      move_to(behind);
      return;
    }
    fail_here("raw: expected endraw, found the end of the template");
  }

  // {{ … }} or {% … %}; brackets may hold what would else be its end.
  void read_tag(std::size_t inside, bool is_output) {
    add(is_output ? TokenKind::begin_output : TokenKind::begin_statement, "");
    move_to(inside);
    std::string brackets;
    for (;;) {
      move_to(behind_spaces(at_));
      if (at_ >= rest_.size()) {
        fail_here(is_output ? "output: expected '}}', found the end of the template"
                            : "statement: expected '%}', found the end of the template");
      }
      if (brackets.empty()) {
        const std::size_t behind = behind_end(at_, is_output ? "}}" : "%}", !is_output);
        if (behind != npos) {
          add(is_output ? TokenKind::end_output : TokenKind::end_statement, "");
          move_to(behind);
          return;
        }
      }
      read_token(brackets);
    }
  }

  void read_token(std::string& brackets) {
    const char c = rest_[at_];
    if (is_digit(c)) {
      read_number();
    } else if (c == '\'' || c == '"') {
      read_string();
    } else if (is_word_at(at_)) {
      std::size_t end = at_;
      while (end < rest_.size() && is_word_at(end)) utf8::next(rest_, end);
      add(TokenKind::name, std::string(rest_.substr(at_, end - at_)));
      move_to(end);
    } else {
      read_sign(brackets);
    }
  }

  bool is_word_at(std::size_t position) const {
    return unicode::is_word(utf8::next(rest_, position));
  }

  void read_sign(std::string& brackets) {
    static constexpr std::array<std::string_view, 26> signs = {
        "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  "<",  ">", "=", ".", ":", "|", ",", ";"};
    const auto* const sign = std::find_if(signs.begin(), signs.end(), [&](std::string_view s) {
      return rest_.substr(at_, s.size()) == s;
    });
    if (sign == signs.end()) {
      std::size_t end = at_;
      utf8::next(rest_, end);
      fail_here("expression: expected an operator or a value, found " +
                json_text(std::string(rest_.substr(at_, end - at_))));
    }
    constexpr std::string_view opening = "([{";
    constexpr std::string_view closing = ")]}";
    if (sign->size() == 1 && opening.find((*sign)[0]) != npos) brackets += (*sign)[0];
    const std::size_t kind = sign->size() == 1 ? closing.find((*sign)[0]) : npos;
    if (kind != npos) {
      if (brackets.empty() || brackets.back() != opening[kind]) {
        fail_here("brackets: expected pairs, found '" + std::string(*sign) + "' alone");
      }
      brackets.pop_back();
    }
    add(TokenKind::sign, std::string(*sign));
    move_to(at_ + sign->size());
  }

  // Digits, in which single underscores may stand.
  std::size_t behind_digits(std::size_t position) const {
    if (position >= rest_.size() || !is_digit(rest_[position])) return npos;
    while (position < rest_.size()) {
      if (is_digit(rest_[position])) {
        ++position;
      } else if (rest_[position] == '_' && position + 1 < rest_.size() &&
                 is_digit(rest_[position + 1])) {
        position += 2;
      } else {
        break;
      }
    }
    return position;
  }

  void read_number() {
    const std::size_t whole = behind_digits(at_);
    std::size_t end = whole;
    // Behind a dot stands the number of an element, whose own are behind the next dot.
    const bool is_whole = at_ > 0 && rest_[at_ - 1] == '.';
    if (!is_whole && rest_.substr(end, 1) == "." && behind_digits(end + 1) != npos) {
      end = behind_digits(end + 1);
    }
    const char e = end < rest_.size() ? rest_[end] : ' ';
    if (!is_whole && (e == 'e' || e == 'E')) {
      const char sign = end + 1 < rest_.size() ? rest_[end + 1] : ' ';
      const std::size_t digits = behind_digits(end + (sign == '+' || sign == '-' ? 2 : 1));
      if (digits != npos) end = digits;
    }
    std::string text(rest_.substr(at_, end - at_));
    std::erase(text, '_');
    if (end != whole) {
      return add_number(text, real(text), end);
    }
    const char base = rest_.substr(at_, 1) == "0" && at_ + 1 < rest_.size() ? rest_[at_ + 1] : ' ';
    if (base == 'x' || base == 'X' || base == 'o' || base == 'O' || base == 'b' || base == 'B') {
      fail_unsupported("a number with a base", line_);
    }
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of('0') != std::string::npos) {
      fail_here("number: expected no zero in front, found " + text.substr(0, 40));
    }
    std::int64_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec != std::errc()) {
      fail_here("number: expected one below 9223372036854775808, found " + text.substr(0, 40));
    }
    add_number(text, value, end);
  }

  static double real(const std::string& text) {
    double value = 0.0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    // Out of range: infinite where the exponent is not negative.
    if (result.ec == std::errc::result_out_of_range && text.find("e-") == std::string::npos &&
        text.find("E-") == std::string::npos) {
      return HUGE_VAL;
    }
    return value;
  }

  void add_number(const std::string& text, Value value, std::size_t end) {
    tokens_.push_back({TokenKind::number, text, std::move(value), line_});
    move_to(end);
  }

  void read_string() {
    const char quote = rest_[at_];
    std::string content;
    std::size_t i = at_ + 1;
    while (i < rest_.size() && rest_[i] != quote) {
      if (rest_[i] != '\\') {
        content += rest_[i++];
      } else {
        i = read_escape(i + 1, content);
      }
    }
    if (i >= rest_.size()) fail_here("string: expected its end, found that of the template");
    add(TokenKind::string, std::move(content));
    move_to(i + 1);
  }

  // What stands behind a backslash at `i`, as in Python's strings; returns where it ends.
  std::size_t read_escape(std::size_t i, std::string& content) const {
    if (i >= rest_.size()) return i;
    constexpr std::string_view letters = "\n\\'\"abfnrtv";
    constexpr std::string_view meant = "\n\\'\"\a\b\f\n\r\t\v";
    const char c = rest_[i];
    if (c == '\n') return i + 1;
    const std::size_t known = letters.find(c);
    if (known != npos) {
      content += meant[known];
      return i + 1;
    }
    if (c >= '0' && c <= '7') {
      char32_t code = 0;
      const std::size_t end = std::min(i + 3, rest_.size());
      for (; i < end && rest_[i] >= '0' && rest_[i] <= '7'; ++i) {
        code = code * 8 + static_cast<char32_t>(rest_[i] - '0');
      }
      utf8::append(content, code);
      return i;
    }
    const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      std::uint32_t code = 0;
      const auto* const first = rest_.data() + i + 1;
      const auto* const last = rest_.data() + std::min(i + 1 + digits, rest_.size());
      const auto result = std::from_chars(first, last, code, 16);
      if (result.ptr != first + digits || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
        fail_here("string: expected a character behind '\\" + std::string(1, c) +
                  "', found other text");
      }
      utf8::append(content, code);
      return i + 1 + digits;
    }
    if (c == 'N') fail_unsupported("the name of a character in a string", line_);
    content += '\\';
    return i;
  }

  std::string text_;
  std::string_view rest_;
  std::size_t at_ = 0;
  std::size_t line_ = 1;
  bool starts_line_ = true;
  std::size_t raw_begin_ = 0;
  std::vector<TemplateToken> tokens_;
};

}  // namespace

std::vector<TemplateToken> cut_template(std::string_view source) {
  if (const std::size_t at = utf8::first_ill_formed(source); at != source.size()) {
    fail("text", "UTF-8", "a byte that is none, at offset " + std::to_string(at));
  }
  return Lexer(source).cut();
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
