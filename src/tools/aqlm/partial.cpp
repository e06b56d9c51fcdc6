#include "tools/aqlm/partial.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <utility>

#include "io/content_checksum.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/safetensors.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

namespace fs = std::filesystem;

template <class T>
bool read(const WeightStore& store, const char* name, DType dtype, std::size_t size,
          std::vector<T>& values) {
  const WeightStore::Entry* entry = store.find(name);
  if (entry == nullptr || entry->tensor.dtype != dtype ||
      static_cast<std::size_t>(entry->tensor.size()) != size) {
    return false;
  }
  values.resize(size);
  std::memcpy(values.data(), entry->tensor.data, size * sizeof(T));
  return true;
}

}  // namespace

Result<PartialWork> PartialWork::open(const std::string& destination, const std::string& key) {
  PartialWork work;
  KRAIT_ASSIGN_OR_RETURN(work.folder_, PartialFolder::open(destination, key, "aqlm"));
  return work;
}

std::string PartialWork::path_of(const std::string& name) const {
  return fmt::format("{}/{}.safetensors", folder(), name);
}

std::optional<AqlmMatrix> PartialWork::load(const std::string& name, const AqlmScheme& scheme,
                                            Index out, Index in) const {
  std::error_code ignored;
  if (!fs::exists(path_of(name), ignored)) return std::nullopt;
  auto file = open_file(path_of(name), WeightsMode::copy);
  if (!file) return std::nullopt;
  WeightStore store;
  if (!read_safetensors(*std::move(file), store)) return std::nullopt;
  AqlmMatrix matrix;
  matrix.scheme = scheme;
  matrix.out = out;
  matrix.in = in;
  const Index codes = out * (in / scheme.in_group) * scheme.codebooks;
  const Index numbers = scheme.codebooks * scheme.codewords() * scheme.in_group;
  if (!read(store, "codes", DType::i16, static_cast<std::size_t>(codes), matrix.codes) ||
      !read(store, "codebooks", DType::f16, static_cast<std::size_t>(numbers), matrix.codebooks) ||
      !read(store, "scales", DType::f16, static_cast<std::size_t>(out), matrix.scales)) {
    return std::nullopt;
  }
  std::vector<NamedTensor> content;
  for (const auto& [part, entry] : store.entries()) content.push_back({part, entry.tensor});
  const auto sum = store.metadata.find(content_checksum_key);
  const auto error = store.metadata.find("error");
  // A damaged file is made again instead of mixed in.
  if (sum == store.metadata.end() || error == store.metadata.end() ||
      sum->second != content_checksum(std::move(content), store.metadata)) {
    return std::nullopt;
  }
  const std::string& text = error->second;
  std::from_chars(text.data(), text.data() + text.size(), matrix.error);
  return matrix;
}

Result<void> PartialWork::save(const std::string& name, const AqlmMatrix& matrix) const {
  const auto tensor = [](const char* part, const auto& values, DType dtype) {
    return NamedTensor{part, {values.data(), dtype, {std::ssize(values)}}};
  };
  const std::vector<NamedTensor> tensors = {tensor("codes", matrix.codes, DType::i16),
                                            tensor("codebooks", matrix.codebooks, DType::f16),
                                            tensor("scales", matrix.scales, DType::f16)};
  std::map<std::string, std::string, std::less<>> metadata = {
      {"error", fmt::format("{}", matrix.error)}};
  metadata.emplace(content_checksum_key, content_checksum(tensors, metadata));
  return write_safetensors(path_of(name), tensors, metadata);
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
