#include "tools/partial_folder.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "krait/io/atomic_file.hpp"
#include "krait/io/mapped_file.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr const char* key_file = "key";

// Whether a call got no further than the folder, killed or on a full device before it had its key.
bool is_only_begun(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(fmt::format("{}.", key_file)) || !name.ends_with(".tmp")) return false;
  }
  return !error;
}

Result<void> write_key(const std::string& path, const std::string& key) {
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  KRAIT_RETURN_IF_ERROR(file.write(key));
  return file.commit();
}

}  // namespace

Result<PartialFolder> PartialFolder::open(const std::string& destination, const std::string& key,
                                          std::string_view area) {
  PartialFolder folder;
  // "name/" means the same folder as "name".
  folder.path_ = destination;
  while (folder.path_.size() > 1 && folder.path_.back() == '/') folder.path_.pop_back();
  folder.path_ += ".partial";
  const std::string path = folder.path_ + "/" + key_file;
  std::error_code error;
  if (fs::exists(folder.path_, error) && !is_only_begun(folder.path_)) {
    const auto found = read_text_file(path, std::size_t{1} << 20U);
    if (!found || *found != key) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[{}] unfinished work: expected that of the same call, found {} "
                               "({}; remove the folder to begin anew)",
                               area, found ? "another's" : "something else", folder.path_)};
    }
    return folder;
  }
  fs::create_directory(folder.path_, error);
  if (error) {
    return Error{ErrorCode::io_failed,
                 fmt::format("[{}] destination: expected a folder to write to, found {} ({})", area,
                             error.message(), folder.path_)};
  }
  if (const Result<void> written = write_key(path, key); !written) {
    fs::remove(folder.path_, error);
    return written.error();
  }
  return folder;
}

void PartialFolder::remove() const {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace v0_1
}  // namespace krait
