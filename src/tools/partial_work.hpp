#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/io/safetensors.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// The finished pieces of work that is under way: in a folder, DST.partial beside DST, where
/// interrupted work goes on, or in memory, with which they end. Copies share them.
class PartialWork {
 public:
  using Metadata = std::map<std::string, std::string, std::less<>>;

  /// The folder beside `destination`, for the work that `key` describes, which this object has
  /// alone as long as it lives. `area` is for messages. Errors: bad_argument (a folder with the
  /// work of another call, or that another process works in), io_failed.
  static Result<PartialWork> open(std::string_view area, const std::string& destination,
                                  const std::string& key);
  static PartialWork in_memory();

  /// The piece of that name, if it is there and whole.
  std::optional<WeightStore> read(const std::string& name) const;
  Result<void> write(const std::string& name, std::vector<NamedTensor> tensors,
                     Metadata metadata = {}) const;

  /// Whether a later call can go on with it.
  bool is_resumable() const noexcept { return memory_ == nullptr; }

  /// Where it is, for messages.
  const std::string& folder() const { return folder_; }
  void remove() const;

 private:
  std::string path_of(const std::string& name) const;
  Result<void> lock(std::string_view area);

  std::string folder_;
  std::shared_ptr<const int> lock_;                             // a descriptor
  std::shared_ptr<std::map<std::string, WeightStore>> memory_;  // pieces by name; null: a folder
};

/// Copies a tensor of a piece to `values`; whether it is there, of this type and size.
bool copy_tensor(const WeightStore& piece, const std::string& name, DType dtype,
                 std::span<std::byte> values);

}  // namespace v0_1
}  // namespace krait
