#include "io/partial_folder.hpp"

#include <filesystem>
#include <system_error>

namespace krait {
inline namespace v0_1 {

std::string partial_folder(std::string destination) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_directory(destination, error)) {
    const fs::path name = fs::canonical(destination, error);
    if (!error) destination = name.string();
  }
  while (destination.size() > 1 && destination.ends_with('/')) destination.pop_back();
  return destination + ".partial";
}

}  // namespace v0_1
}  // namespace krait
