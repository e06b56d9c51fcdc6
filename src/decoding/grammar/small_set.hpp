#pragma once

/// \file
/// SmallSet: values in the order in which they came, each once.

#include <algorithm>
#include <cstddef>
#include <unordered_set>
#include <vector>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// A few values are sought one by one, more of them in a table.
template <class T, class Hash>
class SmallSet {
 public:
  /// Whether it was new.
  bool insert(const T& value) {
    constexpr std::size_t few = 32;
    if (values_.size() < few) {
      if (std::ranges::find(values_, value) != values_.end()) return false;
    } else {
      if (table_.empty()) table_.insert(values_.begin(), values_.end());
      if (!table_.insert(value).second) return false;
    }
    values_.push_back(value);
    return true;
  }
  std::size_t size() const noexcept { return values_.size(); }
  const T& operator[](std::size_t i) const noexcept { return values_[i]; }
  const std::vector<T>& values() const noexcept { return values_; }
  void clear() noexcept {
    values_.clear();
    if (!table_.empty()) table_.clear();
  }

 private:
  std::vector<T> values_;
  std::unordered_set<T, Hash> table_;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
