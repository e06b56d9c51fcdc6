#include "io/pickle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <map>

#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
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
  op_binstring = 'T',
  op_short_binstring = 'U',
  op_binbytes = 'B',
  op_short_binbytes = 'C',
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
  op_empty_set = 0x8f,
  op_additems = 0x90,
  op_proto = 0x80,
};

// A value takes a hundred times the memory of the byte that makes it. The largest state
// dictionaries have some tens of thousands.
constexpr std::size_t max_values = std::size_t{1} << 19U;

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
          std::string_view name)
      : bytes_(bytes), allowed_(allowed), name_(name) {}

  Result<Pickle> run() {
    for (;;) {
      op_at_ = at_;
      if (pickle_.values.size() + copies_ > max_values || marks_.size() > max_values ||
          memo_.size() > max_values) {
        return fail(fmt::format("at most {} values", max_values), "more", ErrorCode::unsupported);
      }
      std::uint64_t op = 0;
      if (!take(1, op)) return truncated();
      if (op == op_stop) {
        if (stack_.size() != 1 || !marks_.empty()) {
          return fail("one value at the end", fmt::to_string(stack_.size()));
        }
        pickle_.root = stack_.back();
        return std::move(pickle_);
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
    pickle_.values.push_back(PickleValue{std::forward<T>(content)});
    stack_.push_back(&pickle_.values.back());
  }

  // Values above the last mark may be popped, none below it.
  std::size_t available() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }

  bool pop(PickleRef& value) {
    if (available() == 0) return false;
    value = stack_.back();
    stack_.pop_back();
    return true;
  }

  bool pop_to_mark(std::vector<PickleRef>& values) {
    if (marks_.empty()) return false;
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    values.assign(begin, stack_.end());
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
      case op_binstring:
      case op_binbytes:
        return text(4);
      case op_short_binunicode:
      case op_short_binstring:
      case op_short_binbytes:
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
        push(std::move(result));
        return {};
      }
      case op_empty_set:
        push(PickleList{});
        return {};
      case op_append: {
        std::vector<PickleRef> items(1);
        if (!pop(items[0])) return underflow();
        return append(std::move(items));
      }
      case op_appends:
      case op_additems: {
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
    ++copies_;
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
    PickleRef arguments = nullptr;
    PickleRef function = nullptr;
    if (!pop(arguments) || !pop(function)) return underflow();
    const auto* name = function->as<PickleGlobal>();
    if (name == nullptr || arguments->as<PickleTuple>() == nullptr) {
      return fail("a call of a name with a tuple", "something else");
    }
    if (name->name == "collections.OrderedDict") return ordered_dict(*arguments);
    push(PickleCall{name->name, arguments});
    return {};
  }

  // A dictionary; what it is made of follows in SETITEMS, or is given as a list of pairs.
  Result<void> ordered_dict(const PickleValue& arguments) {
    const auto& given = arguments.as<PickleTuple>()->items;
    PickleDict dict;
    const auto* pairs = given.size() == 1 ? given[0]->as<PickleList>() : nullptr;
    if (!given.empty() && pairs == nullptr) {
      return fail("an ordered dictionary of pairs", "something else");
    }
    for (std::size_t i = 0; pairs != nullptr && i < pairs->items.size(); ++i) {
      const PickleValue& pair = *pairs->items[i];
      const auto* tuple = pair.as<PickleTuple>();
      const auto* list = pair.as<PickleList>();
      if (tuple == nullptr && list == nullptr) {
        return fail("an ordered dictionary of pairs", "something else");
      }
      const auto& items = tuple != nullptr ? tuple->items : list->items;
      if (items.size() != 2) return fail("an ordered dictionary of pairs", "something else");
      dict.items.emplace_back(items[0], items[1]);
      ++copies_;
    }
    push(std::move(dict));
    return {};
  }

  // State set on an object, such as the _metadata of a state dictionary: dropped.
  Result<void> build() {
    PickleRef state = nullptr;
    if (!pop(state) || available() == 0) return underflow();
    return {};
  }

  Result<void> storage() {
    PickleRef id = nullptr;
    if (!pop(id)) return underflow();
    if (id->as<PickleTuple>() == nullptr) return fail("a tuple that names a storage", "none");
    push(PickleStorage{id});
    return {};
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
    push(std::move(result));
    return {};
  }

  Result<void> append(std::vector<PickleRef> items) {
    if (available() == 0) return underflow();
    auto* list = std::get_if<PickleList>(&stack_.back()->content);
    if (list == nullptr) return fail("a list to append to", "something else");
    list->items.insert(list->items.end(), items.begin(), items.end());
    return {};
  }

  Result<void> set_items(std::vector<PickleRef> items) {
    if (available() == 0) return underflow();
    auto* dict = std::get_if<PickleDict>(&stack_.back()->content);
    if (dict == nullptr || items.size() % 2 != 0) {
      return fail("a dictionary and pairs for it", "something else");
    }
    for (std::size_t i = 0; i < items.size(); i += 2) {
      dict->items.emplace_back(items[i], items[i + 1]);
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  std::span<const std::string_view> allowed_;
  std::string_view name_;
  std::size_t at_ = 0;
  std::size_t op_at_ = 0;
  std::vector<PickleRef> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint64_t, PickleRef> memo_;
  Pickle pickle_;
  std::size_t copies_ = 0;  // places that hold values made before
};

}  // namespace

Result<Pickle> read_pickle(std::span<const std::byte> bytes,
                           std::span<const std::string_view> allowed, std::string_view name) {
  return Machine(bytes, allowed, name).run();
}

}  // namespace v0_1
}  // namespace krait
