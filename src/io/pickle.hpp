#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// Values refer to each other freely, in circles too: all of them belong to their Pickle.
struct PickleValue;
using PickleRef = PickleValue*;

/// A name of Python's, such as torch.FloatStorage. Never looked up: krait has no Python.
struct PickleGlobal {
  std::string name;
};
struct PickleTuple {
  std::vector<PickleRef> items;
};
struct PickleList {
  std::vector<PickleRef> items;
};
struct PickleDict {
  std::vector<std::pair<PickleRef, PickleRef>> items;
};
/// A storage, given by the tuple that names it.
struct PickleStorage {
  PickleRef id = nullptr;
};
/// A call that was recorded, not made.
struct PickleCall {
  std::string function;
  PickleRef arguments = nullptr;  ///< a tuple
};

struct PickleValue {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, PickleGlobal, PickleTuple,
               PickleList, PickleDict, PickleStorage, PickleCall>
      content;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&content);
  }
};

struct Pickle {
  std::deque<PickleValue> values;
  PickleRef root = nullptr;
};

/// Reads a pickle: the operations of protocols 2 and 3 that PyTorch's reader of weights has, and of
/// Python's names only those in `allowed`. Calls are recorded as PickleCall, but that of an ordered
/// dictionary, which is a dictionary here. State set on objects is dropped. `name` is for messages.
Result<Pickle> read_pickle(std::span<const std::byte> bytes,
                           std::span<const std::string_view> allowed, std::string_view name);

}  // namespace v0_1
}  // namespace krait
