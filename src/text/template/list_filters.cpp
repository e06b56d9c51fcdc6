// Filters that go through something, and the table of all filters.

#include <algorithm>

#include "core/utf8.hpp"
#include "text/template/characters.hpp"
#include "text/template/filters.hpp"
#include "text/template/methods.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace filters {
namespace {

Value length_of(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("length", arguments, {});
  return static_cast<std::int64_t>(length(renderer.budget(), value));
}

Value default_of(Renderer&, const Value& value, const Arguments& arguments) {
  const Parameters given("default", arguments, {"default_value", "boolean"});
  const bool is_missing = value.is_undefined() || (given.boolean(1, false) && !is_true(value));
  return is_missing ? given.value(0, make_string("")) : value;
}

Value list_of(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("list", arguments, {});
  return make_list(renderer.budget(), elements(renderer.budget(), value));
}

Value first(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("first", arguments, {});
  const std::vector<Value> items = elements(renderer.budget(), value);
  return items.empty() ? undefined("no first item, the sequence was empty") : items.front();
}

Value last(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("last", arguments, {});
  if (value.list() != nullptr && value.list()->kind == List::Kind::generator) {
    fail("last", "a list", "a 'generator'");
  }
  const std::vector<Value> items = elements(renderer.budget(), value);
  return items.empty() ? undefined("no last item, the sequence was empty") : items.back();
}

Value join(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("join", arguments, {"d", "attribute"});
  Budget& budget = renderer.budget();
  const String between = given.has(0) ? to_text(budget, *given[0]) : String{};
  TextBuilder out(budget);
  bool is_first = true;
  for (const Value& item : elements(budget, value)) {
    if (!is_first) out.append(between);
    is_first = false;
    append_text(out, given.has_value(1) ? renderer.path(item, *given[1]) : item);
  }
  return make_string(out.take());
}

Value reverse(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("reverse", arguments, {});
  std::vector<Value> items = elements(renderer.budget(), value);
  std::reverse(items.begin(), items.end());
  if (value.string() == nullptr) {
    return make_list(renderer.budget(), std::move(items), List::Kind::generator);
  }
  TextBuilder out(renderer.budget());
  for (const Value& character : items) out.append(*character.string());
  return make_string(out.take());
}

// What values are sorted and compared by: strings without regard to case, if so wished.
Value key_of(Renderer& renderer, const Value& value, const Value* attribute, bool has_case) {
  const Value key = attribute == nullptr ? value : renderer.path(value, *attribute);
  if (has_case || key.string() == nullptr) return key;
  return make_derived(renderer.budget(), lower(key.string()->bytes), *key.string());
}

// Sorts items by their keys, as Python's sorted does.
std::vector<Value> sorted_by(Budget& budget, std::vector<std::pair<Value, Value>> keyed,
                             bool is_reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const int order = compare(budget, a.first, b.first, "sort");
    return is_reverse ? order > 0 : order < 0;
  });
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return items;
}

Value sort(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  Budget& budget = renderer.budget();
  std::vector<Value> attributes;
  if (given.has_value(2)) {
    if (given[2]->string() == nullptr) {
      attributes.push_back(*given[2]);
    } else {
      std::string_view rest = given[2]->string()->bytes;
      for (;;) {
        const std::size_t comma = rest.find(',');
        attributes.push_back(make_string(rest.substr(0, comma)));
        if (comma == std::string_view::npos) break;
        rest.remove_prefix(comma + 1);
      }
    }
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : elements(budget, value)) {
    std::vector<Value> keys;
    if (attributes.empty())
      keys.push_back(key_of(renderer, item, nullptr, given.boolean(1, false)));
    for (const Value& attribute : attributes) {
      keys.push_back(key_of(renderer, item, &attribute, given.boolean(1, false)));
    }
    keyed.emplace_back(make_list(budget, std::move(keys)), item);
  }
  return make_list(budget, sorted_by(budget, std::move(keyed), given.boolean(0, false)));
}

Value dictsort(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  Budget& budget = renderer.budget();
  if (value.dict() == nullptr) {
    if (const auto* none = value.get<Undefined>()) fail_undefined(*none);
    fail("dictsort", "a dict", "a '" + std::string(type_name(value)) + "'");
  }
  const std::string by = given.has(1) ? given.string(1).bytes : "key";
  if (by != "key" && by != "value") fail("dictsort", "'key' or 'value' to sort by", "another");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, item] : value.dict()->items) {
    keyed.emplace_back(key_of(renderer, by == "key" ? key : item, nullptr, given.boolean(0, false)),
                       make_list(budget, {key, item}, List::Kind::tuple));
  }
  return make_list(budget, sorted_by(budget, std::move(keyed), given.boolean(2, false)));
}

Value unique(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("unique", arguments, {"case_sensitive", "attribute"});
  Budget& budget = renderer.budget();
  std::vector<std::pair<Value, Value>> seen;
  std::vector<Value> items;
  for (const Value& item : elements(budget, value)) {
    const Value* attribute = given.has_value(1) ? given[1] : nullptr;
    const Value key = key_of(renderer, item, attribute, given.boolean(0, false));
    const std::size_t before = seen.size();
    insert(budget, seen, key, None());
    if (seen.size() > before) items.push_back(item);
  }
  return make_list(budget, std::move(items), List::Kind::generator);
}

Value extreme(Renderer& renderer, std::string_view name, const Value& value,
              const Arguments& arguments, int sign) {
  const Parameters given(name, arguments, {"case_sensitive", "attribute"});
  const Value* attribute = given.has_value(1) ? given[1] : nullptr;
  std::optional<Value> best;
  Value best_key;
  for (const Value& item : elements(renderer.budget(), value)) {
    Value key = key_of(renderer, item, attribute, given.boolean(0, false));
    if (best && compare(renderer.budget(), key, best_key, name) * sign <= 0) continue;
    best = item;
    best_key = std::move(key);
  }
  return best ? *best : undefined("no aggregated item, the sequence was empty");
}

Value least(Renderer& r, const Value& v, const Arguments& a) { return extreme(r, "min", v, a, -1); }
Value most(Renderer& r, const Value& v, const Arguments& a) { return extreme(r, "max", v, a, 1); }

Value sum(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("sum", arguments, {"attribute", "start"});
  Value total = given.value(1, std::int64_t{0});
  if (total.string() != nullptr) fail("sum", "a start that is no string", "a string");
  for (const Value& item : elements(renderer.budget(), value)) {
    total = renderer.binary("+", total, given.has_value(0) ? renderer.path(item, *given[0]) : item);
  }
  return total;
}

Value items_of(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("items", arguments, {});
  std::vector<Value> items;
  if (!value.is_undefined()) {
    if (value.dict() == nullptr) {
      fail("items", "a dict", "a '" + std::string(type_name(value)) + "'");
    }
    for (const auto& [key, item] : value.dict()->items) {
      items.push_back(make_list(renderer.budget(), {key, item}, List::Kind::tuple));
    }
  }
  return make_list(renderer.budget(), std::move(items), List::Kind::generator);
}

Value attribute_of(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("attr", arguments, {"name"}, 1);
  const std::string& name = given.string(0).bytes;
  // Attributes alone, so no keys of a dict.
  if (value.dict() != nullptr && !find_method(renderer, value, name)) {
    return no_attribute(value, name);
  }
  return renderer.attribute(value, name);
}

// Pieces of so many items; the last is filled up, if so wished.
Value batch(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("batch", arguments, {"linecount", "fill_with"}, 1);
  Budget& budget = renderer.budget();
  const std::int64_t size = given.integer(0, 1);
  std::vector<Value> pieces;
  std::vector<Value> piece;
  for (const Value& item : elements(budget, value)) {
    if (std::ssize(piece) == size) {
      pieces.push_back(make_list(budget, std::exchange(piece, {})));
    }
    piece.push_back(item);
  }
  if (!piece.empty()) {
    while (given.has_value(1) && std::ssize(piece) < size) {
      budget.step();
      budget.allocate(sizeof(Value));
      piece.push_back(*given[1]);
    }
    pieces.push_back(make_list(budget, std::move(piece)));
  }
  return make_list(budget, std::move(pieces), List::Kind::generator);
}

// So many pieces of about one size.
Value slice(Renderer& renderer, const Value& value, const Arguments& arguments) {
  const Parameters given("slice", arguments, {"slices", "fill_with"}, 1);
  Budget& budget = renderer.budget();
  const std::vector<Value> items = elements(budget, value);
  const std::int64_t count = given.integer(0, 1);
  if (count < 1) fail("slice", "at least one piece", std::to_string(count));
  budget.allocate(static_cast<std::uint64_t>(count) * sizeof(List));
  const std::int64_t size = std::ssize(items) / count;
  const std::int64_t longer = std::ssize(items) % count;
  std::vector<Value> pieces;
  auto at = items.begin();
  for (std::int64_t i = 0; i < count; ++i) {
    const auto end = at + size + (i < longer ? 1 : 0);
    std::vector<Value> piece(at, end);
    if (given.has_value(1) && i >= longer) piece.push_back(*given[1]);
    pieces.push_back(make_list(budget, std::move(piece)));
    at = end;
  }
  return make_list(budget, std::move(pieces), List::Kind::generator);
}

// Of nothing, whatever it is, map and select make nothing.
std::vector<Value> elements_of(Renderer& renderer, const Value& value) {
  return is_true(value) ? elements(renderer.budget(), value) : std::vector<Value>();
}

Arguments behind(const Arguments& arguments, std::size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

Value map(Renderer& renderer, const Value& value, const Arguments& arguments) {
  std::vector<Value> items;
  const std::vector<Value> from = elements_of(renderer, value);
  if (arguments.positional.empty()) {
    const Parameters given("map", arguments, {"attribute", "default"}, 1);
    for (const Value& item : from) {
      items.push_back(renderer.path(item, *given[0], given.has_value(1) ? given[1] : nullptr));
    }
  } else {
    const Arguments rest = behind(arguments, 1);
    for (const Value& item : from) {
      items.push_back(renderer.apply(false, item, arguments.positional[0], rest));
    }
  }
  return make_list(renderer.budget(), std::move(items), List::Kind::generator);
}

// select, reject, selectattr, rejectattr: items whose value (or attribute) passes a test.
Value choose(Renderer& renderer, const Value& value, const Arguments& arguments, bool has_attribute,
             bool wanted) {
  const std::size_t used = has_attribute ? 1 : 0;
  if (arguments.positional.size() < used) fail("selectattr", "the name of an attribute", "none");
  const bool has_test = arguments.positional.size() > used;
  const Arguments rest = has_test ? behind(arguments, used + 1) : Arguments{};
  std::vector<Value> items;
  for (const Value& item : elements_of(renderer, value)) {
    const Value subject = has_attribute ? renderer.path(item, arguments.positional[0]) : item;
    const bool passes = is_true(
        has_test ? renderer.apply(true, subject, arguments.positional[used], rest) : subject);
    if (passes == wanted) items.push_back(item);
  }
  return make_list(renderer.budget(), std::move(items), List::Kind::generator);
}

Value select(Renderer& r, const Value& v, const Arguments& a) {
  return choose(r, v, a, false, true);
}
Value reject(Renderer& r, const Value& v, const Arguments& a) {
  return choose(r, v, a, false, false);
}
Value selectattr(Renderer& r, const Value& v, const Arguments& a) {
  return choose(r, v, a, true, true);
}
Value rejectattr(Renderer& r, const Value& v, const Arguments& a) {
  return choose(r, v, a, true, false);
}

constexpr Method table[] = {{"abs", absolute},
                            {"attr", attribute_of},
                            {"batch", batch},
                            {"capitalize", capitalize_text},
                            {"center", center},
                            {"count", length_of},
                            {"d", default_of},
                            {"default", default_of},
                            {"dictsort", dictsort},
                            {"e", escape},
                            {"escape", escape},
                            {"first", first},
                            {"float", real},
                            {"forceescape", escape_always},
                            {"format", format},
                            {"indent", indent},
                            {"int", whole},
                            {"items", items_of},
                            {"join", join},
                            {"last", last},
                            {"length", length_of},
                            {"list", list_of},
                            {"lower", lower_text},
                            {"map", map},
                            {"max", most},
                            {"min", least},
                            {"reject", reject},
                            {"rejectattr", rejectattr},
                            {"replace", replace},
                            {"reverse", reverse},
                            {"round", round},
                            {"safe", safe},
                            {"select", select},
                            {"selectattr", selectattr},
                            {"slice", slice},
                            {"sort", sort},
                            {"string", string},
                            {"sum", sum},
                            {"title", title_text},
                            {"tojson", tojson},
                            {"trim", trim},
                            {"truncate", truncate},
                            {"unique", unique},
                            {"upper", upper_text},
                            {"urlencode", urlencode},
                            {"wordcount", wordcount}};

}  // namespace
}  // namespace filters

FilterFunction find_filter(std::string_view name) noexcept {
  const auto* const found = std::find_if(std::begin(filters::table), std::end(filters::table),
                                         [&](const Method& method) { return method.name == name; });
  return found == std::end(filters::table) ? nullptr : found->function;
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
