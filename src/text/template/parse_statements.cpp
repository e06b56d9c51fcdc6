#include <utility>

#include "text/template/parser.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

using StatementKind = Statement::Kind;
using TokenKind = TemplateToken::Kind;
using Names = std::initializer_list<std::string_view>;

class StatementParser {
 public:
  explicit StatementParser(std::string_view source)
      : tokens_(cut_template(source)), expressions_(tokens_) {}

  Block parse() {
    Block block = parse_block({});
    if (tokens_.peek().kind != TokenKind::end) tokens_.fail_here("template", "its end");
    return block;
  }

 private:
  Statement make(StatementKind kind) const {
    Statement statement;
    statement.kind = kind;
    statement.line = tokens_.peek().line;
    return statement;
  }

  // Statements up to one whose name is given, whose "{% name" is taken (but of nothing, the end).
  Block parse_block(Names ends, std::string* end = nullptr) {
    const Nesting nesting(expressions_.depth, tokens_.peek().line);
    Block block;
    for (;;) {
      const TemplateToken& token = tokens_.peek();
      if (token.kind == TokenKind::end) {
        if (ends.size() == 0) return block;
        tokens_.fail_here("statement", "'" + std::string(*(ends.end() - 1)) + "'");
      }
      if (token.kind == TokenKind::text) {
        block.push_back(make(StatementKind::text));
        block.back().text = tokens_.take().text;
      } else if (token.kind == TokenKind::begin_output) {
        tokens_.take();
        block.push_back(make(StatementKind::output));
        block.back().expressions.push_back(expressions_.parse_tuple());
        tokens_.expect(TokenKind::end_output, "'}}'");
      } else {
        tokens_.take();
        for (const std::string_view name : ends) {
          if (!tokens_.take_name(name)) continue;
          if (end != nullptr) *end = name;
          return block;
        }
        block.push_back(parse_statement());
      }
    }
  }

  // The same with the "%}" in front of it, and the one behind it.
  Block parse_body(std::string_view end) {
    expect_end();
    Block block = parse_block({end});
    expect_end();
    return block;
  }

  // A colon in front of it, as in Python, is let pass.
  void expect_end() {
    tokens_.take_sign(":");
    tokens_.expect(TokenKind::end_statement, "'%}'");
  }

  Statement parse_statement() {
    using Parse = Statement (StatementParser::*)();
    static constexpr std::pair<std::string_view, Parse> known[] = {
        {"if", &StatementParser::parse_if},
        {"for", &StatementParser::parse_for},
        {"set", &StatementParser::parse_set},
        {"macro", &StatementParser::parse_macro},
        {"call", &StatementParser::parse_call},
        {"filter", &StatementParser::parse_filter},
        {"with", &StatementParser::parse_with},
        {"generation", &StatementParser::parse_generation},
        {"break", &StatementParser::parse_break},
        {"continue", &StatementParser::parse_continue}};
    for (const auto& [name, parse] : known) {
      if (tokens_.peek().is_name(name)) return (this->*parse)();
    }
    if (tokens_.peek().kind != TokenKind::name) tokens_.fail_here("statement", "its name");
    fail_unsupported("the statement '" + tokens_.peek().text + "'", tokens_.peek().line);
  }

  Statement parse_if() {
    Statement statement = make(StatementKind::condition);
    tokens_.take();
    std::string end;
    do {
      statement.expressions.push_back(expressions_.parse_tuple(false));
      expect_end();
      statement.blocks.push_back(parse_block({"elif", "else", "endif"}, &end));
    } while (end == "elif");
    if (end == "else") statement.blocks.push_back(parse_body("endif"));
    if (end == "endif") expect_end();
    return statement;
  }

  Statement parse_for() {
    Statement statement = make(StatementKind::loop);
    tokens_.take();
    statement.expressions.push_back(expressions_.parse_target());
    tokens_.expect_name("in");
    statement.expressions.push_back(expressions_.parse_tuple(false));
    statement.expressions.push_back(tokens_.take_name("if") ? expressions_.parse() : nullptr);
    statement.is_recursive = tokens_.take_name("recursive");
    expect_end();
    ++loops_;
    std::string end;
    statement.blocks.push_back(parse_block({"else", "endfor"}, &end));
    --loops_;
    if (end == "else") {
      statement.blocks.push_back(parse_body("endfor"));
    } else {
      expect_end();
    }
    return statement;
  }

  Statement parse_set() {
    Statement statement = make(StatementKind::assign);
    tokens_.take();
    statement.expressions.push_back(expressions_.parse_target(true));
    if (tokens_.take_sign("=")) {
      statement.expressions.push_back(expressions_.parse_tuple());
      expect_end();
      return statement;
    }
    statement.kind = StatementKind::assign_text;
    statement.expressions.push_back(expressions_.parse_filters(nullptr, false));
    statement.blocks.push_back(parse_body("endset"));
    return statement;
  }

  void parse_parameters(MacroNode& macro) {
    tokens_.expect_sign("(");
    while (!tokens_.peek().is_sign(")")) {
      if (!macro.parameters.empty()) tokens_.expect_sign(",");
      macro.parameters.push_back(tokens_.expect_name());
      if (tokens_.take_sign("=")) {
        macro.defaults.push_back(expressions_.parse());
      } else if (!macro.defaults.empty()) {
        tokens_.fail_here("macro", "defaults for all parameters behind one that has it");
      }
    }
    tokens_.expect_sign(")");
  }

  // Loops outside of a macro are none of its own.
  Block parse_macro_body(MacroNode& macro, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    expressions_.macros.push_back(&macro);
    Block body = parse_body(end);
    expressions_.macros.pop_back();
    loops_ = loops;
    return body;
  }

  Statement parse_macro() {
    Statement statement = make(StatementKind::macro);
    tokens_.take();
    statement.macro = std::make_unique<MacroNode>();
    statement.macro->name = tokens_.expect_name();
    parse_parameters(*statement.macro);
    statement.macro->body = parse_macro_body(*statement.macro, "endmacro");
    return statement;
  }

  Statement parse_call() {
    Statement statement = make(StatementKind::call);
    tokens_.take();
    statement.macro = std::make_unique<MacroNode>();
    statement.macro->name = "caller";
    if (tokens_.peek().is_sign("(")) parse_parameters(*statement.macro);
    statement.expressions.push_back(expressions_.parse());
    if (statement.expressions[0]->kind != Expression::Kind::call) {
      tokens_.fail_here("call", "the call of a macro in front");
    }
    statement.macro->body = parse_macro_body(*statement.macro, "endcall");
    return statement;
  }

  Statement parse_filter() {
    Statement statement = make(StatementKind::filter);
    tokens_.take();
    statement.expressions.push_back(expressions_.parse_filters(nullptr, true));
    statement.blocks.push_back(parse_body("endfilter"));
    return statement;
  }

  Statement parse_with() {
    Statement statement = make(StatementKind::scope);
    tokens_.take();
    while (tokens_.peek().kind != TokenKind::end_statement) {
      if (!statement.expressions.empty()) tokens_.expect_sign(",");
      statement.expressions.push_back(expressions_.parse_target());
      tokens_.expect_sign("=");
      statement.expressions.push_back(expressions_.parse());
    }
    statement.blocks.push_back(parse_body("endwith"));
    return statement;
  }

  // What a model writes: for training a mask, for a prompt a scope.
  Statement parse_generation() {
    Statement statement = make(StatementKind::generation);
    tokens_.take();
    const int loops = std::exchange(loops_, 0);
    statement.blocks.push_back(parse_body("endgeneration"));
    loops_ = loops;
    return statement;
  }

  Statement parse_jump(StatementKind kind) {
    Statement statement = make(kind);
    if (loops_ == 0) tokens_.fail_here("statement", "one in a loop");
    tokens_.take();
    expect_end();
    return statement;
  }
  Statement parse_break() { return parse_jump(StatementKind::break_loop); }
  Statement parse_continue() { return parse_jump(StatementKind::continue_loop); }

  Tokens tokens_;
  ExpressionParser expressions_;
  int loops_ = 0;
};

}  // namespace

Block parse_template(std::string_view source) { return StatementParser(source).parse(); }

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
