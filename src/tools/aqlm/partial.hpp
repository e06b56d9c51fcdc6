#pragma once

#include <optional>
#include <string>

#include "krait/tools/aqlm.hpp"
#include "tools/partial_folder.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// The folder of finished matrices, in which an interrupted call goes on.
class PartialWork {
 public:
  /// The folder beside `destination`, for the work that `key` describes. Errors: bad_argument (a
  /// folder with the work of another call), io_failed.
  static Result<PartialWork> open(const std::string& destination, const std::string& key);

  /// The matrix of that name, if it is there and whole.
  std::optional<AqlmMatrix> load(const std::string& name, const AqlmScheme& scheme, Index out,
                                 Index in) const;
  Result<void> save(const std::string& name, const AqlmMatrix& matrix) const;

  /// For messages.
  const std::string& folder() const { return folder_.path(); }
  void remove() const { folder_.remove(); }

 private:
  std::string path_of(const std::string& name) const;

  PartialFolder folder_;
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
