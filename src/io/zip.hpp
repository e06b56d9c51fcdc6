#pragma once

#include <map>
#include <span>
#include <string>

#include "krait/io/mapped_file.hpp"

namespace krait {
inline namespace v0_1 {

/// The stored (uncompressed) entries of a ZIP archive by name, as spans of the file. Sizes and
/// offsets are those of the central directory, ZIP64 included; entries that lie outside the file,
/// overlap the directory, or are compressed or encrypted are errors.
using ZipEntries = std::map<std::string, std::span<const std::byte>, std::less<>>;
Result<ZipEntries> read_zip(const FileBytes& file);

}  // namespace v0_1
}  // namespace krait
