#pragma once

/// \file
/// Templates as trees.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template/value.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

/// How a filter, test or function is written in C++.
using FilterFunction = Value (*)(Renderer&, const Value& subject, const Arguments&);

/// Arguments as they are written; a null in `named` keys stands for no name.
struct WrittenArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr list;   ///< *list
  ExpressionPtr names;  ///< **names
};

struct Expression {
  /// Without recursion: long rows of operations are as deep as they are long.
  ~Expression();

  enum class Kind {
    constant,
    name,
    list,
    tuple,
    dict,  ///< parts are key, value, key, value, …
    attribute,
    subscript,
    slice,  ///< parts are subject, begin, end, step, the latter three may be null
    call,
    filter,
    test,
    inline_if,  ///< condition, value, other value (may be null)
    all,        ///< and
    any,        ///< or
    negation,   ///< not
    minus,
    plus,
    binary,
    concatenation,
    comparison,  ///< operand, operand, …, with `signs` between them
  };
  Kind kind = Kind::constant;
  std::size_t line = 0;
  std::string name = {};  ///< of a variable, attribute, filter, test; the sign of an operation
  Value value = {};
  std::vector<ExpressionPtr> parts = {};
  std::vector<std::string> signs = {};
  std::unique_ptr<WrittenArguments> arguments = {};
  FilterFunction function = nullptr;  ///< of a filter or test; null: not known
};

struct Statement;
using Block = std::vector<Statement>;

/// Parameters and body of a macro or call block.
struct MacroNode {
  std::string name = {};
  std::vector<std::string> parameters = {};
  std::vector<ExpressionPtr> defaults = {};  ///< of the last parameters
  Block body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Statement {
  enum class Kind {
    text,
    output,
    condition,    ///< `expressions` of if and elif, `blocks` of these and of else
    loop,         ///< target, iterable, test (may be null); body, else
    assign,       ///< target, value
    assign_text,  ///< target; filters around null; body
    macro,
    call,  ///< the call; body in `macro`
    filter,
    scope,  ///< with: targets and values in turns
    generation,
    break_loop,
    continue_loop,
  };
  Kind kind = Kind::text;
  std::size_t line = 0;
  std::string text = {};
  std::vector<ExpressionPtr> expressions = {};
  std::vector<Block> blocks = {};
  std::unique_ptr<MacroNode> macro = {};
  bool is_recursive = false;
};

/// Parses a template. Throws Failure.
Block parse_template(std::string_view source);

/// The function of a filter or test; null for one that is not known.
FilterFunction find_filter(std::string_view name) noexcept;
FilterFunction find_test(std::string_view name) noexcept;

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
