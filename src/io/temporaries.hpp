#pragma once

/// \file
/// Temporary files and folders beside what they will become, and those that killed writers left.

#include <string>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// A temporary file or folder that is locked (flock) while it is written.
struct Temporary {
  std::string name;     ///< PATH.PID-NUMBER.krait.tmp
  int descriptor = -1;  ///< of it, which holds the lock
};

/// Makes a file, or a folder, with a new name beside `path`. Before that, removes those beside it
/// that earlier writers of the same path left when they were killed: whose process is no more, and
/// which nobody has locked. Where the file system knows no locks, those are left.
/// Of an error, the descriptor is -1 and errno says what it is.
Temporary make_temporary_file(const std::string& path);
KRAIT_API Temporary make_temporary_folder(const std::string& path);

}  // namespace v0_1
}  // namespace krait
