#pragma once

/// \file
/// WeightStore: named tensors, and whatever keeps their bytes alive.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// Tensors by name, with shared ownership of the files or blocks behind them. A copy shares both.
class WeightStore {
 public:
  struct Entry {
    TensorView tensor;
    std::string file;  ///< where it came from, for messages; may be empty
  };

  /// A tensor that the checkpoint has but krait cannot hold: its type is unknown here, or it has
  /// too many axes. Only a model that needs it is refused.
  struct Unreadable {
    std::string what;  ///< type and shape, for messages: "F8_E4M3 [4,4]"
    std::string file;  ///< where it is, for messages; may be empty
  };

  /// Adds a tensor whose bytes live as long as `owner`. A name that exists is replaced.
  void add(std::string name, TensorView tensor, std::shared_ptr<const void> owner,
           std::string file = {}) {
    keep(std::move(owner));
    unreadable_.erase(name);
    entries_.insert_or_assign(std::move(name), Entry{tensor, std::move(file)});
  }

  /// Notes that there is a tensor of that name, which cannot be used. A name that exists is
  /// replaced.
  void add_unreadable(std::string name, Unreadable tensor) {
    entries_.erase(name);
    unreadable_.insert_or_assign(std::move(name), std::move(tensor));
  }

  /// Takes the tensor of that name out, if there is one. Its bytes stay for the others' sake.
  void remove(const std::string& name) {
    entries_.erase(name);
    unreadable_.erase(name);
  }

  /// Keeps `owner` alive as long as this store and its copies.
  void keep(std::shared_ptr<const void> owner) {
    if (owner != nullptr && (owners_.empty() || owners_.back() != owner)) {
      owners_.push_back(std::move(owner));
    }
  }

  /// The entry with that name, or null.
  const Entry* find(std::string_view name) const {
    const auto it = entries_.find(name);
    return it == entries_.end() ? nullptr : &it->second;
  }

  bool contains(std::string_view name) const { return find(name) != nullptr; }
  std::size_t size() const noexcept { return entries_.size(); }

  /// All entries, by name.
  const std::map<std::string, Entry, std::less<>>& entries() const noexcept { return entries_; }

  /// Those that cannot be used, by name; `find` and `size` leave them out.
  const std::map<std::string, Unreadable, std::less<>>& unreadable() const noexcept {
    return unreadable_;
  }

  /// What keeps the bytes alive.
  const std::vector<std::shared_ptr<const void>>& owners() const noexcept { return owners_; }

  /// Free-form strings of the checkpoint (the `__metadata__` of safetensors).
  std::map<std::string, std::string, std::less<>> metadata;

 private:
  std::map<std::string, Entry, std::less<>> entries_;
  std::map<std::string, Unreadable, std::less<>> unreadable_;
  std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace v0_1
}  // namespace krait
