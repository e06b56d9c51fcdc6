#pragma once

/// \file
/// The parser of templates.

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/template/lexer.hpp"
#include "text/template/nodes.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

/// What statements and expressions have in common: the tokens, and how deep they are nested.
class Tokens {
 public:
  explicit Tokens(std::vector<TemplateToken> tokens) : tokens_(std::move(tokens)) {}

  const TemplateToken& peek(std::size_t ahead = 0) const noexcept {
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
  }
  TemplateToken take() {
    TemplateToken token = tokens_[next_];
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool take_sign(std::string_view sign) { return take_if(peek().is_sign(sign)); }
  bool take_name(std::string_view name) { return take_if(peek().is_name(name)); }
  void expect_sign(std::string_view sign);
  void expect_name(std::string_view name);
  std::string expect_name();
  void expect(TemplateToken::Kind kind, std::string_view what);

  /// "expected X, found what comes next".
  [[noreturn]] void fail_here(std::string_view subject, std::string_view expected) const;

 private:
  bool take_if(bool is_next) {
    if (is_next) take();
    return is_next;
  }

  std::vector<TemplateToken> tokens_;
  std::size_t next_ = 0;
};

/// Counts how deep the parser is within itself.
class Nesting {
 public:
  Nesting(int& depth, std::size_t line);
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int& depth_;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(Tokens& tokens) : tokens_(tokens) {}

  ExpressionPtr parse(bool with_condition = true);
  /// One expression, or several with commas as a tuple.
  ExpressionPtr parse_tuple(bool with_condition = true, bool in_brackets = false);
  /// A name, or several with commas.
  ExpressionPtr parse_target(bool with_namespace = false);
  /// Filters around `subject`, which may be null: "a | b", where `is_first` without the first |.
  ExpressionPtr parse_filters(ExpressionPtr subject, bool is_first);

  /// The macros that are being read; names in them are looked at.
  std::vector<MacroNode*> macros;
  int depth = 0;

 private:
  using Parse = ExpressionPtr (ExpressionParser::*)();

  ExpressionPtr make(Expression::Kind kind, std::string name = {});
  ExpressionPtr parse_condition();
  ExpressionPtr parse_any();
  ExpressionPtr parse_all();
  ExpressionPtr parse_not();
  ExpressionPtr parse_comparison();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr subject);
  ExpressionPtr parse_postfix_and_filters(ExpressionPtr subject);
  ExpressionPtr parse_attribute(ExpressionPtr subject);
  ExpressionPtr parse_subscript(ExpressionPtr subject);
  ExpressionPtr parse_call(ExpressionPtr subject);
  ExpressionPtr parse_filter(ExpressionPtr subject);
  ExpressionPtr parse_test(ExpressionPtr subject);
  std::unique_ptr<WrittenArguments> parse_arguments();
  ExpressionPtr parse_binary(std::initializer_list<std::string_view> signs, Parse operand);
  bool at_tuple_end() const;

  Tokens& tokens_;
};

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
