#include "krait/io/bundled_model.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <set>

namespace krait::inline v0_1 {
namespace {

namespace fs = std::filesystem;

bool is_model(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_regular_file(folder / "config.json", ignored);
}

}  // namespace

std::vector<std::string> bundled_model_places() {
  std::vector<std::string> places;
  std::error_code failed;
  const fs::path program = fs::read_symlink("/proc/self/exe", failed);
  if (!failed) {
    places.push_back((program.parent_path().parent_path() / "share/krait/models").string());
  }
  for (const char* place : {KRAIT_INSTALLED_MODELS, KRAIT_SOURCE_MODELS}) {
    if (places.empty() || places.back() != place) places.emplace_back(place);
  }
  return places;
}

Result<std::string> bundled_model_path(std::string_view name) {
  std::set<std::string> known;
  for (const std::string& place : bundled_model_places()) {
    const fs::path folder = fs::path(place) / name;
    if (!name.empty() && name != "." && name != ".." && is_model(folder)) return folder.string();
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(place, failed)) {
      if (is_model(entry.path())) known.insert(entry.path().filename().string());
    }
  }
  return Error{
      ErrorCode::not_found,
      fmt::format("[model] expected a checkpoint or the name of a bundled model ({}), "
                  "found '{}'",
                  known.empty() ? "none is installed" : fmt::format("{}", fmt::join(known, ", ")),
                  name)};
}

}  // namespace krait::inline v0_1
