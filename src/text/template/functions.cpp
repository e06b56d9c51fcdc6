// What templates call without an object, and the tests of values.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/template/methods.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

constexpr std::int64_t longest_range = 100'000;  // of Jinja's sandbox

Value range(Renderer& renderer, const Value&, const Arguments& arguments) {
  const Parameters given("range", arguments, {"start", "stop", "step"}, 1);
  const bool has_stop = given.has(1);
  const std::int64_t start = has_stop ? given.integer(0, 0) : 0;
  const std::int64_t stop = has_stop ? given.integer(1, 0) : given.integer(0, 0);
  const std::int64_t step = given.integer(2, 1);
  if (step == 0) fail("range", "a step that is not zero", "0");
  std::vector<Value> items;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (std::ssize(items) == longest_range) fail("range", "at most 100000 numbers", "more");
    items.push_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_list(renderer.budget(), std::move(items), List::Kind::range);
}

std::vector<std::pair<Value, Value>> dict_items(Renderer& renderer, std::string_view name,
                                                const Arguments& arguments) {
  Budget& budget = renderer.budget();
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1) fail(name, "at most 1 argument without a name", "more");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.dict() != nullptr) {
      items = from.dict()->items;
    } else {
      for (const Value& pair : elements(budget, from)) {
        const std::vector<Value> parts = elements(budget, pair);
        if (parts.size() != 2) fail(name, "pairs", std::to_string(parts.size()) + " values");
        insert(budget, items, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [key, value, is_marked] : arguments.named) {
    insert(budget, items, make_string(key, is_marked), value);
  }
  return items;
}

Value dict(Renderer& renderer, const Value&, const Arguments& arguments) {
  return make_dict(renderer.budget(), dict_items(renderer, "dict", arguments));
}

Value make_namespace(Renderer& renderer, const Value&, const Arguments& arguments) {
  const NamespacePtr space = renderer.make_namespace();
  for (auto& [key, value] : dict_items(renderer, "namespace", arguments)) {
    if (key.string() == nullptr || key.string()->bytes.starts_with('_')) {
      fail("namespace", "names without an underscore in front", "another");
    }
    space->items.emplace_back(key.string()->bytes, value);
  }
  return space;
}

Value raise_exception(Renderer& renderer, const Value&, const Arguments& arguments) {
  const Parameters given("raise_exception", arguments, {"message"}, 1);
  const String text = to_text(renderer.budget(), *given[0]);
  throw Failure{ErrorCode::bad_argument,
                "messages: expected what the template takes, found that it refuses them: " +
                    json_text(text.bytes.substr(0, 400))};
}

// What strftime makes of a format that is not known before.
std::string format_time(const std::string& format, const std::tm& time) {
  // A mark in front tells the empty text from one that was too long.
  std::string text(256, '\0');
  for (;;) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const std::size_t count =
        std::strftime(text.data(), text.size(), ("|" + format).c_str(), &time);
#pragma GCC diagnostic pop
    if (count > 0) return text.substr(1, count - 1);
    if (text.size() > 100 * format.size() + 256) return "";
    text.resize(2 * text.size());
  }
}

// datetime.now().strftime(format), which knows microseconds and no zone.
Value strftime_now(Renderer& renderer, const Value&, const Arguments& arguments) {
  const Parameters given("strftime_now", arguments, {"format"}, 1);
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() %
      1'000'000;
  std::tm local{};
  if (::localtime_r(&seconds, &local) == nullptr) fail("strftime_now", "a time", "none");
  const std::string& format = given.string(0).bytes;
  renderer.budget().allocate(100 * format.size());
  std::string known;
  for (std::size_t i = 0; i < format.size(); ++i) {
    const char next = i + 1 < format.size() ? format[i + 1] : '\0';
    if (format[i] == '\0') fail("strftime_now", "a text without zeros", "one");
    if (format[i] != '%') {
      known += format[i];
    } else if (next == 'f') {
      const std::string digits = std::to_string(micros);
      known += std::string(6 - digits.size(), '0') + digits;
      ++i;
    } else if (next == 'z' || next == 'Z') {
      ++i;
    } else {
      known += '%';
      if (next != '\0') known += format[++i];
    }
  }
  return make_derived(renderer.budget(), format_time(known, local), given.string(0));
}

template <const std::string_view& name>
Value missing(Renderer&, const Value&, const Arguments&) {
  fail_unsupported("the function '" + std::string(name) + "'");
}
constexpr std::string_view cycler = "cycler";
constexpr std::string_view joiner = "joiner";
constexpr std::string_view lipsum = "lipsum";

constexpr Method functions[] = {{"range", range},
                                {"dict", dict},
                                {"namespace", make_namespace},
                                {"raise_exception", raise_exception},
                                {"strftime_now", strftime_now},
                                {cycler, missing<cycler>},
                                {joiner, missing<joiner>},
                                {lipsum, missing<lipsum>}};

const Value& operand(std::string_view name, const Arguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    fail(name, "one argument", std::to_string(arguments.positional.size()));
  }
  return arguments.positional[0];
}

Value is_defined(Renderer&, const Value& v, const Arguments&) { return !v.is_undefined(); }
Value is_undefined(Renderer&, const Value& v, const Arguments&) { return v.is_undefined(); }
Value is_none(Renderer&, const Value& v, const Arguments&) { return v.is_none(); }
Value is_boolean(Renderer&, const Value& v, const Arguments&) { return v.is<bool>(); }
Value is_false(Renderer&, const Value& v, const Arguments&) {
  return v.is<bool>() && !*v.get<bool>();
}
Value is_exactly_true(Renderer&, const Value& v, const Arguments&) {
  return v.is<bool>() && *v.get<bool>();
}
Value is_whole(Renderer&, const Value& v, const Arguments&) { return v.is<std::int64_t>(); }
Value is_real(Renderer&, const Value& v, const Arguments&) { return v.is<double>(); }
Value is_number(Renderer&, const Value& v, const Arguments&) { return v.number().has_value(); }
Value is_string(Renderer&, const Value& v, const Arguments&) { return v.string() != nullptr; }
Value is_mapping(Renderer&, const Value& v, const Arguments&) { return v.dict() != nullptr; }
Value is_callable(Renderer&, const Value& v, const Arguments&) {
  return v.callable() != nullptr || v.is_undefined() || v.is<LoopPtr>();
}
Value is_escaped(Renderer&, const Value& v, const Arguments&) {
  return v.string() != nullptr && v.string()->is_markup;
}
Value is_iterable(Renderer&, const Value& v, const Arguments&) {
  return v.string() != nullptr || v.list() != nullptr || v.dict() != nullptr || v.is_undefined() ||
         v.is<LoopPtr>();
}
Value is_sequence(Renderer&, const Value& v, const Arguments&) {
  return v.string() != nullptr || v.dict() != nullptr || v.is_undefined() ||
         (v.list() != nullptr && v.list()->is_sequence());
}
Value is_lower_text(Renderer& r, const Value& v, const Arguments&) {
  return has_one_case(to_text(r.budget(), v).bytes, false);
}
Value is_upper_text(Renderer& r, const Value& v, const Arguments&) {
  return has_one_case(to_text(r.budget(), v).bytes, true);
}
Value is_equal(Renderer& r, const Value& v, const Arguments& a) {
  return equals(r.budget(), v, operand("eq", a));
}
Value is_unequal(Renderer& r, const Value& v, const Arguments& a) {
  return !equals(r.budget(), v, operand("ne", a));
}
Value is_less(Renderer& r, const Value& v, const Arguments& a) {
  return compare(r.budget(), v, operand("lt", a), "lt") < 0;
}
Value is_at_most(Renderer& r, const Value& v, const Arguments& a) {
  return compare(r.budget(), v, operand("le", a), "le") <= 0;
}
Value is_greater(Renderer& r, const Value& v, const Arguments& a) {
  return compare(r.budget(), v, operand("gt", a), "gt") > 0;
}
Value is_at_least(Renderer& r, const Value& v, const Arguments& a) {
  return compare(r.budget(), v, operand("ge", a), "ge") >= 0;
}
Value is_in(Renderer& r, const Value& v, const Arguments& a) {
  return contains(r.budget(), operand("in", a), v);
}
Value is_same_as(Renderer&, const Value& v, const Arguments& a) {
  return is_same(v, operand("sameas", a));
}
Value is_divisible(Renderer& r, const Value& v, const Arguments& a) {
  return equals(r.budget(), r.binary("%", v, operand("divisibleby", a)), std::int64_t{0});
}
Value is_even(Renderer& r, const Value& v, const Arguments&) {
  return equals(r.budget(), r.binary("%", v, std::int64_t{2}), std::int64_t{0});
}
Value is_odd(Renderer& r, const Value& v, const Arguments&) {
  return equals(r.budget(), r.binary("%", v, std::int64_t{2}), std::int64_t{1});
}
Value is_filter(Renderer&, const Value& v, const Arguments&) {
  return v.string() != nullptr && find_filter(v.string()->bytes) != nullptr;
}
Value is_test(Renderer&, const Value& v, const Arguments&) {
  return v.string() != nullptr && find_test(v.string()->bytes) != nullptr;
}

constexpr Method tests[] = {{"defined", is_defined},
                            {"undefined", is_undefined},
                            {"none", is_none},
                            {"boolean", is_boolean},
                            {"false", is_false},
                            {"true", is_exactly_true},
                            {"integer", is_whole},
                            {"float", is_real},
                            {"number", is_number},
                            {"string", is_string},
                            {"mapping", is_mapping},
                            {"callable", is_callable},
                            {"escaped", is_escaped},
                            {"iterable", is_iterable},
                            {"sequence", is_sequence},
                            {"lower", is_lower_text},
                            {"upper", is_upper_text},
                            {"eq", is_equal},
                            {"equalto", is_equal},
                            {"==", is_equal},
                            {"ne", is_unequal},
                            {"!=", is_unequal},
                            {"lt", is_less},
                            {"lessthan", is_less},
                            {"<", is_less},
                            {"le", is_at_most},
                            {"<=", is_at_most},
                            {"gt", is_greater},
                            {"greaterthan", is_greater},
                            {">", is_greater},
                            {"ge", is_at_least},
                            {">=", is_at_least},
                            {"in", is_in},
                            {"sameas", is_same_as},
                            {"divisibleby", is_divisible},
                            {"even", is_even},
                            {"odd", is_odd},
                            {"filter", is_filter},
                            {"test", is_test}};

template <std::size_t size>
Callable::Function function_in(const Method (&methods)[size], std::string_view name) noexcept {
  const auto* const found = std::find_if(std::begin(methods), std::end(methods),
                                         [&](const Method& method) { return method.name == name; });
  return found == std::end(methods) ? nullptr : found->function;
}

}  // namespace

Callable::Function find_function(std::string_view name) noexcept {
  return function_in(functions, name);
}

FilterFunction find_test(std::string_view name) noexcept { return function_in(tests, name); }

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
