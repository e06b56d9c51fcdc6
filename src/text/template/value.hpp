#pragma once

/// \file
/// Values of templates: those of Python that templates meet, with what is known of where the text
/// in them comes from.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {
namespace jinja {

/// What went wrong: thrown by everything in this folder, and caught where a template is parsed or
/// rendered. `what` is "subject: expected X, found Y".
struct Failure {
  ErrorCode code = ErrorCode::bad_format;
  std::string what = {};
  std::size_t line = 0;  ///< of the template; 0: that of what is being rendered
};

[[noreturn]] void fail(std::string_view subject, std::string_view expected, std::string_view found);
/// What the template language has and this renderer has not.
[[noreturn]] void fail_unsupported(std::string_view construct, std::size_t line = 0);

/// What a rendering may still take. Both are counted up and never given back, so that neither time
/// nor memory grows without end.
struct Budget {
  std::uint64_t steps = 10'000'000;
  std::uint64_t bytes = std::uint64_t{256} << 20U;

  void step(std::uint64_t count = 1);
  void allocate(std::uint64_t count);
};

/// Text and which parts of it came from the variables, ascending and apart. What is derived from
/// such a part is one too: a slice keeps the marks of what it has, a text that was changed
/// throughout (upper, tojson) is marked as a whole where any of it was.
struct String {
  std::string bytes = {};
  std::vector<ByteRange> marks = {};
  bool is_markup = false;  ///< `safe` and `escape`: + escapes what it is joined with
};

struct List;
struct Dict;
struct Callable;
struct Namespace;
class Loop;

struct Undefined {
  std::shared_ptr<const std::string> what = {};  ///< such as "'x' is undefined"
};
struct None {};

using StringPtr = std::shared_ptr<const String>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;
using CallablePtr = std::shared_ptr<const Callable>;
using NamespacePtr = std::shared_ptr<Namespace>;
using LoopPtr = std::shared_ptr<Loop>;

/// A value; containers are shared and never change, but for namespaces.
class Value {
  template <class Pointer>
  const typename Pointer::element_type* pointee() const noexcept {
    const Pointer* pointer = std::get_if<Pointer>(&content_);
    return pointer == nullptr ? nullptr : pointer->get();
  }

 public:
  using Content = std::variant<Undefined, None, bool, std::int64_t, double, StringPtr, ListPtr,
                               DictPtr, CallablePtr, NamespacePtr, LoopPtr>;

  Value() noexcept : content_(None()) {}
  template <class T>
  requires(!std::is_same_v<std::remove_cvref_t<T>, Value>) Value(T&& content)  // NOLINT: converting
      : content_(std::forward<T>(content)) {}

  template <class T>
  const T* get() const noexcept {
    return std::get_if<T>(&content_);
  }
  template <class T>
  bool is() const noexcept {
    return std::holds_alternative<T>(content_);
  }
  bool is_undefined() const noexcept { return is<Undefined>(); }
  bool is_none() const noexcept { return is<None>(); }
  const String* string() const noexcept { return pointee<StringPtr>(); }
  const List* list() const noexcept { return pointee<ListPtr>(); }
  const Dict* dict() const noexcept { return pointee<DictPtr>(); }
  const Callable* callable() const noexcept { return pointee<CallablePtr>(); }
  /// A whole number, as which true and false count as well.
  std::optional<std::int64_t> integer() const noexcept;
  /// Any number.
  std::optional<double> number() const noexcept;

  const Content& content() const noexcept { return content_; }

 private:
  Content content_;
};

/// Whatever Python goes through in order.
struct List {
  enum class Kind { list, tuple, range, keys, values, items, generator };
  std::vector<Value> items = {};
  Kind kind = Kind::list;
  std::uint32_t depth = 1;       ///< of containers in it; limited, since they are destroyed so
  mutable bool is_used = false;  ///< a generator is gone through once

  bool is_sequence() const noexcept { return kind <= Kind::range; }
};

struct Dict {
  std::vector<std::pair<Value, Value>> items = {};  ///< keys are distinct
  std::uint32_t depth = 1;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> items;
};

/// Arguments of a call.
struct Arguments {
  struct Named {
    std::string name;
    Value value;
    bool is_marked = false;  ///< the name is text of the variables, from a dict behind **
  };
  std::vector<Value> positional = {};
  std::vector<Named> named = {};
};

class Renderer;
struct MacroNode;
class Frame;

/// A function, a method with its object, or a macro with the frame it was defined in.
struct Callable {
  using Function = Value (*)(Renderer&, const Value& self, const Arguments&);

  std::string name;
  Value self = {};
  std::uint32_t depth = 0;  ///< of containers in `self`
  Function function = nullptr;
  const MacroNode* macro = nullptr;
  std::weak_ptr<Frame> frame = {};  ///< kept by the renderer; frames hold their macros
};

/// Puts text together.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(&budget) {}

  void append(std::string_view bytes, bool is_marked = false);
  void append(const String& text) { append(text, 0, text.bytes.size()); }
  void append(const String& text, std::size_t begin, std::size_t end);

  std::size_t size() const noexcept { return text_.bytes.size(); }
  String take() noexcept { return std::move(text_); }
  Budget& budget() const noexcept { return *budget_; }

 private:
  void mark(std::size_t begin, std::size_t end);

  Budget* budget_;
  String text_;
};

Value make_string(std::string_view bytes, bool is_marked = false);
Value make_string(String text);
/// A part of a text, in bytes.
Value make_part(Budget& budget, const String& text, std::size_t begin, std::size_t end);
/// Text that was derived from another as a whole.
Value make_derived(Budget& budget, std::string bytes, const String& from);
Value make_list(Budget& budget, std::vector<Value> items, List::Kind kind = List::Kind::list);
Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> items);
Value make_method(Budget& budget, const Value& self, std::string_view name,
                  Callable::Function function);
/// How deep a container of these is nested; fails where it would be so too deep.
std::uint32_t container_depth(const std::vector<Value>& items);
/// A variable of whoever renders; its text is marked, unless it is the template's own.
Value from_metadata(Budget& budget, const Metadata& data, bool is_marked);

/// Python's names of types: "str", "dict", "NoneType".
std::string_view type_name(const Value& value) noexcept;

/// The error that using an undefined value is.
[[noreturn]] void fail_undefined(const Undefined& value);
Value undefined(std::string what);
/// "'dict object' has no attribute 'x'".
Value no_attribute(const Value& object, std::string_view name);

bool is_true(const Value& value);
bool equals(Budget& budget, const Value& a, const Value& b);
bool is_same(const Value& a, const Value& b) noexcept;
/// Below 0, 0 or above; fails where Python has no order. `operation` is for the message.
int compare(Budget& budget, const Value& a, const Value& b, std::string_view operation);
bool contains(Budget& budget, const Value& container, const Value& item);

/// The value of a key, or null. Fails for keys that cannot be any.
const Value* find(Budget& budget, const Dict& dict, const Value& key);
void insert(Budget& budget, std::vector<std::pair<Value, Value>>& items, Value key, Value value);
bool is_hashable(Budget& budget, const Value& value);

/// What a loop goes through: elements, characters, keys. Fails for what cannot be gone through.
std::vector<Value> elements(Budget& budget, const Value& value);
std::size_t length(Budget& budget, const Value& value);

/// str() and repr().
void append_text(TextBuilder& out, const Value& value);
void append_repr(TextBuilder& out, const Value& value);
String to_text(Budget& budget, const Value& value);
/// repr() of a float, as Python 3 writes it.
std::string float_repr(double value);

/// json.dumps.
struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent = {};
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
void append_json(TextBuilder& out, Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace jinja
}  // namespace v0_1
}  // namespace krait
