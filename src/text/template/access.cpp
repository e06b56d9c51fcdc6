// Attributes, subscripts and arguments.

#include <algorithm>
#include <charconv>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/template/characters.hpp"
#include "text/template/renderer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {
namespace {

// Methods that would change a value, which the sandbox forbids.
bool is_forbidden(const Value& object, std::string_view name) {
  constexpr std::string_view of_lists[] = {"append", "clear", "pop",    "reverse",
                                           "insert", "sort",  "extend", "remove"};
  constexpr std::string_view of_dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
  const auto has = [name](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  if (object.dict() != nullptr) return has(of_dicts);
  return object.list() != nullptr && object.list()->kind == List::Kind::list && has(of_lists);
}

Value macro_attribute(Renderer& renderer, const Value& object, std::string_view name) {
  const MacroNode& macro = *object.callable()->macro;
  if (name == "name") return make_string(macro.name);
  if (name == "catch_kwargs") return macro.uses_kwargs;
  if (name == "catch_varargs") return macro.uses_varargs;
  if (name == "caller") return macro.uses_caller;
  if (name == "arguments") {
    std::vector<Value> names;
    for (const std::string& parameter : macro.parameters) names.push_back(make_string(parameter));
    return make_list(renderer.budget(), std::move(names), List::Kind::tuple);
  }
  return no_attribute(object, name);
}

// An attribute that is none of a dict's own keys; nothing for one that there is not.
std::optional<Value> own_attribute(Renderer& renderer, const Value& object, std::string_view name) {
  if (name.starts_with("__") || is_forbidden(object, name)) {
    return undefined("access to attribute " + json_text(std::string(name)) + " of '" +
                     std::string(type_name(object)) + "', which the sandbox forbids");
  }
  if (const auto* space = object.get<NamespacePtr>()) {
    for (const auto& [known, value] : (*space)->items) {
      if (known == name) return value;
    }
    return std::nullopt;
  }
  if (const auto* loop = object.get<LoopPtr>()) {
    return (*loop)->attribute(renderer, object, name);
  }
  if (object.callable() != nullptr && object.callable()->macro != nullptr) {
    return macro_attribute(renderer, object, name);
  }
  return find_method(renderer, object, name);
}

// object[key], where there is such a thing.
std::optional<Value> item(Renderer& renderer, const Value& object, const Value& key) {
  if (const Dict* dict = object.dict()) {
    if (!is_hashable(renderer.budget(), key)) return std::nullopt;
    const Value* value = find(renderer.budget(), *dict, key);
    return value == nullptr ? std::nullopt : std::optional(*value);
  }
  const auto whole = key.integer();
  const List* list = object.list();
  const String* text = object.string();
  if (!whole || (text == nullptr && (list == nullptr || !list->is_sequence()))) return std::nullopt;
  const auto size = static_cast<std::int64_t>(length(renderer.budget(), object));
  const std::int64_t index = *whole < 0 ? *whole + size : *whole;
  if (index < 0 || index >= size) return std::nullopt;
  if (list != nullptr) return list->items[static_cast<std::size_t>(index)];
  renderer.budget().step(text->bytes.size() / 64);
  const std::size_t begin = byte_of(text->bytes, static_cast<std::size_t>(index));
  std::size_t end = begin;
  utf8::next(text->bytes, end);
  return make_part(renderer.budget(), *text, begin, end);
}

Value loop_cycle(Renderer&, const Value& self, const Arguments& arguments) {
  const Loop& loop = **self.get<LoopPtr>();
  if (arguments.positional.empty()) fail("loop.cycle", "values to go through", "none");
  const auto count = static_cast<std::int64_t>(arguments.positional.size());
  return arguments.positional[static_cast<std::size_t>(loop.index() % count)];
}

Value loop_changed(Renderer& renderer, const Value& self, const Arguments& arguments) {
  Loop& loop = **self.get<LoopPtr>();
  const bool is_same =
      loop.has_changed &&
      std::equal(loop.changed.begin(), loop.changed.end(), arguments.positional.begin(),
                 arguments.positional.end(),
                 [&](const Value& a, const Value& b) { return equals(renderer.budget(), a, b); });
  if (is_same) return false;
  loop.changed = arguments.positional;
  loop.has_changed = true;
  return true;
}

}  // namespace

bool Loop::fetch(std::size_t count) {
  while (passed_ < count && tested_ < items_.size()) {
    const std::size_t at = tested_++;
    if (test_ && !test_(items_[at])) continue;
    if (passed_ != at) items_[passed_] = items_[at];
    ++passed_;
  }
  return passed_ >= count;
}

const Value* Loop::next() {
  if (!fetch(seen_ + 1)) return nullptr;
  return &items_[seen_++];
}

Value Loop::attribute(Renderer& renderer, const Value& self, std::string_view name) {
  const std::int64_t index = this->index();
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "first") return index == 0;
  if (name == "last") return !fetch(seen_ + 1);
  if (name == "depth") return std::int64_t{depth_} + 1;
  if (name == "depth0") return std::int64_t{depth_};
  if (name == "previtem") {
    return seen_ > 1 ? items_[seen_ - 2] : undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return fetch(seen_ + 1) ? items_[seen_] : undefined("there is no next item");
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    fetch(items_.size());
    const auto length = static_cast<std::int64_t>(passed_);
    return name == "length" ? length : length - index - (name == "revindex" ? 0 : 1);
  }
  if (name == "cycle") return make_method(renderer.budget(), self, name, loop_cycle);
  if (name == "changed") return make_method(renderer.budget(), self, name, loop_changed);
  return no_attribute(self, name);
}

Value Renderer::attribute(const Value& object, std::string_view name) {
  if (const auto* none = object.get<Undefined>()) fail_undefined(*none);
  if (auto value = own_attribute(*this, object, name)) return *std::move(value);
  if (auto value = item(*this, object, make_string(name))) return *std::move(value);
  return no_attribute(object, name);
}

Value Renderer::subscript(const Value& object, const Value& key) {
  if (const auto* none = object.get<Undefined>()) fail_undefined(*none);
  if (auto value = item(*this, object, key)) return *std::move(value);
  if (key.string() != nullptr) {
    if (auto value = own_attribute(*this, object, key.string()->bytes)) return *std::move(value);
    return no_attribute(object, key.string()->bytes);
  }
  TextBuilder out(budget_);
  append_repr(out, key);
  return undefined("'" + std::string(type_name(object)) + " object' has no element " +
                   out.take().bytes.substr(0, 80));
}

Value Renderer::path(const Value& object, const Value& attribute, const Value* fallback) {
  const auto at = [&](const Value& of, const Value& key) {
    Value found = subscript(of, key);
    return found.is_undefined() && fallback != nullptr ? *fallback : found;
  };
  if (attribute.string() == nullptr) return at(object, attribute);
  Value value = object;
  std::string_view rest = attribute.string()->bytes;
  for (;;) {
    const std::size_t end = rest.find('.');
    const std::string_view name = rest.substr(0, end);
    std::int64_t index = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool is_number = !name.empty() && name[0] != '-' && parsed.ec == std::errc() &&
                           parsed.ptr == name.data() + name.size();
    value = at(value, is_number ? Value(index) : make_string(name));
    if (end == std::string_view::npos) return value;
    rest.remove_prefix(end + 1);
  }
}

Parameters::Parameters(std::string_view function, const Arguments& arguments,
                       std::initializer_list<std::string_view> names, std::size_t required)
    : function_(function), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    fail(function, "at most " + std::to_string(names.size()) + " arguments",
         std::to_string(arguments.positional.size()));
  }
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
    values_[i] = &arguments.positional[i];
  }
  for (const auto& [name, value, is_marked] : arguments.named) {
    const auto* const at = std::find(names.begin(), names.end(), name);
    const auto i = static_cast<std::size_t>(at - names.begin());
    if (at == names.end() || values_[i] != nullptr) {
      fail(function, "arguments that it has, once each", json_text(std::string(name)));
    }
    values_[i] = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      fail(function, "the argument '" + std::string(*(names.begin() + i)) + "'", "none");
    }
  }
}

std::int64_t Parameters::integer(std::size_t i, std::int64_t preset) const {
  if (!has(i)) return preset;
  const auto whole = values_[i]->integer();
  if (!whole) {
    if (const auto* none = values_[i]->get<Undefined>()) fail_undefined(*none);
    fail(function_, "a whole number", "a '" + std::string(type_name(*values_[i])) + "'");
  }
  return *whole;
}

const String& Parameters::string(std::size_t i) const {
  const String* text = values_[i]->string();
  if (text == nullptr) {
    if (const auto* none = values_[i]->get<Undefined>()) fail_undefined(*none);
    fail(function_, "a string", "a '" + std::string(type_name(*values_[i])) + "'");
  }
  return *text;
}

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
