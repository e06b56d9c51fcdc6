#include <cmath>

#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

[[noreturn]] void fail_operands(std::string_view sign, const Value& a, const Value& b) {
  for (const Value* value : {&a, &b}) {
    if (const auto* none = value->get<Undefined>()) fail_undefined(*none);
  }
  fail(sign, "values that it works on",
       "'" + std::string(type_name(a)) + "' and '" + std::string(type_name(b)) + "'");
}

[[noreturn]] void fail_overflow(std::string_view sign) {
  throw Failure{ErrorCode::unsupported, std::string(sign) +
                                            ": expected whole numbers of at most 64 bits, found a "
                                            "larger result"};
}

void check_divisor(std::string_view sign, double divisor) {
  if (divisor == 0.0) fail(sign, "a divisor other than zero", "0");
}

std::int64_t whole_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  while (exponent > 0) {
    if (exponent % 2 == 1 && __builtin_mul_overflow(result, base, &result)) fail_overflow("**");
    exponent /= 2;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) fail_overflow("**");
  }
  return result;
}

Value whole_operation(std::string_view sign, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (sign == "+" || sign == "-" || sign == "*") {
    const bool overflows = sign == "+"   ? __builtin_add_overflow(a, b, &result)
                           : sign == "-" ? __builtin_sub_overflow(a, b, &result)
                                         : __builtin_mul_overflow(a, b, &result);
    if (overflows) fail_overflow(sign);
    return result;
  }
  if (sign == "**") {
    if (b < 0) {
      check_divisor(sign, static_cast<double>(a));
      return std::pow(static_cast<double>(a), static_cast<double>(b));
    }
    return whole_power(a, b);
  }
  check_divisor(sign, static_cast<double>(b));
  if (sign == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (b == -1) {
    if (sign == "%") return std::int64_t{0};
    return whole_operation("-", 0, a);
  }
  // Towards the lower number, with a rest of the divisor's sign.
  std::int64_t quotient = a / b;
  std::int64_t rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    --quotient;
    rest += b;
  }
  return sign == "//" ? quotient : rest;
}

double real_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0.0 && (rest < 0.0) != (b < 0.0)) rest += b;
  return rest == 0.0 ? std::copysign(0.0, b) : rest;
}

Value real_operation(std::string_view sign, double a, double b) {
  if (sign == "+") return a + b;
  if (sign == "-") return a - b;
  if (sign == "*") return a * b;
  if (sign == "**") {
    if (a < 0.0 && std::floor(b) != b) fail_unsupported("a complex number");
    if (a == 0.0 && b < 0.0) check_divisor(sign, a);
    const double result = std::pow(a, b);
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) fail_overflow(sign);
    return result;
  }
  check_divisor(sign, b);
  if (sign == "/") return a / b;
  const double rest = real_modulo(a, b);
  if (sign == "%") return rest;
  double quotient = (a - std::fmod(a, b)) / b;
  if (std::fmod(a, b) != 0.0 && (std::fmod(a, b) < 0.0) != (b < 0.0)) quotient -= 1.0;
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

void append_escaped(TextBuilder& out, const String& text) {
  for (std::size_t i = 0; i < text.bytes.size(); ++i) {
    switch (text.bytes[i]) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      case '"':
        out.append("&#34;");
        break;
      default:
        out.append(text, i, i + 1);
    }
  }
}

Value join(Budget& budget, const String& a, const String& b) {
  TextBuilder out(budget);
  const bool is_markup = a.is_markup || b.is_markup;
  for (const String* text : {&a, &b}) {
    if (is_markup && !text->is_markup) {
      append_escaped(out, *text);
    } else {
      out.append(*text);
    }
  }
  String joined = out.take();
  joined.is_markup = is_markup;
  return make_string(std::move(joined));
}

Value join(Budget& budget, const List& a, const List& b) {
  budget.allocate(a.items.size() * sizeof(Value));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return make_list(budget, std::move(items), a.kind);
}

// Text or a list, so many times.
Value repeat(Budget& budget, const Value& value, std::int64_t times) {
  const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(times, 0));
  const String* text = value.string();
  const std::size_t size = text != nullptr ? text->bytes.size() : value.list()->items.size();
  const std::uint64_t most = budget.bytes / std::max<std::size_t>(size, 1);
  if (size > 0 && count > most) budget.allocate(budget.bytes + 1);
  budget.step(size == 0 ? 0 : count);
  if (text != nullptr) {
    TextBuilder out(budget);
    for (std::uint64_t i = 0; size > 0 && i < count; ++i) out.append(*text);
    return make_string(out.take());
  }
  std::vector<Value> items;
  budget.allocate(size > 0 ? count * size * sizeof(Value) : 0);
  for (std::uint64_t i = 0; size > 0 && i < count; ++i) {
    items.insert(items.end(), value.list()->items.begin(), value.list()->items.end());
  }
  return make_list(budget, std::move(items), value.list()->kind);
}

bool is_repeatable(const Value& value) {
  return value.string() != nullptr ||
         (value.list() != nullptr && value.list()->kind <= List::Kind::tuple);
}

}  // namespace

Value Renderer::binary(std::string_view sign, const Value& a, const Value& b) {
  const auto whole_a = a.integer();
  const auto whole_b = b.integer();
  if (whole_a && whole_b) return whole_operation(sign, *whole_a, *whole_b);
  const auto real_a = a.number();
  const auto real_b = b.number();
  if (real_a && real_b) return real_operation(sign, *real_a, *real_b);
  if (sign == "%" && a.string() != nullptr) return format_percent(*this, *a.string(), b);
  if (sign == "+" && a.string() != nullptr && b.string() != nullptr) {
    return join(budget_, *a.string(), *b.string());
  }
  const List* list_a = a.list();
  const List* list_b = b.list();
  if (sign == "+" && list_a != nullptr && list_b != nullptr && list_a->kind == list_b->kind &&
      list_a->kind <= List::Kind::tuple) {
    return join(budget_, *list_a, *list_b);
  }
  if (sign == "*" && is_repeatable(a) && whole_b) return repeat(budget_, a, *whole_b);
  if (sign == "*" && is_repeatable(b) && whole_a) return repeat(budget_, b, *whole_a);
  fail_operands(sign, a, b);
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
