#include "io/pickle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "io/printable.hpp"

namespace krait::inline v0_1 {
namespace {

// The operations, by their bytes in the pickle protocol.
enum Op : unsigned char {
  op_mark = '(',
  op_stop = '.',
  op_binput = 'q',
  op_long_binput = 'r',
  op_binget = 'h',
  op_long_binget = 'j',
  op_global = 'c',
  op_reduce = 'R',
  op_build = 'b',
  op_newobj = 0x81,
  op_binpersid = 'Q',
  op_none = 'N',
  op_newtrue = 0x88,
  op_newfalse = 0x89,
  op_binint = 'J',
  op_binint1 = 'K',
  op_binint2 = 'M',
  op_long1 = 0x8a,
  op_binfloat = 'G',
  op_binunicode = 'X',
  op_short_binunicode = 0x8c,
  op_empty_tuple = ')',
  op_tuple = 't',
  op_tuple1 = 0x85,
  op_tuple2 = 0x86,
  op_tuple3 = 0x87,
  op_empty_list = ']',
  op_append = 'a',
  op_appends = 'e',
  op_empty_dict = '}',
  op_dict = 'd',
  op_setitem = 's',
  op_setitems = 'u',
  op_proto = 0x80,
};

// Nesting deeper than any real file would make the destruction of values recurse without a limit.
constexpr int max_depth = 64;

// A value takes a hundred times the memory of the byte that makes it. The largest state
// dictionaries have some tens of thousands.
constexpr std::size_t max_values = std::size_t{1} << 19U;

int depth_of(const PickleValue& value) {
  int depth = 0;
  const auto look = [&](const PickleRef& child) { depth = std::max(depth, child->depth); };
  if (const auto* tuple = value.as<PickleTuple>()) {
    for (const PickleRef& item : tuple->items) look(item);
  } else if (const auto* call = value.as<PickleCall>()) {
    look(call->arguments);
  } else if (const auto* storage = value.as<PickleStorage>()) {
    look(storage->id);
  }
  return depth + 1;
}

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
          std::string_view name)
      : bytes_(bytes), allowed_(allowed), name_(name) {}

  Result<PickleRef> run() {
    for (;;) {
      op_at_ = at_;
      if (values_ > max_values || marks_.size() > max_values || memo_.size() > max_values) {
        return fail(fmt::format("at most {} values", max_values), "more", ErrorCode::unsupported);
      }
      std::uint64_t op = 0;
      if (!take(1, op)) return truncated();
      if (op == op_stop) {
        if (stack_.size() != 1 || !marks_.empty()) {
          return fail("one value at the end", fmt::to_string(stack_.size()));
        }
        return stack_.back();
      }
      KRAIT_RETURN_IF_ERROR(step(static_cast<unsigned char>(op)));
    }
  }

 private:
  Error fail(std::string_view expected, std::string_view found,
             ErrorCode code = ErrorCode::bad_format) const {
    return {code, fmt::format("[pickle] byte {}: expected {}, found {} ({})", op_at_, expected,
                              found, name_)};
  }
  Error truncated() const { return fail("more bytes", "the end"); }
  Error underflow() const { return fail("values on the stack", "too few"); }

  bool take(std::size_t size, std::uint64_t& value) {
    if (size > bytes_.size() - at_) return false;
    value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value |= std::to_integer<std::uint64_t>(bytes_[at_ + i]) << (8 * i);
    }
    at_ += size;
    return true;
  }

  bool take_text(std::size_t size, std::string& text) {
    if (size > bytes_.size() - at_) return false;
    text.assign(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return true;
  }

  bool take_line(std::string& text) {
    const auto rest = bytes_.subspan(at_);
    const auto end = std::find(rest.begin(), rest.end(), std::byte{'\n'});
    if (end == rest.end()) return false;
    const auto size = static_cast<std::size_t>(end - rest.begin());
    take_text(size, text);
    ++at_;
    return true;
  }

  template <class T>
  void push(T&& content) {
    stack_.push_back(std::make_shared<PickleValue>(PickleValue{std::forward<T>(content), 1}));
    stack_.back()->depth = depth_of(*stack_.back());
    ++values_;
  }

  // Values above the last mark may be popped, none below it.
  std::size_t available() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }

  bool pop(PickleRef& value) {
    if (available() == 0) return false;
    value = std::move(stack_.back());
    stack_.pop_back();
    return true;
  }

  bool pop_to_mark(std::vector<PickleRef>& values) {
    if (marks_.empty()) return false;
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    values.assign(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return true;
  }

  Result<void> step(unsigned char op) {
    switch (op) {
      case op_proto:
        return protocol();
      case op_mark:
        marks_.push_back(stack_.size());
        return {};
      case op_binput:
        return put(1);
      case op_long_binput:
        return put(4);
      case op_binget:
        return get(1);
      case op_long_binget:
        return get(4);
      case op_global:
        return global();
      case op_reduce:
      case op_newobj:
        return call();
      case op_build:
        return build();
      case op_binpersid:
        return storage();
      default:
        return literal(op);
    }
  }

  Result<void> literal(unsigned char op) {
    std::uint64_t bits = 0;
    switch (op) {
      case op_none:
        push(std::monostate{});
        return {};
      case op_newtrue:
        push(true);
        return {};
      case op_newfalse:
        push(false);
        return {};
      case op_binint:
        if (!take(4, bits)) return truncated();
        push(std::int64_t{static_cast<std::int32_t>(static_cast<std::uint32_t>(bits))});
        return {};
      case op_binint1:
      case op_binint2:
        if (!take(op == op_binint1 ? 1 : 2, bits)) return truncated();
        push(static_cast<std::int64_t>(bits));
        return {};
      case op_long1:
        return long1();
      case op_binfloat:
        return binfloat();
      case op_binunicode:
        return text(4);
      case op_short_binunicode:
        return text(1);
      default:
        return container(op);
    }
  }

  Result<void> container(unsigned char op) {
    switch (op) {
      case op_empty_tuple:
        push(PickleTuple{});
        return {};
      case op_empty_list:
        push(PickleList{});
        return {};
      case op_empty_dict:
        push(PickleDict{});
        return {};
      case op_tuple1:
        return tuple(1);
      case op_tuple2:
        return tuple(2);
      case op_tuple3:
        return tuple(3);
      case op_tuple: {
        PickleTuple result;
        if (!pop_to_mark(result.items)) return underflow();
        push_tuple(std::move(result));
        return check_depth();
      }
      case op_append: {
        std::vector<PickleRef> items(1);
        if (!pop(items[0])) return underflow();
        return append(std::move(items));
      }
      case op_appends: {
        std::vector<PickleRef> items;
        if (!pop_to_mark(items)) return underflow();
        return append(std::move(items));
      }
      case op_dict: {
        std::vector<PickleRef> items;
        if (!pop_to_mark(items)) return underflow();
        push(PickleDict{});
        return set_items(std::move(items));
      }
      case op_setitem: {
        std::vector<PickleRef> items(2);
        if (!pop(items[1]) || !pop(items[0])) return underflow();
        return set_items(std::move(items));
      }
      case op_setitems: {
        std::vector<PickleRef> items;
        if (!pop_to_mark(items)) return underflow();
        return set_items(std::move(items));
      }
      default:
        return fail("an operation of a state dictionary", fmt::format("operation 0x{:02x}", op),
                    ErrorCode::unsupported);
    }
  }

  Result<void> protocol() {
    std::uint64_t version = 0;
    if (!take(1, version)) return truncated();
    if (version < 2 || version > 3) {
      return fail("protocol 2 or 3", fmt::to_string(version), ErrorCode::unsupported);
    }
    return {};
  }

  Result<void> put(std::size_t size) {
    std::uint64_t index = 0;
    if (!take(size, index)) return truncated();
    if (stack_.empty()) return underflow();
    memo_[index] = stack_.back();
    return {};
  }

  Result<void> get(std::size_t size) {
    std::uint64_t index = 0;
    if (!take(size, index)) return truncated();
    const auto it = memo_.find(index);
    if (it == memo_.end()) return fail("a value in the memo", fmt::format("none at {}", index));
    stack_.push_back(it->second);
    ++values_;
    return {};
  }

  Result<void> global() {
    std::string module;
    std::string object;
    if (!take_line(module) || !take_line(object)) return truncated();
    const std::string full_name = module + "." + object;
    if (std::find(allowed_.begin(), allowed_.end(), full_name) == allowed_.end()) {
      return fail("names of tensors only",
                  fmt::format("'{}', which is refused", printable(full_name)),
                  ErrorCode::unsupported);
    }
    push(PickleGlobal{full_name});
    return {};
  }

  Result<void> call() {
    PickleRef arguments;
    PickleRef function;
    if (!pop(arguments) || !pop(function)) return underflow();
    const auto* name = function->as<PickleGlobal>();
    if (name == nullptr || arguments->as<PickleTuple>() == nullptr) {
      return fail("a call of a name with a tuple", "something else");
    }
    // An ordered dictionary is a dictionary here; what it is made of follows in SETITEMS.
    if (name->name == "collections.OrderedDict" && arguments->as<PickleTuple>()->items.empty()) {
      push(PickleDict{});
      return {};
    }
    push(PickleCall{name->name, std::move(arguments)});
    return check_depth();
  }

  // State set on an object, such as the _metadata of a state dictionary: dropped.
  Result<void> build() {
    PickleRef state;
    if (!pop(state) || available() == 0) return underflow();
    return {};
  }

  Result<void> storage() {
    PickleRef id;
    if (!pop(id)) return underflow();
    if (id->as<PickleTuple>() == nullptr) return fail("a tuple that names a storage", "none");
    push(PickleStorage{std::move(id)});
    return check_depth();
  }

  Result<void> long1() {
    std::uint64_t size = 0;
    std::uint64_t bits = 0;
    if (!take(1, size)) return truncated();
    if (size > 8) return fail("a number of at most 8 bytes", fmt::to_string(size));
    if (!take(size, bits)) return truncated();
    if (size > 0 && size < 8 && ((bits >> (8 * size - 1)) & 1U) != 0) {
      bits |= ~std::uint64_t{0} << (8 * size);  // sign
    }
    push(static_cast<std::int64_t>(bits));
    return {};
  }

  Result<void> binfloat() {
    std::uint64_t bits = 0;
    if (!take(8, bits)) return truncated();
    std::uint64_t swapped = 0;  // stored big-endian
    for (unsigned i = 0; i < 8; ++i) swapped |= ((bits >> (8 * i)) & 0xFFU) << (56 - 8 * i);
    push(std::bit_cast<double>(swapped));
    return {};
  }

  Result<void> text(std::size_t length_size) {
    std::uint64_t size = 0;
    std::string value;
    if (!take(length_size, size) || !take_text(size, value)) return truncated();
    push(std::move(value));
    return {};
  }

  Result<void> tuple(std::size_t size) {
    PickleTuple result;
    result.items.resize(size);
    for (std::size_t i = size; i > 0; --i) {
      if (!pop(result.items[i - 1])) return underflow();
    }
    push_tuple(std::move(result));
    return check_depth();
  }

  static bool is_container(const PickleValue& value) {
    return value.as<PickleList>() != nullptr || value.as<PickleDict>() != nullptr;
  }

  // Lists and dictionaries can be changed after they were put somewhere, and so could come to
  // contain themselves. In a state dictionary the only ones inside something are the empty hooks of
  // tensors; None takes their place.
  void push_tuple(PickleTuple tuple) {
    for (PickleRef& item : tuple.items) {
      if (is_container(*item)) item = std::make_shared<PickleValue>();
    }
    push(std::move(tuple));
  }

  Result<void> append(std::vector<PickleRef> items) {
    if (available() == 0) return underflow();
    auto* list = std::get_if<PickleList>(&stack_.back()->content);
    if (list == nullptr) return fail("a list to append to", "something else");
    for (PickleRef& item : items) {
      if (is_container(*item)) return fail("plain values in a list", "a container");
      list->items.push_back(std::move(item));
    }
    return {};
  }

  Result<void> set_items(std::vector<PickleRef> items) {
    if (available() == 0) return underflow();
    auto* dict = std::get_if<PickleDict>(&stack_.back()->content);
    if (dict == nullptr || items.size() % 2 != 0) {
      return fail("a dictionary and pairs for it", "something else");
    }
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (items[i]->as<std::string>() == nullptr) return fail("text as keys", "something else");
      if (is_container(*items[i + 1]) && !take_as_model(*items[i], items[i + 1])) {
        continue;  // optimiser states and the like
      }
      dict->items.emplace_back(std::move(items[i]), std::move(items[i + 1]));
    }
    return {};
  }

  // Training frameworks save the state dictionary as one entry of several. One such entry is kept:
  // more of them could nest without a limit, or form a circle.
  bool take_as_model(const PickleValue& key, const PickleRef& value) {
    const bool is_dict = value->as<PickleDict>() != nullptr && value != stack_.back();
    if (!is_dict || has_model_ || *key.as<std::string>() != "model") return false;
    return has_model_ = true;
  }

  Result<void> check_depth() const {
    if (stack_.back()->depth > max_depth) {
      return fail(fmt::format("at most {} levels", max_depth), "more");
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  std::span<const std::string_view> allowed_;
  std::string_view name_;
  std::size_t at_ = 0;
  std::size_t op_at_ = 0;
  bool has_model_ = false;
  std::vector<PickleRef> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint64_t, PickleRef> memo_;
  std::size_t values_ = 0;
};

}  // namespace

Result<PickleRef> read_pickle(std::span<const std::byte> bytes,
                              std::span<const std::string_view> allowed, std::string_view name) {
  return Machine(bytes, allowed, name).run();
}

}  // namespace krait::inline v0_1
