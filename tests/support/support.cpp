#include "tests/support/support.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <iterator>

#include "krait/core/rng.hpp"

#if defined(__unix__)
#  include <unistd.h>
#endif

namespace krait::test {

std::filesystem::path data_dir() { return KRAIT_TEST_DATA; }

std::filesystem::path bundled_models_dir() {
  return std::filesystem::path(KRAIT_SOURCE_DIR) / "examples" / "models";
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    ADD_FAILURE() << "cannot read " << path;
    return {};
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good()) << "cannot write " << path;
}

TemporaryDirectory::TemporaryDirectory() {
  static std::atomic<int> count{0};
  path_ = std::filesystem::temp_directory_path() /
          ("krait-test-" + std::to_string(getpid()) + "-" + std::to_string(count++));
  std::filesystem::create_directories(path_);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<float> random_floats(Index count, std::uint64_t seed, float scale) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double u = random_uniform({.seed = seed, .position = i});
    values[i] = scale * static_cast<float>(2.0 * u - 1.0);
  }
  return values;
}

}  // namespace krait::test
