#include "text/template/value.hpp"

#include <algorithm>
#include <cmath>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

// Containers are destroyed one within the other, and compared so.
constexpr std::uint32_t max_depth = 200;

std::uint32_t depth_of(const Value& value) {
  if (value.list() != nullptr) return value.list()->depth;
  if (value.callable() != nullptr) return value.callable()->depth;
  if (const auto* loop = value.get<LoopPtr>()) return (*loop)->containers();
  return value.dict() != nullptr ? value.dict()->depth : 0;
}

std::uint32_t one_deeper(std::uint32_t depth) {
  if (depth >= max_depth) {
    throw Failure{ErrorCode::unsupported,
                  "value: expected lists and dicts nested at most 200 deep, found more"};
  }
  return depth + 1;
}

template <class T>
int order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

// Order and equality of numbers of both kinds, without rounding a whole one.
int compare_mixed(std::int64_t a, double b) {
  if (std::isnan(b)) return 1;
  if (b >= 0x1p63) return -1;
  if (b < -0x1p63) return 1;
  const double whole = std::floor(b);
  const int result = order(a, static_cast<std::int64_t>(whole));
  return result != 0 ? result : b > whole ? -1 : 0;
}

std::optional<int> compare_numbers(const Value& a, const Value& b) {
  const auto whole_a = a.integer();
  const auto whole_b = b.integer();
  if (whole_a && whole_b) return order(*whole_a, *whole_b);
  const double* real_a = a.get<double>();
  const double* real_b = b.get<double>();
  if (real_a != nullptr && real_b != nullptr) {
    // Not a number equals nothing; no order is true of it (`compare` sees to that).
    return std::isnan(*real_a) || std::isnan(*real_b) ? 1 : order(*real_a, *real_b);
  }
  if (whole_a && real_b != nullptr) return compare_mixed(*whole_a, *real_b);
  if (real_a != nullptr && whole_b) return -compare_mixed(*whole_b, *real_a);
  return std::nullopt;
}

bool same_kind(const List& a, const List& b) {
  return a.kind == b.kind && (a.is_sequence() || a.kind == List::Kind::keys);
}

bool dicts_equal(Budget& budget, const Dict& a, const Dict& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = find(budget, b, key);
    if (other == nullptr || !equals(budget, value, *other)) return false;
  }
  return true;
}

}  // namespace

void fail(std::string_view subject, std::string_view expected, std::string_view found) {
  throw Failure{ErrorCode::bad_format, std::string(subject) + ": expected " +
                                           std::string(expected) + ", found " + std::string(found)};
}

void fail_unsupported(std::string_view construct, std::size_t line) {
  throw Failure{ErrorCode::unsupported,
                "template: expected what this version renders, found " + std::string(construct),
                line};
}

void Budget::step(std::uint64_t count) {
  if (count > steps) {
    throw Failure{ErrorCode::unsupported,
                  "template: expected at most 10000000 steps to render, found more"};
  }
  steps -= count;
}

void Budget::allocate(std::uint64_t count) {
  if (count > bytes) {
    throw Failure{ErrorCode::unsupported,
                  "template: expected at most 256 MiB of values and text, found more"};
  }
  bytes -= count;
}

std::optional<std::int64_t> Value::integer() const noexcept {
  if (const auto* whole = get<std::int64_t>()) return *whole;
  if (const bool* truth = get<bool>()) return *truth ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const noexcept {
  if (const double* real = get<double>()) return *real;
  const auto whole = integer();
  return whole ? std::optional(static_cast<double>(*whole)) : std::nullopt;
}

void TextBuilder::mark(std::size_t begin, std::size_t end) {
  if (begin == end) return;
  std::vector<ByteRange>& marks = text_.marks;
  if (!marks.empty() && marks.back().end == begin) {
    marks.back().end = end;
  } else {
    budget_->allocate(sizeof(ByteRange));
    marks.push_back({begin, end});
  }
}

void TextBuilder::append(std::string_view bytes, bool is_marked) {
  budget_->allocate(bytes.size());
  const std::size_t begin = text_.bytes.size();
  text_.bytes += bytes;
  if (is_marked) mark(begin, text_.bytes.size());
}

void TextBuilder::append(const String& text, std::size_t begin, std::size_t end) {
  const std::size_t at = text_.bytes.size();
  append(std::string_view(text.bytes).substr(begin, end - begin));
  const auto first = std::partition_point(text.marks.begin(), text.marks.end(),
                                          [&](const ByteRange& r) { return r.end <= begin; });
  for (auto range = first; range != text.marks.end() && range->begin < end; ++range) {
    mark(at + std::max(range->begin, begin) - begin, at + std::min(range->end, end) - begin);
  }
}

Value make_string(String text) { return std::make_shared<const String>(std::move(text)); }

Value make_string(std::string_view bytes, bool is_marked) {
  String text{std::string(bytes)};
  if (is_marked && !bytes.empty()) text.marks.push_back({0, bytes.size()});
  return make_string(std::move(text));
}

Value make_part(Budget& budget, const String& text, std::size_t begin, std::size_t end) {
  budget.allocate(sizeof(String));
  TextBuilder out(budget);
  out.append(text, begin, std::max(begin, end));
  return make_string(out.take());
}

Value make_derived(Budget& budget, std::string bytes, const String& from) {
  budget.allocate(sizeof(String) + bytes.size());
  return make_string(bytes, !from.marks.empty());
}

Value make_list(Budget& budget, std::vector<Value> items, List::Kind kind) {
  budget.allocate(sizeof(List) + items.size() * sizeof(Value));
  List list{std::move(items), kind};
  list.depth = container_depth(list.items);
  return std::make_shared<const List>(std::move(list));
}

std::uint32_t container_depth(const std::vector<Value>& items) {
  std::uint32_t depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  return one_deeper(depth);
}

Value make_method(Budget& budget, const Value& self, std::string_view name,
                  Callable::Function function) {
  budget.allocate(sizeof(Callable));
  Callable callable;
  callable.name = name;
  callable.self = self;
  callable.depth = one_deeper(depth_of(self));
  callable.function = function;
  return std::make_shared<const Callable>(std::move(callable));
}

Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> items) {
  budget.allocate(sizeof(Dict) + items.size() * 2 * sizeof(Value));
  Dict dict{std::move(items)};
  std::uint32_t depth = 0;
  for (const auto& [key, value] : dict.items) {
    depth = std::max({depth, depth_of(key), depth_of(value)});
  }
  dict.depth = one_deeper(depth);
  return std::make_shared<const Dict>(std::move(dict));
}

Value from_metadata(Budget& budget, const Metadata& data, bool is_marked) {
  if (const auto truth = data.boolean()) return *truth;
  if (const auto whole = data.integer()) return *whole;
  if (data.whole()) {
    fail("variable", "whole numbers below 9223372036854775808", json_text(data));
  }
  if (const auto real = data.number()) return *real;
  if (data.text() != nullptr) {
    budget.allocate(sizeof(String) + data.text()->size());
    return make_string(*data.text(), is_marked);
  }
  if (data.array() != nullptr) {
    std::vector<Value> items;
    items.reserve(data.size());
    for (const Metadata& item : *data.array()) {
      items.push_back(from_metadata(budget, item, is_marked));
    }
    return make_list(budget, std::move(items));
  }
  if (data.object() != nullptr) {
    std::vector<std::pair<Value, Value>> items;
    items.reserve(data.size());
    for (const auto& [key, value] : *data.object()) {
      budget.allocate(sizeof(String) + key.size());
      items.emplace_back(make_string(key, is_marked), from_metadata(budget, value, is_marked));
    }
    return make_dict(budget, std::move(items));
  }
  return None();
}

std::string_view type_name(const Value& value) noexcept {
  constexpr std::string_view names[] = {"Undefined", "NoneType",  "bool",       "int",
                                        "float",     "str",       "list",       "dict",
                                        "function",  "Namespace", "LoopContext"};
  constexpr std::string_view lists[] = {"list",        "tuple",      "range",    "dict_keys",
                                        "dict_values", "dict_items", "generator"};
  if (value.list() != nullptr) return lists[static_cast<std::size_t>(value.list()->kind)];
  if (value.callable() != nullptr && value.callable()->macro != nullptr) return "Macro";
  return names[value.content().index()];
}

void fail_undefined(const Undefined& value) {
  fail("value", "one that is defined", value.what == nullptr ? "an undefined one" : *value.what);
}

Value undefined(std::string what) {
  return Undefined{std::make_shared<const std::string>(std::move(what))};
}

Value no_attribute(const Value& object, std::string_view name) {
  const std::string type(object.is_none() ? "None" : type_name(object));
  return undefined("'" + type + (object.is_none() ? "" : " object") + "' has no attribute " +
                   json_text(std::string(name)));
}

bool is_true(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (const bool* truth = value.get<bool>()) return *truth;
  if (const auto number = value.number()) return *number != 0.0;
  if (value.string() != nullptr) return !value.string()->bytes.empty();
  if (const List* list = value.list()) {
    return list->kind == List::Kind::generator || !list->items.empty();
  }
  return value.dict() == nullptr || !value.dict()->items.empty();
}

bool is_same(const Value& a, const Value& b) noexcept {
  if (a.content().index() != b.content().index()) return false;
  if (a.list() != nullptr) return a.list() == b.list();
  if (a.dict() != nullptr) return a.dict() == b.dict();
  if (a.callable() != nullptr) return a.callable() == b.callable();
  if (const auto* space = a.get<NamespacePtr>()) return *space == *b.get<NamespacePtr>();
  if (const auto* loop = a.get<LoopPtr>()) return *loop == *b.get<LoopPtr>();
  if (a.string() != nullptr) return a.string()->bytes == b.string()->bytes;
  return a.number() == b.number();
}

bool equals(Budget& budget, const Value& a, const Value& b) {
  budget.step();
  if (const auto order = compare_numbers(a, b)) return *order == 0;
  if (a.content().index() != b.content().index()) return false;
  if (a.string() != nullptr) {
    budget.step(a.string()->bytes.size() / 64);
    return a.string()->bytes == b.string()->bytes;
  }
  if (a.list() != nullptr) {
    if (a.list() == b.list()) return true;
    if (!same_kind(*a.list(), *b.list())) return false;
    return std::equal(a.list()->items.begin(), a.list()->items.end(), b.list()->items.begin(),
                      b.list()->items.end(),
                      [&](const Value& x, const Value& y) { return equals(budget, x, y); });
  }
  if (a.dict() != nullptr) return a.dict() == b.dict() || dicts_equal(budget, *a.dict(), *b.dict());
  return a.is_undefined() || a.is_none() || is_same(a, b);
}

int compare(Budget& budget, const Value& a, const Value& b, std::string_view operation) {
  budget.step();
  for (const Value* value : {&a, &b}) {
    if (const auto* none = value->get<Undefined>()) fail_undefined(*none);
  }
  if (const auto order = compare_numbers(a, b)) return *order;
  if (a.string() != nullptr && b.string() != nullptr) {
    budget.step(a.string()->bytes.size() / 64);
    return order(a.string()->bytes.compare(b.string()->bytes), 0);
  }
  if (a.list() != nullptr && b.list() != nullptr && a.list()->kind == b.list()->kind &&
      a.list()->kind <= List::Kind::tuple) {
    const auto& left = a.list()->items;
    const auto& right = b.list()->items;
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equals(budget, left[i], right[i])) return compare(budget, left[i], right[i], operation);
    }
    return order(left.size(), right.size());
  }
  fail(operation, "values that have an order",
       "'" + std::string(type_name(a)) + "' and '" + std::string(type_name(b)) + "'");
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  if (const String* text = container.string()) {
    if (item.string() == nullptr) {
      if (const auto* none = item.get<Undefined>()) fail_undefined(*none);
      fail("in", "a string to look for in a string", "'" + std::string(type_name(item)) + "'");
    }
    budget.step(text->bytes.size() / 16);
    return find_part(text->bytes, item.string()->bytes, 0) != std::string::npos;
  }
  if (container.dict() != nullptr) return find(budget, *container.dict(), item) != nullptr;
  const std::vector<Value> items = elements(budget, container);
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& value) { return equals(budget, value, item); });
}

bool is_hashable(Budget& budget, const Value& value) {
  budget.step();
  if (value.dict() != nullptr) return false;
  const List* list = value.list();
  if (list == nullptr || list->kind != List::Kind::tuple) {
    return list == nullptr || list->kind == List::Kind::range;
  }
  return std::all_of(list->items.begin(), list->items.end(),
                     [&](const Value& item) { return is_hashable(budget, item); });
}

const Value* find(Budget& budget, const Dict& dict, const Value& key) {
  if (!is_hashable(budget, key)) {
    fail("key", "a value that can be one", "a '" + std::string(type_name(key)) + "'");
  }
  budget.step(dict.items.size() / 8);
  const String* text = key.string();
  for (const auto& [name, value] : dict.items) {
    if (text != nullptr ? name.string() != nullptr && name.string()->bytes == text->bytes
                        : equals(budget, name, key)) {
      return &value;
    }
  }
  return nullptr;
}

void insert(Budget& budget, std::vector<std::pair<Value, Value>>& items, Value key, Value value) {
  if (!is_hashable(budget, key)) {
    fail("key", "a value that can be one", "a '" + std::string(type_name(key)) + "'");
  }
  budget.step(items.size() / 8);
  for (auto& [name, old] : items) {
    if (equals(budget, name, key)) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::move(key), std::move(value));
}

std::vector<Value> elements(Budget& budget, const Value& value) {
  if (const List* list = value.list()) {
    budget.allocate(list->items.size() * sizeof(Value));
    if (list->kind != List::Kind::generator) return list->items;
    if (list->is_used) return {};
    list->is_used = true;
    return list->items;
  }
  std::vector<Value> result;
  if (const Dict* dict = value.dict()) {
    budget.allocate(dict->items.size() * sizeof(Value));
    for (const auto& [key, ignored] : dict->items) result.push_back(key);
  } else if (const String* text = value.string()) {
    budget.step(text->bytes.size());
    for (std::size_t at = 0; at < text->bytes.size();) {
      std::size_t next = at;
      utf8::next(text->bytes, next);
      budget.allocate(sizeof(Value));
      result.push_back(make_part(budget, *text, at, next));
      at = next;
    }
  } else if (!value.is_undefined()) {
    fail("value", "something to go through", "a '" + std::string(type_name(value)) + "'");
  }
  return result;
}

std::size_t length(Budget& budget, const Value& value) {
  if (const String* text = value.string()) {
    budget.step(text->bytes.size() / 64);
    return count_characters(text->bytes);
  }
  if (value.list() != nullptr && value.list()->kind != List::Kind::generator) {
    return value.list()->items.size();
  }
  if (value.dict() != nullptr) return value.dict()->items.size();
  if (value.is_undefined()) return 0;
  fail("length", "a value that has one", "a '" + std::string(type_name(value)) + "'");
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
