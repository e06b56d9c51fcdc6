#include "krait/loading/bundled_model.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <set>
#include <system_error>

#include "io/entries_of.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

bool is_model(const fs::path& folder) {
  std::error_code ignored;
  return fs::is_regular_file(folder / "config.json", ignored);
}

// Adds the names of the models in `place`; a folder that is not there has none.
void list_models(const fs::path& place, std::set<std::string>& names) {
  std::error_code ignored;
  for (const fs::path& entry : entries_of(place, ignored)) {
    if (is_model(entry)) names.insert(entry.filename().string());
  }
}

// Anything but the name of a folder would leave the places that are looked at.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
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
  const std::vector<std::string> places = bundled_model_places();
  std::set<std::string> known;
  for (const std::string& place : places) {
    const fs::path folder = fs::path(place) / (is_plain_name(name) ? name : "");
    if (is_plain_name(name) && is_model(folder)) return folder.string();
    list_models(place, known);
  }
  const std::string names =
      known.empty() ? "none is installed" : fmt::format("{}", fmt::join(known, ", "));
  return Error{ErrorCode::not_found,
               fmt::format("[model] expected a checkpoint or the name of a bundled model ({}), "
                           "found '{}' (looked in {})",
                           names, printable(name), fmt::join(places, ", "))};
}

}  // namespace v0_1
}  // namespace krait
