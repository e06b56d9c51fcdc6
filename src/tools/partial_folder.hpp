#pragma once

#include <string>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// The folder of finished work beside a destination, "DST.partial", where an interrupted call goes
/// on.
class PartialFolder {
 public:
  /// Opens the folder, or makes it, for the work that `key` describes. `area` is for messages.
  /// Errors: bad_argument (a folder with the work of another call), io_failed.
  static Result<PartialFolder> open(const std::string& destination, const std::string& key,
                                    std::string_view area);

  const std::string& path() const noexcept { return path_; }
  void remove() const;

 private:
  std::string path_;
};

}  // namespace v0_1
}  // namespace krait
