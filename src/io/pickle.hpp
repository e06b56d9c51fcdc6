#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "krait/core/error.hpp"

namespace krait::inline v0_1 {

struct PickleValue;
using PickleRef = std::shared_ptr<PickleValue>;

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
  PickleRef id;
};
/// A call that was recorded, not made.
struct PickleCall {
  std::string function;
  PickleRef arguments;
};

struct PickleValue {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, PickleGlobal, PickleTuple,
               PickleList, PickleDict, PickleStorage, PickleCall>
      content;
  int depth = 1;  ///< levels of values below, itself included

  template <class T>
  const T* as() const {
    return std::get_if<T>(&content);
  }
};

/// Reads the pickle of a state dictionary: the operations of protocols 2 and 3 that one needs, and
/// of Python's names only those in `allowed`. Calls are recorded as PickleCall. `name` is for
/// messages.
Result<PickleRef> read_pickle(std::span<const std::byte> bytes,
                              std::span<const std::string_view> allowed, std::string_view name);

}  // namespace krait::inline v0_1
