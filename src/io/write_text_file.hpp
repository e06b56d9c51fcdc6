#pragma once

/// \file
/// The other way of read_text_file.

#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/io/atomic_file.hpp"

namespace krait {
inline namespace v0_1 {

/// Writes a file of text, whole or not at all.
inline Result<void> write_text_file(const std::string& path, std::string_view text) {
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  KRAIT_RETURN_IF_ERROR(file.write(text));
  return file.commit();
}

}  // namespace v0_1
}  // namespace krait
