#include <algorithm>

#include "io/json.hpp"
#include "text/template/parser.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

using ExpressionKind = Expression::Kind;
using TokenKind = TemplateToken::Kind;

constexpr int max_nesting = 100;

std::string describe(const TemplateToken& token) {
  switch (token.kind) {
    case TokenKind::end:
      return "the end of the template";
    case TokenKind::text:
      return "text";
    case TokenKind::begin_output:
    case TokenKind::end_output:
      return "'}}'";
    case TokenKind::begin_statement:
    case TokenKind::end_statement:
      return "'%}'";
    case TokenKind::string:
      return json_text(token.text);
    default:
      return "'" + token.text.substr(0, 60) + "'";
  }
}

// What is below a node, out of it.
void take_parts(Expression& node, std::vector<ExpressionPtr>& parts) {
  const auto take = [&](ExpressionPtr& part) {
    if (part != nullptr) parts.push_back(std::move(part));
  };
  std::for_each(node.parts.begin(), node.parts.end(), take);
  if (node.arguments == nullptr) return;
  std::for_each(node.arguments->positional.begin(), node.arguments->positional.end(), take);
  for (auto& [name, part] : node.arguments->named) take(part);
  take(node.arguments->list);
  take(node.arguments->names);
}

}  // namespace

Expression::~Expression() {
  std::vector<ExpressionPtr> below;
  take_parts(*this, below);
  while (!below.empty()) {
    const ExpressionPtr node = std::move(below.back());
    below.pop_back();
    take_parts(*node, below);
  }
}

void Tokens::fail_here(std::string_view subject, std::string_view expected) const {
  throw Failure{
      ErrorCode::bad_format,
      std::string(subject) + ": expected " + std::string(expected) + ", found " + describe(peek()),
      peek().line};
}

void Tokens::expect_sign(std::string_view sign) {
  if (!take_sign(sign)) fail_here("expression", "'" + std::string(sign) + "'");
}

void Tokens::expect_name(std::string_view name) {
  if (!take_name(name)) fail_here("statement", "'" + std::string(name) + "'");
}

std::string Tokens::expect_name() {
  if (peek().kind != TokenKind::name) fail_here("expression", "a name");
  return take().text;
}

void Tokens::expect(TokenKind kind, std::string_view what) {
  if (peek().kind != kind) fail_here("expression", what);
  take();
}

Nesting::Nesting(int& depth, std::size_t line) : depth_(depth) {
  if (depth >= max_nesting) {
    throw Failure{ErrorCode::unsupported,
                  "template: expected expressions and statements nested at most 100 deep, found "
                  "more",
                  line};
  }
  ++depth;
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, std::string name) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = tokens_.peek().line;
  node->name = std::move(name);
  return node;
}

ExpressionPtr ExpressionParser::parse(bool with_condition) {
  const Nesting nesting(depth, tokens_.peek().line);
  return with_condition ? parse_condition() : parse_any();
}

ExpressionPtr ExpressionParser::parse_condition() {
  ExpressionPtr value = parse_any();
  while (tokens_.peek().is_name("if")) {
    ExpressionPtr node = make(ExpressionKind::inline_if);
    tokens_.take();
    node->parts.push_back(parse_any());
    node->parts.push_back(std::move(value));
    node->parts.push_back(tokens_.take_name("else") ? parse() : nullptr);
    value = std::move(node);
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_any() {
  ExpressionPtr left = parse_all();
  if (!tokens_.peek().is_name("or")) return left;
  ExpressionPtr node = make(ExpressionKind::any);
  node->parts.push_back(std::move(left));
  while (tokens_.take_name("or")) node->parts.push_back(parse_all());
  return node;
}

ExpressionPtr ExpressionParser::parse_all() {
  ExpressionPtr left = parse_not();
  if (!tokens_.peek().is_name("and")) return left;
  ExpressionPtr node = make(ExpressionKind::all);
  node->parts.push_back(std::move(left));
  while (tokens_.take_name("and")) node->parts.push_back(parse_not());
  return node;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!tokens_.peek().is_name("not")) return parse_comparison();
  const Nesting nesting(depth, tokens_.peek().line);
  ExpressionPtr node = make(ExpressionKind::negation);
  tokens_.take();
  node->parts.push_back(parse_not());
  return node;
}

ExpressionPtr ExpressionParser::parse_comparison() {
  ExpressionPtr left = parse_sum();
  ExpressionPtr node;
  for (;;) {
    std::string sign;
    for (const std::string_view known : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (tokens_.peek().is_sign(known)) sign = known;
    }
    if (tokens_.peek().is_name("in")) sign = "in";
    if (tokens_.peek().is_name("not") && tokens_.peek(1).is_name("in")) sign = "not in";
    if (sign.empty()) break;
    if (node == nullptr) {
      node = make(ExpressionKind::comparison);
      node->parts.push_back(std::move(left));
    }
    tokens_.take();
    if (sign == "not in") tokens_.take();
    node->signs.push_back(sign);
    node->parts.push_back(parse_sum());
  }
  return node == nullptr ? std::move(left) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_binary(std::initializer_list<std::string_view> signs,
                                             Parse operand) {
  ExpressionPtr left = (this->*operand)();
  for (int count = 0;; ++count) {
    const auto* const sign = std::find_if(signs.begin(), signs.end(), [&](std::string_view known) {
      return tokens_.peek().is_sign(known);
    });
    if (sign == signs.end()) return left;
    // Each is one level more in the tree.
    if (count == 4 * max_nesting)
      tokens_.fail_here("expression", "at most 400 operations in a row");
    ExpressionPtr node = make(ExpressionKind::binary, std::string(*sign));
    tokens_.take();
    node->parts.push_back(std::move(left));
    node->parts.push_back((this->*operand)());
    left = std::move(node);
  }
}

ExpressionPtr ExpressionParser::parse_sum() {
  return parse_binary({"+", "-"}, &ExpressionParser::parse_concatenation);
}

ExpressionPtr ExpressionParser::parse_concatenation() {
  ExpressionPtr left = parse_product();
  if (!tokens_.peek().is_sign("~")) return left;
  ExpressionPtr node = make(ExpressionKind::concatenation);
  node->parts.push_back(std::move(left));
  while (tokens_.take_sign("~")) node->parts.push_back(parse_product());
  return node;
}

ExpressionPtr ExpressionParser::parse_product() {
  return parse_binary({"*", "/", "//", "%"}, &ExpressionParser::parse_power);
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary(true);
  for (int count = 0; tokens_.peek().is_sign("**"); ++count) {
    if (count == max_nesting) tokens_.fail_here("expression", "at most 100 powers in a row");
    ExpressionPtr node = make(ExpressionKind::binary, "**");
    tokens_.take();
    node->parts.push_back(std::move(left));
    node->parts.push_back(parse_unary(true));
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Nesting nesting(depth, tokens_.peek().line);
  ExpressionPtr node;
  if (tokens_.peek().is_sign("-") || tokens_.peek().is_sign("+")) {
    node = make(tokens_.peek().is_sign("-") ? ExpressionKind::minus : ExpressionKind::plus);
    tokens_.take();
    node->parts.push_back(parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_postfix_and_filters(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_name() {
  ExpressionPtr node = make(ExpressionKind::name);
  node->name = tokens_.take().text;
  const std::string& name = node->name;
  const bool is_constant = name == "true" || name == "True" || name == "false" || name == "False" ||
                           name == "none" || name == "None";
  if (is_constant) {
    node->kind = ExpressionKind::constant;
    if (name != "none" && name != "None") node->value = name == "true" || name == "True";
    return node;
  }
  for (MacroNode* macro : macros) {
    macro->uses_caller |= name == "caller";
    macro->uses_varargs |= name == "varargs";
    macro->uses_kwargs |= name == "kwargs";
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_primary() {
  const TemplateToken& token = tokens_.peek();
  if (token.kind == TokenKind::name) return parse_name();
  if (token.kind == TokenKind::string) {
    ExpressionPtr node = make(ExpressionKind::constant);
    std::string text;
    while (tokens_.peek().kind == TokenKind::string) text += tokens_.take().text;
    node->value = make_string(text);
    return node;
  }
  if (token.kind == TokenKind::number) {
    ExpressionPtr node = make(ExpressionKind::constant);
    node->value = tokens_.take().value;
    return node;
  }
  if (tokens_.take_sign("(")) {
    ExpressionPtr node = parse_tuple(true, true);
    tokens_.expect_sign(")");
    return node;
  }
  if (token.is_sign("[")) return parse_list();
  if (token.is_sign("{")) return parse_dict();
  tokens_.fail_here("expression", "a value");
}

bool ExpressionParser::at_tuple_end() const {
  const TemplateToken& token = tokens_.peek();
  return token.kind == TokenKind::end_output || token.kind == TokenKind::end_statement ||
         token.is_sign(")");
}

ExpressionPtr ExpressionParser::parse_tuple(bool with_condition, bool in_brackets) {
  const Nesting nesting(depth, tokens_.peek().line);
  ExpressionPtr node = make(ExpressionKind::tuple);
  bool has_comma = false;
  for (;;) {
    if (has_comma && node->parts.empty()) break;
    if (at_tuple_end()) break;
    node->parts.push_back(parse(with_condition));
    if (!tokens_.take_sign(",")) break;
    has_comma = true;
  }
  if (has_comma) return node;
  if (!node->parts.empty()) return std::move(node->parts.front());
  if (!in_brackets) tokens_.fail_here("expression", "a value");
  return node;
}

ExpressionPtr ExpressionParser::parse_target(bool with_namespace) {
  ExpressionPtr node = make(ExpressionKind::tuple);
  const auto one = [&]() -> ExpressionPtr {
    if (tokens_.take_sign("(")) {
      const Nesting nesting(depth, tokens_.peek().line);
      ExpressionPtr inner = parse_target();
      tokens_.expect_sign(")");
      return inner;
    }
    ExpressionPtr name = make(ExpressionKind::name, tokens_.expect_name());
    constexpr std::string_view taken[] = {"true", "false", "none", "True", "False", "None", "loop"};
    if (std::find(std::begin(taken), std::end(taken), name->name) != std::end(taken)) {
      throw Failure{ErrorCode::bad_format,
                    "assignment: expected a name of the template's own, found '" + name->name + "'",
                    name->line};
    }
    if (!with_namespace || !tokens_.take_sign(".")) return name;
    ExpressionPtr attribute = make(ExpressionKind::attribute, tokens_.expect_name());
    attribute->parts.push_back(std::move(name));
    return attribute;
  };
  node->parts.push_back(one());
  if (!tokens_.peek().is_sign(",")) return std::move(node->parts.front());
  while (tokens_.take_sign(",")) {
    if (at_tuple_end() || tokens_.peek().is_name("in") || tokens_.peek().is_sign("=")) break;
    node->parts.push_back(one());
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_list() {
  ExpressionPtr node = make(ExpressionKind::list);
  tokens_.expect_sign("[");
  while (!tokens_.peek().is_sign("]")) {
    if (!node->parts.empty()) tokens_.expect_sign(",");
    if (tokens_.peek().is_sign("]")) break;
    node->parts.push_back(parse());
  }
  tokens_.expect_sign("]");
  return node;
}

ExpressionPtr ExpressionParser::parse_dict() {
  ExpressionPtr node = make(ExpressionKind::dict);
  tokens_.expect_sign("{");
  while (!tokens_.peek().is_sign("}")) {
    if (!node->parts.empty()) tokens_.expect_sign(",");
    if (tokens_.peek().is_sign("}")) break;
    node->parts.push_back(parse());
    tokens_.expect_sign(":");
    node->parts.push_back(parse());
  }
  tokens_.expect_sign("}");
  return node;
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr subject) {
  for (int count = 0;; ++count) {
    if (count == 4 * max_nesting) tokens_.fail_here("expression", "at most 400 steps in a row");
    if (tokens_.peek().is_sign(".")) {
      subject = parse_attribute(std::move(subject));
    } else if (tokens_.peek().is_sign("[")) {
      subject = parse_subscript(std::move(subject));
    } else if (tokens_.peek().is_sign("(")) {
      subject = parse_call(std::move(subject));
    } else {
      return subject;
    }
  }
}

ExpressionPtr ExpressionParser::parse_postfix_and_filters(ExpressionPtr subject) {
  for (int count = 0;; ++count) {
    if (count == 4 * max_nesting) tokens_.fail_here("expression", "at most 400 filters in a row");
    if (tokens_.peek().is_sign("|")) {
      tokens_.take();
      subject = parse_filter(std::move(subject));
    } else if (tokens_.peek().is_name("is")) {
      subject = parse_test(std::move(subject));
    } else if (tokens_.peek().is_sign("(")) {
      subject = parse_call(std::move(subject));
    } else {
      return subject;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr subject, bool is_first) {
  for (int count = 0; is_first || tokens_.take_sign("|"); ++count) {
    if (count == 4 * max_nesting) tokens_.fail_here("expression", "at most 400 filters in a row");
    is_first = false;
    subject = parse_filter(std::move(subject));
  }
  return subject;
}

ExpressionPtr ExpressionParser::parse_attribute(ExpressionPtr subject) {
  ExpressionPtr node = make(ExpressionKind::attribute);
  tokens_.take();
  if (tokens_.peek().kind == TokenKind::number && tokens_.peek().value.is<std::int64_t>()) {
    node->kind = ExpressionKind::subscript;
    node->parts.push_back(std::move(subject));
    node->parts.push_back(make(ExpressionKind::constant));
    node->parts.back()->value = tokens_.take().value;
    return node;
  }
  node->name = tokens_.expect_name();
  node->parts.push_back(std::move(subject));
  return node;
}

// One subscript or slice; several are a tuple, which no value of a template takes.
ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr subject) {
  ExpressionPtr node = make(ExpressionKind::subscript);
  tokens_.take();
  node->parts.push_back(std::move(subject));
  const auto part = [&]() -> ExpressionPtr {
    const TemplateToken& token = tokens_.peek();
    if (token.is_sign(":") || token.is_sign("]") || token.is_sign(",")) return nullptr;
    return parse();
  };
  node->parts.push_back(part());
  if (tokens_.take_sign(":")) {
    node->kind = ExpressionKind::slice;
    node->parts.push_back(part());
    node->parts.push_back(tokens_.take_sign(":") ? part() : nullptr);
  } else if (node->parts[1] == nullptr) {
    tokens_.fail_here("subscript", "a value");
  }
  if (tokens_.peek().is_sign(",")) {
    fail_unsupported("a subscript of several values", tokens_.peek().line);
  }
  tokens_.expect_sign("]");
  return node;
}

std::unique_ptr<WrittenArguments> ExpressionParser::parse_arguments() {
  auto arguments = std::make_unique<WrittenArguments>();
  tokens_.expect_sign("(");
  for (bool is_first = true; !tokens_.peek().is_sign(")"); is_first = false) {
    if (!is_first) tokens_.expect_sign(",");
    if (tokens_.peek().is_sign(")")) break;
    const bool is_last = arguments->names != nullptr;
    if (tokens_.take_sign("**")) {
      if (is_last) tokens_.fail_here("call", "one '**'");
      arguments->names = parse();
    } else if (tokens_.take_sign("*")) {
      if (is_last || arguments->list != nullptr) tokens_.fail_here("call", "one '*'");
      arguments->list = parse();
    } else if (tokens_.peek().kind == TokenKind::name && tokens_.peek(1).is_sign("=")) {
      if (is_last) tokens_.fail_here("call", "'**' behind all other arguments");
      std::string name = tokens_.take().text;
      tokens_.take();
      arguments->named.emplace_back(std::move(name), parse());
    } else {
      if (is_last || arguments->list != nullptr || !arguments->named.empty()) {
        tokens_.fail_here("call", "arguments without a name in front");
      }
      arguments->positional.push_back(parse());
    }
  }
  tokens_.expect_sign(")");
  return arguments;
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr subject) {
  ExpressionPtr node = make(ExpressionKind::call);
  node->parts.push_back(std::move(subject));
  node->arguments = parse_arguments();
  return node;
}

ExpressionPtr ExpressionParser::parse_filter(ExpressionPtr subject) {
  ExpressionPtr node = make(ExpressionKind::filter);
  node->name = tokens_.expect_name();
  while (tokens_.take_sign(".")) node->name += "." + tokens_.expect_name();
  node->function = find_filter(node->name);
  node->parts.push_back(std::move(subject));
  node->arguments =
      tokens_.peek().is_sign("(") ? parse_arguments() : std::make_unique<WrittenArguments>();
  return node;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr subject) {
  ExpressionPtr node = make(ExpressionKind::test);
  tokens_.take();
  const bool is_negated = tokens_.take_name("not");
  node->name = tokens_.expect_name();
  while (tokens_.take_sign(".")) node->name += "." + tokens_.expect_name();
  node->function = find_test(node->name);
  node->parts.push_back(std::move(subject));
  const TemplateToken& token = tokens_.peek();
  if (token.is_sign("(")) {
    node->arguments = parse_arguments();
  } else {
    node->arguments = std::make_unique<WrittenArguments>();
    if (token.is_name("is")) tokens_.fail_here("test", "no test of a test");
    const bool has_argument = token.kind == TokenKind::string || token.kind == TokenKind::number ||
                              token.is_sign("[") || token.is_sign("{") ||
                              (token.kind == TokenKind::name && !token.is_name("else") &&
                               !token.is_name("or") && !token.is_name("and"));
    if (has_argument) node->arguments->positional.push_back(parse_postfix(parse_primary()));
  }
  if (!is_negated) return node;
  ExpressionPtr negation = make(ExpressionKind::negation);
  negation->line = node->line;
  negation->parts.push_back(std::move(node));
  return negation;
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
