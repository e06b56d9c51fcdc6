#include <algorithm>
#include <utility>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/template/level.hpp"
#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

using ExpressionKind = Expression::Kind;

Value Renderer::evaluate(const Expression& expression) {
  const Level level(*this);
  const std::size_t before = std::exchange(line_, expression.line);
  Value result = evaluate_any(expression);
  line_ = before;
  return result;
}

Value Renderer::evaluate_any(const Expression& expression) {
  const auto& parts = expression.parts;
  switch (expression.kind) {
    case ExpressionKind::constant:
      return expression.value;
    case ExpressionKind::name:
      return variable(expression);
    case ExpressionKind::list:
      return make_list(budget_, evaluate_parts(expression));
    case ExpressionKind::tuple:
      return make_list(budget_, evaluate_parts(expression), List::Kind::tuple);
    case ExpressionKind::dict:
      return evaluate_dict(expression);
    case ExpressionKind::attribute:
      return attribute(evaluate(*parts[0]), expression.name);
    case ExpressionKind::subscript: {
      const Value object = evaluate(*parts[0]);
      return subscript(object, evaluate(*parts[1]));
    }
    case ExpressionKind::slice:
      return slice(expression);
    case ExpressionKind::call:
      return evaluate_call(expression, nullptr);
    case ExpressionKind::filter:
    case ExpressionKind::test:
      return evaluate_filter(expression, nullptr);
    case ExpressionKind::inline_if:
      if (is_true(evaluate(*parts[0]))) return evaluate(*parts[1]);
      if (parts[2] != nullptr) return evaluate(*parts[2]);
      return undefined("the inline if-expression without else evaluated to false");
    case ExpressionKind::all:
    case ExpressionKind::any: {
      const bool ends = expression.kind == ExpressionKind::any;
      for (const ExpressionPtr& part : parts) {
        Value value = evaluate(*part);
        if (part == parts.back() || is_true(value) == ends) return value;
      }
      return None();
    }
    case ExpressionKind::negation:
      return !is_true(evaluate(*parts[0]));
    case ExpressionKind::minus:
    case ExpressionKind::plus:
      return unary(expression);
    case ExpressionKind::binary: {
      const Value left = evaluate(*parts[0]);
      return binary(expression.name, left, evaluate(*parts[1]));
    }
    case ExpressionKind::concatenation:
      return concatenation(expression);
    case ExpressionKind::comparison:
      return comparison(expression);
  }
  return None();
}

Value Renderer::variable(const Expression& expression) {
  if (const Value* value = frame_->find(expression.name)) return *value;
  if (const auto function = find_function(expression.name)) {
    Callable callable;
    callable.name = expression.name;
    callable.function = function;
    return std::make_shared<const Callable>(std::move(callable));
  }
  return undefined("'" + expression.name + "' is undefined");
}

std::vector<Value> Renderer::evaluate_parts(const Expression& expression) {
  std::vector<Value> items;
  items.reserve(expression.parts.size());
  for (const ExpressionPtr& part : expression.parts) items.push_back(evaluate(*part));
  return items;
}

Value Renderer::evaluate_dict(const Expression& expression) {
  std::vector<std::pair<Value, Value>> items;
  for (std::size_t i = 0; i < expression.parts.size(); i += 2) {
    Value key = evaluate(*expression.parts[i]);
    Value value = evaluate(*expression.parts[i + 1]);
    insert(budget_, items, std::move(key), std::move(value));
  }
  return make_dict(budget_, std::move(items));
}

Value Renderer::concatenation(const Expression& expression) {
  TextBuilder out(budget_);
  for (const ExpressionPtr& part : expression.parts) append_text(out, evaluate(*part));
  return make_string(out.take());
}

Value Renderer::unary(const Expression& expression) {
  const Value value = evaluate(*expression.parts[0]);
  const bool negates = expression.kind == ExpressionKind::minus;
  if (const auto* none = value.get<Undefined>()) fail_undefined(*none);
  if (negates && value.is<double>()) return -*value.get<double>();
  if (negates) return binary("-", std::int64_t{0}, value);
  if (const auto whole = value.integer()) return *whole;
  if (value.number()) return value;
  fail("+", "a number", "a '" + std::string(type_name(value)) + "'");
}

Value Renderer::comparison(const Expression& expression) {
  Value left = evaluate(*expression.parts[0]);
  for (std::size_t i = 0; i < expression.signs.size(); ++i) {
    Value right = evaluate(*expression.parts[i + 1]);
    const std::string& sign = expression.signs[i];
    bool holds = false;
    if (sign == "==" || sign == "!=") {
      holds = equals(budget_, left, right) == (sign == "==");
    } else if (sign == "in" || sign == "not in") {
      holds = contains(budget_, right, left) == (sign == "in");
    } else {
      const int order = compare(budget_, left, right, sign);
      holds = sign == "<"    ? order < 0
              : sign == "<=" ? order <= 0
              : sign == ">"  ? order > 0
                             : order >= 0;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Renderer::slice(const Expression& expression) {
  const Value object = evaluate(*expression.parts[0]);
  std::optional<std::int64_t> bounds[3];
  for (std::size_t i = 0; i < 3; ++i) {
    if (expression.parts[i + 1] == nullptr) continue;
    const Value value = evaluate(*expression.parts[i + 1]);
    if (value.is_none()) continue;
    bounds[i] = value.integer();
    if (!bounds[i]) fail("slice", "whole numbers", "a '" + std::string(type_name(value)) + "'");
  }
  if (const auto* none = object.get<Undefined>()) fail_undefined(*none);
  const List* list = object.list();
  if (object.string() == nullptr && (list == nullptr || !list->is_sequence())) {
    fail("slice", "a list or a string", "a '" + std::string(type_name(object)) + "'");
  }
  const std::int64_t step = bounds[2].value_or(1);
  if (step == 0) fail("slice", "a step that is not zero", "0");
  const auto size = static_cast<std::int64_t>(length(budget_, object));
  // As Python clips them.
  const auto clip = [&](std::int64_t bound) {
    const std::int64_t least = step < 0 ? -1 : 0;
    if (bound < 0) return std::max(bound + size, least);
    return std::min(bound, step < 0 ? size - 1 : size);
  };
  const std::int64_t begin = bounds[0] ? clip(*bounds[0]) : step < 0 ? size - 1 : 0;
  const std::int64_t end = bounds[1] ? clip(*bounds[1]) : step < 0 ? -1 : size;
  if (const String* text = object.string(); text != nullptr && step == 1) {
    const std::size_t first = byte_of(text->bytes, static_cast<std::size_t>(begin));
    const std::size_t last = byte_of(text->bytes, static_cast<std::size_t>(std::max(begin, end)));
    budget_.step(text->bytes.size() / 64);
    return make_part(budget_, *text, first, last);
  }
  const std::vector<Value> items = elements(budget_, object);
  std::vector<Value> chosen;
  for (std::int64_t i = begin; step > 0 ? i < end : i > end;) {
    chosen.push_back(items[static_cast<std::size_t>(i)]);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  if (list != nullptr) return make_list(budget_, std::move(chosen), list->kind);
  TextBuilder out(budget_);
  for (const Value& character : chosen) out.append(*character.string());
  return make_string(out.take());
}

Arguments Renderer::evaluate_arguments(const WrittenArguments& written) {
  Arguments arguments;
  for (const ExpressionPtr& part : written.positional) {
    arguments.positional.push_back(evaluate(*part));
  }
  if (written.list != nullptr) {
    for (Value& value : elements(budget_, evaluate(*written.list))) {
      arguments.positional.push_back(std::move(value));
    }
  }
  for (const auto& [name, part] : written.named) {
    arguments.named.push_back({name, evaluate(*part)});
  }
  if (written.names != nullptr) {
    const Value names = evaluate(*written.names);
    if (names.dict() == nullptr) {
      fail("call", "a dict behind '**'", "a '" + std::string(type_name(names)) + "'");
    }
    for (const auto& [name, value] : names.dict()->items) {
      if (name.string() == nullptr) fail("call", "names that are strings", "others");
      arguments.named.push_back({name.string()->bytes, value, !name.string()->marks.empty()});
    }
  }
  for (std::size_t i = 0; i < arguments.named.size(); ++i) {
    budget_.step(i / 8);
    for (std::size_t j = 0; j < i; ++j) {
      if (arguments.named[i].name == arguments.named[j].name) {
        fail("call", "every argument once",
             json_text(std::string(arguments.named[i].name)) + " twice");
      }
    }
  }
  return arguments;
}

Value Renderer::evaluate_call(const Expression& expression, const Value* caller) {
  const Value function = evaluate(*expression.parts[0]);
  Arguments arguments = evaluate_arguments(*expression.arguments);
  if (caller != nullptr) arguments.named.push_back({"caller", *caller});
  return call(function, arguments);
}

Value Renderer::evaluate_filter(const Expression& expression, const Value* subject) {
  const Value value = subject != nullptr ? *subject : evaluate(*expression.parts[0]);
  const Arguments arguments = evaluate_arguments(*expression.arguments);
  if (expression.function == nullptr) {
    // Templates ask for filters that only some programs have where they know that they are there.
    const bool is_test = expression.kind == ExpressionKind::test;
    fail_unsupported((is_test ? "the test '" : "the filter '") + expression.name + "'",
                     expression.line);
  }
  return expression.function(*this, value, arguments);
}

Value Renderer::call(const Value& function, const Arguments& arguments) {
  const Level level(*this);
  if (const auto* none = function.get<Undefined>()) fail_undefined(*none);
  if (const auto* loop = function.get<LoopPtr>()) {
    const Parameters given("loop", arguments, {"iterable"}, 1);
    return loop_again(**loop, *given[0]);
  }
  const Callable* callable = function.callable();
  if (callable == nullptr) {
    fail("call", "a function", "a '" + std::string(type_name(function)) + "'");
  }
  if (callable->macro != nullptr) return call_macro(*callable, arguments);
  return callable->function(*this, callable->self, arguments);
}

Value Renderer::call_macro(const Callable& callable, const Arguments& arguments) {
  const MacroNode& macro = *callable.macro;
  const Scope scope(*this, callable.frame.lock());
  bind_parameters(macro, arguments, *frame_);
  return make_string(run_to_text(macro.body));
}

void Renderer::bind_parameters(const MacroNode& macro, const Arguments& arguments, Frame& frame) {
  const std::size_t count = macro.parameters.size();
  const auto& positional = arguments.positional;
  const std::string name = "macro '" + macro.name + "'";
  if (positional.size() > count && !macro.uses_varargs) {
    fail(name, "at most " + std::to_string(count) + " arguments",
         std::to_string(positional.size()));
  }
  std::vector<std::pair<Value, Value>> others;
  Value caller = undefined("no caller defined");
  std::vector<const Value*> given(count, nullptr);
  for (std::size_t i = 0; i < std::min(count, positional.size()); ++i) given[i] = &positional[i];
  for (const auto& [key, value, is_marked] : arguments.named) {
    const auto at = std::find(macro.parameters.begin(), macro.parameters.end(), key);
    const auto i = static_cast<std::size_t>(at - macro.parameters.begin());
    if (at != macro.parameters.end() && given[i] == nullptr) {
      given[i] = &value;
    } else if (at == macro.parameters.end() && key == "caller" && macro.uses_caller) {
      caller = value;
    } else if (at == macro.parameters.end() && macro.uses_kwargs) {
      others.emplace_back(make_string(key, is_marked), value);
    } else {
      fail(name, "arguments that it has, once each", json_text(std::string(key)));
    }
  }
  const std::size_t first_default = count - macro.defaults.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::string& parameter = macro.parameters[i];
    if (given[i] != nullptr) {
      frame.set(parameter, *given[i]);
    } else if (i >= first_default) {
      frame.set(parameter, evaluate(*macro.defaults[i - first_default]));
    } else {
      frame.set(parameter, undefined("parameter '" + parameter + "' was not provided"));
    }
  }
  if (macro.uses_caller && std::find(macro.parameters.begin(), macro.parameters.end(), "caller") ==
                               macro.parameters.end()) {
    frame.set("caller", caller);
  }
  if (macro.uses_kwargs) frame.set("kwargs", make_dict(budget_, std::move(others)));
  if (macro.uses_varargs) {
    std::vector<Value> rest;
    if (positional.size() > count) {
      rest.assign(positional.begin() + static_cast<std::ptrdiff_t>(count), positional.end());
    }
    frame.set("varargs", make_list(budget_, std::move(rest), List::Kind::tuple));
  }
}

Value Renderer::apply(bool is_test, const Value& subject, const Value& name,
                      const Arguments& arguments) {
  budget_.step();
  if (name.string() == nullptr) {
    fail(is_test ? "test" : "filter", "its name", "a '" + std::string(type_name(name)) + "'");
  }
  const std::string& text = name.string()->bytes;
  const FilterFunction function = is_test ? find_test(text) : find_filter(text);
  if (function == nullptr) {
    fail_unsupported((is_test ? "the test " : "the filter ") + json_text(std::string(text)));
  }
  return function(*this, subject, arguments);
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
