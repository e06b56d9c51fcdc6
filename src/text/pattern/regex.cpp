#include "text/pattern/regex.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "io/json.hpp"
#include "text/unicode/code_sets.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::size_t max_pattern_bytes = 8192;

// Patterns for words do one step or two for each character. These bounds are far above that and
// far below what a pattern that tries every way to cut a text would use.
constexpr std::uint32_t steps_at_least = 1'000'000;
constexpr std::uint32_t steps_per_byte = 64;
constexpr std::size_t jit_stack_bytes = 4U << 20;
constexpr std::uint32_t heap_kibibytes = 256U << 10;

// Sets in a pattern are written out as ranges, some 10 KB for the largest; no pattern for words
// needs more than a few.
constexpr std::size_t max_spelled_bytes = std::size_t{1} << 20;

// Rewrites what PCRE2 would read otherwise, and refuses what it has no words for.
class Translator {
 public:
  Translator(std::string_view pattern, std::string_view unicode_version)
      : pattern_(pattern), version_(unicode_version) {}

  Result<std::string> run() {
    for (; at_ < pattern_.size() && refused_.empty(); ++at_) {
      if (result_.size() > max_spelled_bytes) {
        refused_ = "so many classes of characters";
        break;
      }
      const char c = pattern_[at_];
      if (!in_class_ && begins_atom(c)) atom_ = result_.size();
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_member(c);
      } else if (c == '[') {
        open_class();
      } else if (c != '{' || !interval()) {
        if (c == '(') {
          check_options();
          groups_.push_back(result_.size());
        } else if (c == ')' && !groups_.empty()) {
          atom_ = groups_.back();
          groups_.pop_back();
        }
        result_ += c;
      }
    }
    if (!refused_.empty()) {
      return Error{ErrorCode::unsupported,
                   fmt::format("expected a pattern without {}, found one", refused_)};
    }
    return std::move(result_);
  }

 private:
  bool follows(std::string_view word) const {
    return pattern_.substr(at_ + 1, word.size()) == word;
  }

  // Whether it is the first byte of what a repetition behind it would repeat, up to groups.
  static bool begins_atom(char c) {
    const bool goes_on = (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;  // with a character
    return !goes_on && std::string_view("*+?{)").find(c) == std::string_view::npos;
  }

  // {n,m}. In Ruby's syntax a + behind it repeats it, where Perl's gives nothing back; a ? behind
  // {n} makes it optional, where Perl's takes as few; and {,m} is {0,m}.
  bool interval() {
    const std::size_t end = std::min(pattern_.find('}', at_), pattern_.size());
    const std::string_view inside = pattern_.substr(at_ + 1, end - std::min(end, at_ + 1));
    const std::size_t comma = std::min(inside.find(','), inside.size());
    const bool has_comma = comma < inside.size();
    const std::string_view least = inside.substr(0, comma);
    const std::string_view most = has_comma ? inside.substr(comma + 1) : "";
    const auto is_number = [](std::string_view text) {
      return text.find_first_not_of("0123456789") == std::string_view::npos;
    };
    if (end == pattern_.size() || !is_number(least) || !is_number(most) ||
        (least.empty() && most.empty())) {
      return false;
    }
    at_ = end;
    const bool is_repeated = follows("+") || (!has_comma && follows("?"));
    if (is_repeated) result_.insert(atom_, "(?:");
    result_ += fmt::format("{{{}{}{}}}", least.empty() ? "0" : least, has_comma ? "," : "", most);
    if (is_repeated) result_ += ')';
    return true;
  }

  void set(const code_sets::Ranges& ranges, bool inverted) {
    // Outside of a class, an inverted one is shorter than the complement.
    const std::string members =
        code_sets::members(inverted && in_class_ ? code_sets::complement(ranges) : ranges);
    if (members.empty()) {
      refused_ = "a class of no characters";
    } else if (in_class_) {
      result_ += members;
    } else {
      result_ += fmt::format("[{}{}]", inverted ? "^" : "", members);
    }
  }

  void set_categories(std::uint32_t categories, bool inverted) {
    const bool is_written_out = inverted && in_class_;
    const auto fast = is_written_out ? std::nullopt : code_sets::fast_members(categories, version_);
    if (!fast) return set(code_sets::of_categories(categories), inverted);
    result_ += in_class_ ? *fast : fmt::format("[{}{}]", inverted ? "^" : "", *fast);
  }

  // \p{name}, \p{^name}, \pL and the same with P, behind the letter p.
  void property(bool inverted) {
    std::string_view name = pattern_.substr(at_ + 1, 1);
    if (name == "{") {
      const std::size_t end = pattern_.find('}', at_);
      if (end == std::string_view::npos) {
        refused_ = "\\p{ without its end";
        return;
      }
      name = pattern_.substr(at_ + 2, end - at_ - 2);
      at_ = end;
      if (name.starts_with('^')) {
        inverted = !inverted;
        name.remove_prefix(1);
      }
    } else {
      at_ += name.size();
    }
    if (const auto categories = code_sets::named_categories(name)) {
      return set_categories(*categories, inverted);
    }
    const auto ranges = code_sets::named(name);
    if (ranges) return set(*ranges, inverted);
    refused_ = fmt::format("the property {} (general categories and scripts are known)",
                           json_text(std::string(name.substr(0, 40))));
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) {
      result_ += '\\';  // an error, which PCRE2 describes
      return;
    }
    const char escaped = pattern_[++at_];
    switch (escaped) {
      case 's':
      case 'S':
        return set(code_sets::spaces(), escaped == 'S');
      case 'w':
      case 'W':
        return set(in_class_ ? code_sets::words_in_classes() : code_sets::words(), escaped == 'W');
      case 'd':
      case 'D':
        return set_categories(code_sets::digit_categories, escaped == 'D');
      case 'p':
      case 'P':
        return property(escaped == 'P');
      case 'b':
      case 'B':
        if (in_class_) break;  // a backspace
        return boundary(escaped == 'B');
      case 'u': {
        const std::string_view digits = pattern_.substr(at_ + 1, 4);
        if (digits.size() < 4 ||
            digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
          break;
        }
        at_ += 4;
        result_ += fmt::format("\\x{{{}}}", digits);
        return;
      }
      case 'X':  // what it takes depends on the version of Unicode
      case 'h':
      case 'H':
      case 'Q':  // other meanings in the two engines
        refused_ = fmt::format("\\{}", escaped);
        return;
      default:
        break;
    }
    result_ += '\\';
    result_ += escaped;
  }

  void boundary(bool inverted) {
    const std::string word = fmt::format("[{}]", code_sets::members(code_sets::words()));
    result_ += inverted ? fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word)
                        : fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
  }

  void open_class() {
    in_class_ = true;
    result_ += '[';
    // A bracket that comes first in a class stands for itself.
    if (follows("^")) result_ += pattern_[++at_];
    if (follows("]")) result_ += pattern_[++at_];
  }

  void class_member(char c) {
    if (c == '[' && follows(":")) {
      const std::size_t end = std::min(pattern_.find(":]", at_), pattern_.size());
      std::string_view name = pattern_.substr(at_ + 2, end - std::min(end, at_ + 2));
      const bool inverted = name.starts_with('^');
      if (inverted) name.remove_prefix(1);
      at_ = end + 1;
      const auto ranges = code_sets::posix(name);
      if (ranges) return set(*ranges, inverted);
      refused_ = fmt::format("the class {}", json_text(std::string(name.substr(0, 40))));
      return;
    }
    if (c == '[' || (c == '&' && follows("&"))) {
      refused_ = "operations on sets";
      return;
    }
    if (c == ']') in_class_ = false;
    result_ += c;
  }

  // (?m) lets the dot match line ends in Ruby's syntax and means something else in Perl's.
  void check_options() {
    if (!follows("?")) return;
    for (std::size_t i = at_ + 2; i < pattern_.size(); ++i) {
      const char c = pattern_[i];
      if (c == 'm') refused_ = "(?m)";
      if (c != '-' && (c < 'a' || c > 'z')) return;
    }
  }

  std::string_view pattern_;
  std::string_view version_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string result_;
  std::size_t atom_ = 0;             // where the last one begins in it
  std::vector<std::size_t> groups_;  // that are open, where they begin
  std::string refused_;
};

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* pointer) const noexcept {
    Free(pointer);
  }
};

using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 160> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  std::string message;
  for (const PCRE2_UCHAR c : buffer) {
    if (c == 0) break;
    message += static_cast<char>(c);
  }
  return message;
}

const PCRE2_UCHAR* units(std::string_view text) noexcept {
  // An empty view may hold a null pointer, which PCRE2 refuses.
  return reinterpret_cast<const PCRE2_UCHAR*>(text.empty() ? "" : text.data());
}

}  // namespace

std::string_view Regex::unicode_version() {
  static const std::array<char, 64> version = [] {
    std::array<char, 64> text{};
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, text.data());  // at most 24 bytes, it promises
    return text;
  }();
  return version.data();
}

Result<Regex> Regex::compile(std::string_view pattern, std::string_view unicode_version,
                             bool has_lines) {
  if (pattern.size() > max_pattern_bytes) {
    return Error{ErrorCode::unsupported,
                 fmt::format("expected a pattern of at most {} bytes, found {}", max_pattern_bytes,
                             pattern.size())};
  }
  KRAIT_ASSIGN_OR_RETURN(const std::string spelled, Translator(pattern, unicode_version).run());
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  const std::uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | (has_lines ? PCRE2_MULTILINE : 0U);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* const compiled =
      pcre2_compile(units(spelled), spelled.size(), options, &code, &offset, context.get());
  if (compiled == nullptr) {
    return Error{ErrorCode::unsupported,
                 fmt::format("expected a pattern, found one with an error ({})", message_of(code))};
  }
  // Without JIT (a platform may lack it) the interpreter does the same, only slower.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
  Regex regex;
  regex.code_ = std::shared_ptr<const void>(compiled, [](const void* pointer) {
    pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(pointer)));
  });
  return regex;
}

struct RegexSearch::State {
  std::shared_ptr<const void> code;
  MatchData data;
  MatchContext context;
  JitStack stack;

  const pcre2_code* pattern() const { return static_cast<const pcre2_code*>(code.get()); }
};

RegexSearch::RegexSearch(const Regex& regex) : state_(std::make_unique<State>()) {
  state_->code = regex.code_;
  state_->data.reset(pcre2_match_data_create_from_pattern(state_->pattern(), nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  state_->stack.reset(pcre2_jit_stack_create(32U << 10, jit_stack_bytes, nullptr));
  pcre2_set_heap_limit(state_->context.get(), heap_kibibytes);
  if (state_->stack != nullptr) {
    pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->stack.get());
  }
}

RegexSearch::~RegexSearch() = default;
RegexSearch::RegexSearch(RegexSearch&&) noexcept = default;
RegexSearch& RegexSearch::operator=(RegexSearch&&) noexcept = default;

Result<RegexMatch> RegexSearch::find(std::string_view text, std::size_t from) {
  const std::size_t most = std::numeric_limits<std::uint32_t>::max() / 2;
  const std::size_t steps = steps_at_least + steps_per_byte * text.size();
  pcre2_set_match_limit(state_->context.get(), static_cast<std::uint32_t>(std::min(steps, most)));
  const auto match = [&](std::uint32_t options) {
    return pcre2_match(state_->pattern(), units(text), text.size(), from,
                       options | PCRE2_NO_UTF_CHECK, state_->data.get(), state_->context.get());
  };
  int code = match(0);
  if (code == PCRE2_ERROR_JIT_STACKLIMIT) {
    code = match(PCRE2_NO_JIT);  // the interpreter keeps its stack on the heap
  }
  if (code == PCRE2_ERROR_NOMATCH) {
    return RegexMatch{};
  }
  if (code < 0) {
    return Error{ErrorCode::unsupported,
                 fmt::format("expected a pattern that is matched in few steps, found \"{}\" on a "
                             "text of {} bytes",
                             message_of(code), text.size())};
  }
  const PCRE2_SIZE* const span = pcre2_get_ovector_pointer(state_->data.get());
  RegexMatch match_found{true, span[0], span[1]};
  // \K can move the begin; a file that uses it gets pieces that still cover the text once.
  match_found.begin = std::max(match_found.begin, from);
  match_found.end = std::max(match_found.end, match_found.begin);
  return match_found;
}

}  // namespace v0_1
}  // namespace krait
